"""Notices, written inside the transaction that causes them."""

from __future__ import annotations

from typing import Any

from gateway.ids import new_id
from gateway.postgres.driver import TrioConnection
from gateway.postgres.statements import load
from gateway.work.notices import Notice

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
