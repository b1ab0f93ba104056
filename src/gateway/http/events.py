"""A workspace's events as a stream (server-sent events), for pages that stay open.

Each event has its name, and ids as JSON: what a reader may not see it cannot fetch with them either. A stream begins
with `resync`, which says: read what you show anew; it comes again whenever something may have been missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
import trio
from quart import Quart, Response

from gateway.errors import RejectedRequest
from gateway.http.auth import require_user
from gateway.http.places import Places
from gateway.work.directory import Directory
from gateway.work.feed import RESYNC, Feed, Happened, Listener

BEAT_SECONDS = 15.0
"""A comment is sent when nothing happens: it keeps the way open, and the reader's membership is looked at again."""


def add_routes(app: Quart, directory: Directory, feed: Feed, places: Places) -> None:
    @app.get("/api/workspaces/<workspace>/events")
    async def stream_events(workspace: str) -> Response:
        user = await require_user()
        member = await directory.membership(workspace, user.user_id)
        reader = (member.workspace_id, user.user_id)

        async def stream() -> AsyncIterator[bytes]:
            try:
                with places.take(reader), feed.listen(member.workspace_id) as listener:
                    yield as_text(Happened(RESYNC, {}))
                    async for piece in _pieces(listener, directory, member.workspace_id, user.user_id):
                        yield piece
            except RejectedRequest:
                # The last place went while the head of this answer was on its way. The reader comes again, and is told.
                return

        places.require(reader)
        response = Response(stream(), content_type="text/event-stream; charset=utf-8")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # a proxy that collects would make it anything but live
        response.timeout = None
        return response


async def _pieces(listener: Listener, directory: Directory, workspace_id: UUID, user_id: UUID) -> AsyncIterator[bytes]:
    checked_at = trio.current_time()
    while not listener.ended:
        happened = await listener.next(BEAT_SECONDS)
        if trio.current_time() >= checked_at + BEAT_SECONDS:
            checked_at = trio.current_time()
            if not await _is_member(directory, workspace_id, user_id):
                return
        if happened is not None:
            yield as_text(happened)
        elif not listener.ended:
            yield b": still here\n\n"


async def _is_member(directory: Directory, workspace_id: UUID, user_id: UUID) -> bool:
    try:
        await directory.membership(str(workspace_id), user_id)
    except RejectedRequest:
        return False
    return True


def as_text(happened: Happened) -> bytes:
    """One event on the wire. Its JSON is one line, so it needs no further framing."""
    return b"event: %s\ndata: %s\n\n" % (happened.name.encode(), msgspec.json.encode(happened.fields))
