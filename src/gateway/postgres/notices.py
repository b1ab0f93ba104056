"""What the gateway itself says: notices inside the transaction that causes them, and those that only time causes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.replies import Reply, in_every_language
from gateway.ids import new_id
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.tasks.notices import Notice

_Q = load("notice.sql")


async def write_notice(conn: TrioConnection[Any], notice: Notice) -> None:
    """Queue it for the outbox; nothing happens when the message has its reply already."""
    await _Q.queue_notice(
        conn,
        id=new_id(),
        workspace_id=notice.workspace_id,
        installation_id=notice.installation_id,
        session_id=notice.session_id,
        chat_id=notice.chat_id,
        thread_id=notice.thread_id,
        message_id=notice.message_id,
        content=notice.text,
        uuid=str(notice.key),
    )


RECENT_SECONDS = 3600.0
"""A message that has been waiting for longer than this, and the silence limit, is not spoken of by itself any more."""
ABSENCES_MAX = 200
"""Conversations that one statement tells."""


class PostgresAbsences:
    """Tells conversations that their agent went away while a message waits for it. The pool is the caller's."""

    def __init__(self, pool: Pool, *, silent_seconds: float) -> None:
        self._pool = pool
        self._silent = silent_seconds

    async def tell(self) -> int:
        """How many were told. Those that were told of this absence before hear nothing. Raises StoreUnavailable."""
        async with self._pool.connection() as conn:
            told: int = await _Q.tell_absences(
                conn,
                silent_seconds=self._silent,
                recent_seconds=self._silent + RECENT_SECONDS,
                offline_words=_json(in_every_language(Reply.AGENT_OFFLINE)),
                archived_words=_json(in_every_language(Reply.AGENT_ARCHIVED)),
                rows_max=ABSENCES_MAX,
            )
            return told


def _json(words: Mapping[str, str]) -> str:
    return msgspec.json.encode(words).decode()
