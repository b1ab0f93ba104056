"""The gateway's own notices: those written in the transaction that causes them, and those caused by absence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.replies import Reply, in_every_language
from gateway.ids import new_id
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.tasks.notices import Notice

_SQL = SqlFile("notice.sql")
_QUEUE_NOTICE = _SQL.count("queue_notice")
_TELL_ABSENCES = _SQL.count("tell_absences")


async def write_notice(conn: TrioConnection[Any], notice: Notice) -> None:
    """Queue the notice for the outbox. Does nothing if the message has a reply already."""
    await _QUEUE_NOTICE(
        conn,
        id=new_id(),
        workspace_id=notice.workspace_id,
        installation_id=notice.installation_id,
        session_id=notice.session_id,
        chat_id=notice.chat_id,
        thread_id=notice.thread_id,
        message_id=notice.message_id,
        headed=notice.headed,
        content=notice.text,
        uuid=str(notice.key),
    )


RECENT_SECONDS = 3600.0
"""Waiting messages older than this plus the silence limit cause no notice any more."""
ABSENCES_MAX = 200
"""The most conversations that one statement tells."""


class PostgresAbsences:
    """Tells conversations that their agent is absent while a message waits for it. The caller owns the pool."""

    def __init__(self, pool: Pool, *, silent_seconds: float) -> None:
        self._pool = pool
        self._silent = silent_seconds

    async def tell(self) -> int:
        """Queue the notices and return how many. An absence is told once per conversation. Raises StoreUnavailable."""
        return await _TELL_ABSENCES(
            self._pool,
            silent_seconds=self._silent,
            recent_seconds=self._silent + RECENT_SECONDS,
            offline_words=_json(in_every_language(Reply.AGENT_OFFLINE)),
            archived_words=_json(in_every_language(Reply.AGENT_ARCHIVED)),
            rows_max=ABSENCES_MAX,
        )


def _json(words: Mapping[str, str]) -> str:
    return msgspec.json.encode(words).decode()
