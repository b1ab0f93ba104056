"""A workspace's events as a stream (server-sent events), for pages that stay open.

Each event has its name, and ids as JSON: what a reader may not see it cannot fetch with them either. A stream begins
with `resync`, which says: read what you show anew; it comes again whenever something may have been missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import msgspec
import trio
from quart import Quart, Response

from gateway.errors import RejectedRequest
from gateway.http.auth import credential_check, require_user
from gateway.http.places import Places
from gateway.work.feed import RESYNC, Feed, Happened, Listener
from gateway.work.people.directory import MEMBER_REMOVED, Directory

BEAT_SECONDS = 15.0
"""A comment is sent when nothing happens: it keeps the way open, and the reader's right is looked at again."""


def add_routes(app: Quart, directory: Directory, feed: Feed, places: Places) -> None:
    @app.get("/api/workspaces/<workspace>/events")
    async def stream_events(workspace: str) -> Response:
        user = await require_user()
        member = await directory.membership(workspace, user.user_id)
        reader = (member.workspace_id, user.user_id)
        signed_in = credential_check()

        async def may_listen() -> bool:
            return await _is_member(directory, member.workspace_id, user.user_id) and await signed_in()

        async def stream() -> AsyncIterator[bytes]:
            try:
                with places.take(reader), feed.listen(member.workspace_id) as listener:
                    yield as_text(Happened(RESYNC, {}))
                    async for piece in _pieces(listener, user.user_id, may_listen):
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


async def _pieces(listener: Listener, user_id: UUID, may_listen: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """What the reader is told until they may not listen any more: at most a beat after they were signed out."""
    checked_at = trio.current_time()
    while not listener.ended:
        happened = await listener.next(BEAT_SECONDS)
        if trio.current_time() >= checked_at + BEAT_SECONDS or _is_about(happened, user_id):
            checked_at = trio.current_time()
            if not await may_listen():
                return
        if happened is not None:
            yield as_text(happened)
        elif not listener.ended:
            yield b": still here\n\n"


def _is_about(happened: Happened | None, user_id: UUID) -> bool:
    """Whether the reader's own membership ended, or may have ended unheard."""
    if happened is None:
        return False
    removed = happened.name == MEMBER_REMOVED and happened.fields.get("user_id") == str(user_id)
    return removed or happened.name == RESYNC


async def _is_member(directory: Directory, workspace_id: UUID, user_id: UUID) -> bool:
    try:
        await directory.membership(str(workspace_id), user_id)
    except RejectedRequest:
        return False
    return True


def as_text(happened: Happened) -> bytes:
    """One event on the wire. Its JSON is one line, so it needs no further framing."""
    return b"event: %s\ndata: %s\n\n" % (happened.name.encode(), msgspec.json.encode(happened.fields))
