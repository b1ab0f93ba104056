"""Files that people sent: for the runtime that works on a task of theirs, and for people who may see them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

import trio
from quart import Quart, Response
from quart.wrappers.response import ResponseBody

from gateway.core.attachments import content_disposition
from gateway.errors import RejectedRequest
from gateway.http.api.tasks import ATTEMPT_MAX
from gateway.http.auth import require_runtime, require_user
from gateway.http.places import PlaceLimits, Places
from gateway.http.query import given, number, takes
from gateway.ids import parse_id
from gateway.work.tasks.attachments import Attachments, OpenedFile, PlacedAttachment, absent
from gateway.work.tasks.tasks import require_attempt

if TYPE_CHECKING:
    from gateway.http.app import People, Services

CHUNK_BYTES = 262_144


def add_routes(app: Quart, services: Services) -> None:
    tasks, attachments = services.tasks, services.attachments

    @app.get("/api/tasks/<id>/attachments/<n>")
    @takes(attempt=number(1, ATTEMPT_MAX))
    async def get_attachment(id: str, n: str) -> Response:
        runtime = await require_runtime()
        task = await tasks.find(runtime, parse_id(id, field="task_id"))
        if (attempt := given("attempt")) is not None:
            require_attempt(task, int(attempt))
        if attachments is None or not (n.isascii() and n.isdigit() and len(n) <= 9):
            raise RejectedRequest(404, "not_found", "no such attachment")
        return _file_response(await attachments.open(await attachments.find_of_task(task.id, int(n))))


def add_people_routes(app: Quart, people: People, attachments: Attachments | None, limits: PlaceLimits) -> None:
    """Without `attachments` nothing can be had, whoever asks."""
    places = Places("downloads", total=limits.downloads, each=limits.downloads_of_person)

    @app.get("/api/attachments/<id>/download")
    async def download_attachment(id: str) -> Response:
        user = await require_user()
        attachment_id = parse_id(id, field="attachment_id")
        if attachments is None:
            absent()
        wanted = await attachments.find(attachment_id)
        await _require_sight(people, wanted, user.user_id)
        places.require(user.user_id)
        response = _file_response(await attachments.open(wanted), places.take(user.user_id))
        # Shown by the browser as a page, it is one of nobody's: no script of it runs, and none in our name.
        response.headers["Content-Security-Policy"] = "sandbox"
        response.headers["Cache-Control"] = "private"
        return response


async def _require_sight(people: People, wanted: PlacedAttachment, user_id: UUID) -> None:
    """Raises RejectedRequest (404) unless they may see what the file belongs to, as if there were no such file.

    An issue is for every member of its workspace, and so is what came with it.
    """
    try:
        if wanted.issue_id is not None:
            await people.directory.membership(str(wanted.workspace_id), user_id)
        else:
            await people.chats.find(wanted.chat_session_id, user_id)
    except RejectedRequest as refusal:
        if refusal.status != 404:
            raise
        absent()


def _file_response(opened: OpenedFile, place: AbstractContextManager[None] | None = None) -> Response:
    """Name and type were checked when they were described; nothing else from outside becomes a header."""
    response = Response("", mimetype=None)
    response.response = FileBody(opened.file, place or nullcontext())
    response.headers["Content-Type"] = opened.described.mime_type
    response.headers["Content-Length"] = str(opened.size)
    response.headers["Content-Disposition"] = content_disposition(opened.described.name)
    response.headers["X-Content-Type-Options"] = "nosniff"
    # A stalled reader is the connection's concern, a slow one may take its time.
    response.timeout = None
    return response


class FileBody(ResponseBody):
    """An open file as the body of an answer, read in threads and closed with it.

    An iterator rather than a generator: one that a client leaves in the middle has nothing to be cleaned up later.
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
