"""Purges of expired rows, in Postgres."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.channel.installs import SESSION_KEEP_SECONDS
from gateway.postgres.pool import Pool
from gateway.postgres.statements import RowCount, SqlFile

_SQL = SqlFile("purge.sql")

ROWS_MAX = 5_000
"""The most rows that one statement deletes, so that no statement holds its locks for long."""


@dataclass(frozen=True, slots=True)
class Purge:
    """Deletes the rows of one kind that are older than `keep_seconds`. The age of a session or token is its end's."""

    name: str
    statement: RowCount
    keep_seconds: float

    async def run(self, pool: Pool, *, rows_max: int = ROWS_MAX) -> int:
        """Run statement after statement until no such row is left. Returns the number of deleted rows.

        With a fixed number of rows per round it would never catch up where more rows come in. The caller bounds its
        time. Rows that were deleted by then stay deleted.
        """
        gone = 0
        while True:
            rows = await self.statement(pool, keep_seconds=self.keep_seconds, rows_max=rows_max)
            gone += rows
            if rows < rows_max:
                return gone


_INBOUND_CLAIMS = _SQL.count("purge_inbound_dedup")
_HELD_COMMANDS = _SQL.count("purge_held_commands")
_BINDING_TOKENS = _SQL.count("purge_binding_tokens")
_BINDING_PROMPTS = _SQL.count("purge_binding_prompts")
_INSTALL_SESSIONS = _SQL.count("purge_install_sessions")
_USER_SESSIONS = _SQL.count("purge_user_sessions")
_OUTBOUND_MESSAGES = _SQL.count("purge_outbound")
_INBOUND_AUDIT = _SQL.count("purge_inbound_audit")
_TYPING = _SQL.count("purge_typing")
_DELIVERIES = _SQL.count("purge_deliveries")


def purges(*, history_days: float, delivery_days: float) -> list[Purge]:
    """List the purges of all kinds of rows. With 0 `delivery_days` the log of deliveries is kept for ever."""
    history, deliveries = history_days * 86_400.0, delivery_days * 86_400.0
    return [
        Purge("inbound_claims", _INBOUND_CLAIMS, 24 * 3600.0),
        Purge("held_commands", _HELD_COMMANDS, 2 * 3600.0),
        Purge("binding_tokens", _BINDING_TOKENS, 3600.0),
        Purge("binding_prompts", _BINDING_PROMPTS, 3600.0),
        Purge("install_sessions", _INSTALL_SESSIONS, SESSION_KEEP_SECONDS),
        Purge("user_sessions", _USER_SESSIONS, 0.0),
        Purge("outbound_messages", _OUTBOUND_MESSAGES, history),
        Purge("inbound_audit", _INBOUND_AUDIT, history),
        Purge("typing", _TYPING, 24 * 3600.0),
        *([Purge("deliveries", _DELIVERIES, deliveries)] if deliveries else []),
    ]
