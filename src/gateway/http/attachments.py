"""Files that came with a task's messages, for the runtime that works on it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import trio
from quart import Quart, Response
from quart.wrappers.response import ResponseBody

from gateway.core.attachments import content_disposition
from gateway.errors import RejectedRequest
from gateway.http.auth import require_runtime
from gateway.ids import parse_id
from gateway.work.attachments import OpenedFile

if TYPE_CHECKING:
    from gateway.http.app import Services

CHUNK_BYTES = 262_144


def add_routes(app: Quart, services: Services) -> None:
    tasks, attachments = services.tasks, services.attachments

    @app.get("/api/tasks/<id>/attachments/<n>")
    async def get_attachment(id: str, n: str) -> Response:
        runtime = await require_runtime()
        task = await tasks.find(runtime, parse_id(id, field="task_id"))
        if attachments is None or not (n.isascii() and n.isdigit() and len(n) <= 9):
            raise RejectedRequest(404, "not_found", "no such attachment")
        return _file_response(await attachments.open(task.id, int(n)))


def _file_response(opened: OpenedFile) -> Response:
    """Name and type were checked when they were described; nothing else from outside becomes a header."""
    response = Response("", mimetype=None)
    response.response = FileBody(opened.file)
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

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def __aenter__(self) -> FileBody:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._file.close()

    def __aiter__(self) -> FileBody:
        return self

    async def __anext__(self) -> bytes:
        chunk = await trio.to_thread.run_sync(self._file.read, CHUNK_BYTES)
        if not chunk:
            raise StopAsyncIteration
        return chunk
