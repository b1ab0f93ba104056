"""The queries of `gateway doctor`, in Postgres."""

from __future__ import annotations

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.checkup import Link, RuntimeHealth, Troubles

_Q = load("doctor.sql", Link, RuntimeHealth, Troubles)


class PostgresCheckup:
    """Reads the state of bots and runtimes, on a pool that the caller owns. Every method may raise StoreUnavailable."""

    def __init__(self, pool: Pool, *, silent_seconds: float) -> None:
        self._pool = pool
        self._silent = silent_seconds

    async def links(self) -> list[Link]:
        """List the links of the active bots."""
        async with self._pool.connection() as conn:
            links: list[Link] = await _Q.list_links(conn)
            return links

    async def runtimes(self) -> list[RuntimeHealth]:
        async with self._pool.connection() as conn:
            runtimes: list[RuntimeHealth] = await _Q.list_runtime_health(conn, silent_seconds=self._silent)
            return runtimes

    async def troubles(self) -> Troubles:
        async with self._pool.connection() as conn:
            troubles: Troubles = await _Q.get_recent_troubles(conn)
            return troubles
