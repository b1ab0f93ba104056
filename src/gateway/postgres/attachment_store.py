"""Attachments, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from gateway.core.attachments import Described, FetchProblem
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.tasks.attachments import PlacedAttachment, StoredAttachment
from gateway.work.tasks.ports import ClaimedMessage

_Q = load("attachment.sql", StoredAttachment, PlacedAttachment)


class PostgresAttachmentStore:
    """Implements gateway.work.tasks.attachments.AttachmentStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, rows_max: int) -> list[StoredAttachment]:
        async with self._pool.connection() as conn:
            taken: list[StoredAttachment] = await _Q.take_attachments(conn, rows_max=rows_max)
            return taken

    async def hold(self, attachment_id: UUID) -> None:
        async with self._pool.connection() as conn:
            await _Q.hold_attachment(conn, id=attachment_id)

    async def release(self, attachment_id: UUID) -> None:
        async with self._pool.connection() as conn:
            await _Q.release_attachment(conn, id=attachment_id)

    async def settle_fetched(self, attachment_id: UUID, described: Described, size: int) -> None:
        async with self._pool.connection() as conn:
            await _Q.settle_fetched(
                conn, id=attachment_id, name=described.name, mime_type=described.mime_type, bytes=size
            )

    async def settle_failed(self, attachment_id: UUID, problem: FetchProblem, *, final: bool) -> None:
        async with self._pool.connection() as conn:
            await _Q.settle_failed(conn, id=attachment_id, error=problem.value, final=final)

    async def list_of_task(self, task_id: UUID) -> list[StoredAttachment]:
        async with self._pool.connection() as conn:
            return await _list_of_task(conn, task_id)

    async def find(self, attachment_id: UUID) -> PlacedAttachment | None:
        async with self._pool.connection() as conn:
            found: PlacedAttachment | None = await _Q.get_attachment(conn, id=attachment_id)
            return found

    async def known(self, attachment_ids: Sequence[UUID]) -> set[UUID]:
        async with self._pool.connection() as conn:
            return {row[0] for row in await _Q.known_attachments(conn, ids=list(attachment_ids))}


async def attach_files(
    conn: TrioConnection[Any], task_id: UUID, messages: Sequence[ClaimedMessage]
) -> list[ClaimedMessage]:
    """Return the messages of a task, each with its files attached."""
    files = await _list_of_task(conn, task_id)
    return [
        replace(message, attachments=tuple(file for file in files if file.message_id == message.row_id))
        for message in messages
    ]


async def _list_of_task(conn: TrioConnection[Any], task_id: UUID) -> list[StoredAttachment]:
    files: list[StoredAttachment] = await _Q.list_task_attachments(conn, task_id=task_id)
    return files
