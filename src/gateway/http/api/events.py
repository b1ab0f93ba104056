"""A workspace's events as a stream (server-sent events), for pages that stay open.

Each event has a name, and ids as JSON. The ids give no access: a reader cannot fetch with them what it may not see. A
stream begins with `resync`, which tells the page to read again what it shows. `resync` comes again whenever events may
have been missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import msgspec
import trio
from quart import Blueprint, Response

from gateway.errors import NotFound, TooMany
from gateway.http.auth import Callers
from gateway.http.places import Places
from gateway.work.feed import RESYNC, Feed, Happened, Listener
from gateway.work.people.directory import MEMBER_REMOVED, Directory

BEAT_SECONDS = 15.0
"""The longest silence of a stream. Then a comment is sent, to keep proxies from closing the stream.

The reader's right to listen is checked again at least this often.
"""


def routes(directory: Directory, feed: Feed, places: Places, callers: Callers) -> Blueprint:
    blueprint = Blueprint("events", __name__)

    @blueprint.get("/api/workspaces/<workspace>/events")
    async def stream_events(workspace: str) -> Response:
        user = await callers.user()
        member = await directory.membership(workspace, user.user_id)
        reader = (member.workspace_id, user.user_id)
        signed_in = callers.credential_check()

        async def may_listen() -> bool:
            return await _is_member(directory, member.workspace_id, user.user_id) and await signed_in()

        async def stream() -> AsyncIterator[bytes]:
            try:
                with places.take(reader), feed.listen(member.workspace_id) as listener:
                    yield as_text(Happened(RESYNC, {}))
                    async for piece in _pieces(listener, user.user_id, may_listen):
                        yield piece
            except TooMany:
                # The last place was taken after `places.require` had passed and the answer's head was being sent. The
                # stream just ends; the reader connects again, and then gets the refusal.
                return

        places.require(reader)
        response = Response(stream(), content_type="text/event-stream; charset=utf-8")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # a proxy that buffers would delay the events
        response.timeout = None
        return response

    return blueprint


async def _pieces(listener: Listener, user_id: UUID, may_listen: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """Yield the pieces of the stream until the reader may not listen any more.

    It ends at most BEAT_SECONDS after the reader was signed out.
    """
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
    """True if the event ends the reader's own membership, or if such an event may have been missed."""
    if happened is None:
        return False
    removed = happened.name == MEMBER_REMOVED and happened.fields.get("user_id") == str(user_id)
    return removed or happened.name == RESYNC


async def _is_member(directory: Directory, workspace_id: UUID, user_id: UUID) -> bool:
    try:
        await directory.membership(str(workspace_id), user_id)
    except NotFound:
        return False
    return True


def as_text(happened: Happened) -> bytes:
    """Encode one event for the stream. Its JSON is one line, so it needs no further framing."""
    return b"event: %s\ndata: %s\n\n" % (happened.name.encode(), msgspec.json.encode(happened.fields))
