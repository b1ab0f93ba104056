"""The queries of `gateway doctor`, in Postgres."""

from __future__ import annotations

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.checkup import TROUBLE_SECONDS, Link, RuntimeHealth, Troubles

_SQL = SqlFile("doctor.sql")
_LIST_LINKS = _SQL.many("list_links", Link)
_LIST_RUNTIME_HEALTH = _SQL.many("list_runtime_health", RuntimeHealth)
_GET_RECENT_TROUBLES = _SQL.one("get_recent_troubles", Troubles)


class PostgresCheckup:
    """Reads the state of bots and runtimes, on a pool that the caller owns. Every method may raise StoreUnavailable."""

    def __init__(self, pool: Pool, *, silent_seconds: float) -> None:
        self._pool = pool
        self._silent = silent_seconds

    async def links(self) -> list[Link]:
        """List the links of the active bots."""
        return await _LIST_LINKS(self._pool)

    async def runtimes(self) -> list[RuntimeHealth]:
        return await _LIST_RUNTIME_HEALTH(self._pool, silent_seconds=self._silent)

    async def troubles(self) -> Troubles:
        return await _GET_RECENT_TROUBLES(self._pool, recent_seconds=TROUBLE_SECONDS)
