"""Purges, in Postgres."""

from __future__ import annotations

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load

_Q = load("janitor.sql")

ROWS_MAX = 5_000
"""Rows of one purge. What is left over waits for the next one."""


class PostgresJanitorStore:
    """Deletes what is over, on a pool that the caller owns. Each method returns how many rows went."""

    def __init__(self, pool: Pool, *, rows_max: int = ROWS_MAX) -> None:
        self._pool = pool
        self._rows_max = rows_max

    async def purge_inbound_dedup(self, keep_seconds: float = 24 * 3600.0) -> int:
        async with self._pool.connection() as conn:
            rows: int = await _Q.purge_inbound_dedup(conn, keep_seconds=keep_seconds, rows_max=self._rows_max)
            return rows

    async def purge_binding_tokens(self, keep_seconds: float = 3600.0) -> int:
        async with self._pool.connection() as conn:
            rows: int = await _Q.purge_binding_tokens(conn, keep_seconds=keep_seconds, rows_max=self._rows_max)
            return rows

    async def purge_user_sessions(self, keep_seconds: float = 0.0) -> int:
        async with self._pool.connection() as conn:
            rows: int = await _Q.purge_user_sessions(conn, keep_seconds=keep_seconds, rows_max=self._rows_max)
            return rows
