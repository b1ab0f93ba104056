"""Downloads of files that people sent: by the runtime that works on their task, and by people who may see them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import BinaryIO
from uuid import UUID

import trio
from quart import Blueprint, Response
from quart.wrappers.response import ResponseBody

from gateway.core.attachments import content_disposition
from gateway.errors import NotFound
from gateway.http.api.tasks import ATTEMPT_MAX
from gateway.http.auth import Callers
from gateway.http.places import Places
from gateway.http.query import given, number, takes
from gateway.ids import parse_id
from gateway.work.people.directory import Directory
from gateway.work.tasks.attachments import Attachments, OpenedFile, PlacedAttachment, absent
from gateway.work.tasks.chats import ChatService
from gateway.work.tasks.tasks import TaskService, require_attempt

CHUNK_BYTES = 262_144


def task_routes(tasks: TaskService, attachments: Attachments | None, callers: Callers) -> Blueprint:
    """Build the download for runtimes. Without `attachments` every download gives 404."""
    blueprint = Blueprint("task_attachments", __name__)

    @blueprint.get("/api/tasks/<id>/attachments/<n>")
    @takes(attempt=number(1, ATTEMPT_MAX))
    async def get_attachment(id: str, n: str) -> Response:
        runtime = await callers.runtime()
        task = await tasks.find(runtime, parse_id(id, field="task_id"))
        if (attempt := given("attempt")) is not None:
            require_attempt(task, int(attempt))
        if attachments is None or not (n.isascii() and n.isdigit() and len(n) <= 9):
            raise NotFound("not_found", "no such attachment")
        return _file_response(await attachments.open(await attachments.find_of_task(task.id, int(n))))

    return blueprint


def people_routes(
    attachments: Attachments | None, directory: Directory, chats: ChatService, places: Places, callers: Callers
) -> Blueprint:
    """Build the download for people. Without `attachments` every download gives 404."""
    blueprint = Blueprint("attachments", __name__)

    @blueprint.get("/api/attachments/<id>/download")
    async def download_attachment(id: str) -> Response:
        user = await callers.user()
        attachment_id = parse_id(id, field="attachment_id")
        if attachments is None:
            absent()
        wanted = await attachments.find(attachment_id)
        await _require_sight(directory, chats, wanted, user.user_id)
        places.require(user.user_id)
        response = _file_response(await attachments.open(wanted), places.take(user.user_id))
        # A file that the browser shows as a page gets an origin of its own: its scripts do not run, and it cannot act
        # as a page of this server.
        response.headers["Content-Security-Policy"] = "sandbox"
        response.headers["Cache-Control"] = "private"
        return response

    return blueprint


async def _require_sight(directory: Directory, chats: ChatService, wanted: PlacedAttachment, user_id: UUID) -> None:
    """Check that the person may see what the file belongs to.

    Raises NotFound if not, the same as for a file that does not exist. Every member of a workspace may see
    its issues, and the files that came with them.
    """
    try:
        if wanted.issue_id is not None:
            await directory.membership(str(wanted.workspace_id), user_id)
        else:
            await chats.find(wanted.chat_session_id, user_id)
    except NotFound:
        absent()


def _file_response(opened: OpenedFile, place: AbstractContextManager[None] | None = None) -> Response:
    """Build the answer that sends an open file. It takes over the file, and holds `place` while it sends.

    The file's name and type were checked when the file was described. Nothing else from outside becomes a header.
    """
    response = Response("", mimetype=None)
    response.response = FileBody(opened.file, place or nullcontext())
    response.headers["Content-Type"] = opened.described.mime_type
    response.headers["Content-Length"] = str(opened.size)
    response.headers["Content-Disposition"] = content_disposition(opened.described.name)
    response.headers["X-Content-Type-Options"] = "nosniff"
    # No time limit here: a slow client may take its time, and the connection cuts off one that stalls.
    response.timeout = None
    return response


class FileBody(ResponseBody):
    """An open file as the body of an answer, read in threads. The file is closed when the body ends.

    It is an iterator and no generator, because a generator that a client leaves in the middle must be cleaned up later.
    """

    def __init__(self, file: BinaryIO, place: AbstractContextManager[None]) -> None:
        """`place` is held for as long as the body is being sent."""
        self._file = file
        self._place = place

    async def __aenter__(self) -> FileBody:
        try:
            self._place.__enter__()
        except BaseException:
            self._file.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._file.close()
        self._place.__exit__(exc_type, exc_value, tb)

    def __aiter__(self) -> FileBody:
        return self

    async def __anext__(self) -> bytes:
        chunk = await trio.to_thread.run_sync(self._file.read, CHUNK_BYTES)
        if not chunk:
            raise StopAsyncIteration
        return chunk
