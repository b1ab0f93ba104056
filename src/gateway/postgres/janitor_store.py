"""Purges of expired rows, in Postgres."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.channel.installs import SESSION_KEEP_SECONDS
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile

_SQL = SqlFile("janitor.sql")
_PURGE_INBOUND_DEDUP = _SQL.count("purge_inbound_dedup")
_PURGE_HELD_COMMANDS = _SQL.count("purge_held_commands")
_PURGE_BINDING_TOKENS = _SQL.count("purge_binding_tokens")
_PURGE_BINDING_PROMPTS = _SQL.count("purge_binding_prompts")
_PURGE_USER_SESSIONS = _SQL.count("purge_user_sessions")
_PURGE_INSTALL_SESSIONS = _SQL.count("purge_install_sessions")
_PURGE_TYPING = _SQL.count("purge_typing")
_PURGE_OUTBOUND = _SQL.count("purge_outbound")
_PURGE_INBOUND_AUDIT = _SQL.count("purge_inbound_audit")

ROWS_MAX = 5_000
"""The most rows that one statement deletes, so that no statement holds its locks for long."""


class PostgresJanitorStore:
    """Deletes expired rows, on a pool that the caller owns. Each method returns the number of deleted rows.

    A purge runs statement after statement until no expired row is left. With a fixed number of rows per round it would
    never catch up where more rows come in. The caller bounds its time. Rows that were deleted by then stay deleted.
    """

    def __init__(self, pool: Pool, *, rows_max: int = ROWS_MAX) -> None:
        self._pool = pool
        self._rows_max = rows_max

    async def purge_inbound_dedup(self, keep_seconds: float = 24 * 3600.0) -> int:
        return await self._purge(_PURGE_INBOUND_DEDUP, keep_seconds)

    async def purge_held_commands(self, keep_seconds: float = 2 * 3600.0) -> int:
        return await self._purge(_PURGE_HELD_COMMANDS, keep_seconds)

    async def purge_binding_tokens(self, keep_seconds: float = 3600.0) -> int:
        return await self._purge(_PURGE_BINDING_TOKENS, keep_seconds)

    async def purge_binding_prompts(self, keep_seconds: float = 3600.0) -> int:
        return await self._purge(_PURGE_BINDING_PROMPTS, keep_seconds)

    async def purge_user_sessions(self, keep_seconds: float = 0.0) -> int:
        return await self._purge(_PURGE_USER_SESSIONS, keep_seconds)

    async def purge_install_sessions(self, keep_seconds: float = SESSION_KEEP_SECONDS) -> int:
        return await self._purge(_PURGE_INSTALL_SESSIONS, keep_seconds)

    async def purge_typing(self, keep_seconds: float = 24 * 3600.0) -> int:
        return await self._purge(_PURGE_TYPING, keep_seconds)

    async def purge_outbound(self, keep_seconds: float) -> int:
        return await self._purge(_PURGE_OUTBOUND, keep_seconds)

    async def purge_inbound_audit(self, keep_seconds: float) -> int:
        return await self._purge(_PURGE_INBOUND_AUDIT, keep_seconds)

    async def _purge(self, statement: Callable[..., Awaitable[int]], keep_seconds: float) -> int:
        gone = 0
        while True:
            async with self._pool.connection() as conn:
                rows = await statement(conn, keep_seconds=keep_seconds, rows_max=self._rows_max)
            gone += rows
            if rows < self._rows_max:
                return gone
