"""What listeners hear: their workspace's events in order, and that they have missed some."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
import trio

from gateway.work.feed import RESYNC, WAITING_MAX, Feed, Happened

WORKSPACE, OTHER = UUID(int=1), UUID(int=2)


def _announcement(name: str, workspace_id: UUID = WORKSPACE, **fields: object) -> str:
    return json.dumps({"event": name, "workspace_id": str(workspace_id), **fields})


async def test_listener_hears_its_own_workspace_in_order() -> None:
    feed = Feed()
    with feed.listen(WORKSPACE) as listener:
        feed.publish(_announcement("task:queued", task_id="t"))
        feed.publish(_announcement("task:queued", OTHER))
        feed.publish(_announcement("task:running"))
        heard = [await listener.next(0), await listener.next(0), await listener.next(0)]
    assert heard == [
        Happened("task:queued", {"workspace_id": str(WORKSPACE), "task_id": "t"}),
        Happened("task:running", {"workspace_id": str(WORKSPACE)}),
        None,
    ]


async def test_listener_waits_for_what_comes(autojump_clock: trio.testing.MockClock) -> None:
    feed = Feed()
    with trio.fail_after(60), feed.listen(WORKSPACE) as listener:
        async with trio.open_nursery() as nursery:

            async def publish_later() -> None:
                await trio.sleep(5)
                feed.publish(_announcement("chat:done"))

            nursery.start_soon(publish_later)
            assert await listener.next(3) is None
            assert await listener.next(3) == Happened("chat:done", {"workspace_id": str(WORKSPACE)})


async def test_listener_that_falls_behind_is_told_to_read_anew() -> None:
    feed = Feed()
    with feed.listen(WORKSPACE) as listener:
        for number in range(WAITING_MAX + 2):
            feed.publish(_announcement("task:progress", number=number))
        assert await listener.next(0) == Happened(RESYNC, {})
        last = await listener.next(0)
        assert last is not None
        assert last.fields["number"] == WAITING_MAX + 1


async def test_everybody_is_told_when_announcements_may_be_missing() -> None:
    feed = Feed()
    with feed.listen(WORKSPACE) as one, feed.listen(OTHER) as other:
        feed.publish("")
        assert await one.next(0) == await other.next(0) == Happened(RESYNC, {})


@pytest.mark.parametrize("payload", ["x", "[]", "{}", '{"event":"a"}', '{"event":"a","workspace_id":"no"}', "1"])
async def test_announcement_that_cannot_be_read_disturbs_nobody(payload: str) -> None:
    feed = Feed()
    with feed.listen(WORKSPACE) as listener:
        feed.publish(payload)
        assert await listener.next(0) is None


async def test_end_of_the_feed_comes_after_what_waits() -> None:
    feed = Feed()
    with feed.listen(WORKSPACE) as listener:
        feed.publish(_announcement("task:failed"))
        feed.end()
        assert not listener.ended
        assert await listener.next(60) is not None
        assert listener.ended
        assert await listener.next(60) is None
    with feed.listen(WORKSPACE) as late:
        assert late.ended
