"""Attachments, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from gateway.core.attachments import PER_MESSAGE_MAX, Described, FetchProblem, display_name
from gateway.ids import new_id
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.tasks.attachments import HOLD_LOST_SECONDS, PlacedAttachment, StoredAttachment
from gateway.work.tasks.ports import ClaimedMessage

_SQL = SqlFile("attachment.sql")
_TAKE_ATTACHMENTS = _SQL.many("take_attachments", StoredAttachment)
_HOLD_ATTACHMENT = _SQL.count("hold_attachment")
_RELEASE_ATTACHMENT = _SQL.count("release_attachment")
_SETTLE_FETCHED = _SQL.value("settle_fetched", int)
_SETTLE_FAILED = _SQL.value("settle_failed", int)
_LIST_TASK_ATTACHMENTS = _SQL.many("list_task_attachments", StoredAttachment)
_ATTACH_SHARED_FILES = _SQL.count("attach_shared_files")
_GET_ATTACHMENT = _SQL.one_or_none("get_attachment", PlacedAttachment)
_KNOWN_ATTACHMENTS = _SQL.column("known_attachments", UUID)


class PostgresAttachmentStore:
    """Implements gateway.work.tasks.attachments.AttachmentStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, rows_max: int) -> list[StoredAttachment]:
        return await _TAKE_ATTACHMENTS(self._pool, held_seconds=HOLD_LOST_SECONDS, rows_max=rows_max)

    async def hold(self, attachment_id: UUID) -> None:
        await _HOLD_ATTACHMENT(self._pool, id=attachment_id)

    async def release(self, attachment_id: UUID) -> None:
        await _RELEASE_ATTACHMENT(self._pool, id=attachment_id)

    async def settle_fetched(self, attachment_id: UUID, described: Described, size: int) -> None:
        await _SETTLE_FETCHED(
            self._pool, id=attachment_id, name=described.name, mime_type=described.mime_type, bytes=size
        )

    async def settle_failed(self, attachment_id: UUID, problem: FetchProblem, *, final: bool) -> None:
        await _SETTLE_FAILED(self._pool, id=attachment_id, error=problem.value, final=final)

    async def list_of_task(self, task_id: UUID) -> list[StoredAttachment]:
        return await _LIST_TASK_ATTACHMENTS(self._pool, task_id=task_id)

    async def find(self, attachment_id: UUID) -> PlacedAttachment | None:
        return await _GET_ATTACHMENT(self._pool, id=attachment_id)

    async def known(self, attachment_ids: Sequence[UUID]) -> set[UUID]:
        return set(await _KNOWN_ATTACHMENTS(self._pool, ids=list(attachment_ids)))


async def attach_files(
    conn: TrioConnection[Any], task_id: UUID, messages: Sequence[ClaimedMessage]
) -> list[ClaimedMessage]:
    """Return the messages of a task, each with its files attached."""
    files = await _LIST_TASK_ATTACHMENTS(conn, task_id=task_id)
    return [
        replace(message, attachments=tuple(file for file in files if file.message_id == message.row_id))
        for message in messages
    ]


async def attach_shared_files(
    conn: TrioConnection[Any], task_id: UUID, messages: Sequence[ClaimedMessage]
) -> list[ClaimedMessage]:
    """Store the files that the messages of a task share, and return the messages, each with all its files."""
    for message in messages:
        files = list(dict.fromkeys(message.shared))[:PER_MESSAGE_MAX]
        if files and message.row_id is not None:
            await _ATTACH_SHARED_FILES(
                conn,
                ids=[new_id() for _ in files],
                message_id=message.row_id,
                channel_message_ids=[file.message_id for file in files],
                kinds=[file.kind for file in files],
                channel_keys=[file.key for file in files],
                names=[display_name(file.name) for file in files],
                files_max=PER_MESSAGE_MAX,
            )
    return await attach_files(conn, task_id, messages)
