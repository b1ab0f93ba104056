"""The primitives: a bounded shield, a wake-up that is never lost, wake-ups by key."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.concurrency import Signal, Topics, finishing, reached, watch_points


async def test_finishing_goes_on_under_cancellation_until_its_time_is_over(autojump_clock: MockClock) -> None:
    with trio.fail_after(3600), trio.CancelScope() as outer:
        outer.cancel()
        started = trio.current_time()
        with finishing(2) as scope:
            await trio.sleep(1)
            assert trio.current_time() == started + 1
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == started + 2
        await trio.lowlevel.checkpoint()
    assert outer.cancelled_caught


async def test_signal_set_with_nobody_waiting_is_remembered_once() -> None:
    signal = Signal()
    signal.set()
    signal.set()
    assert await signal.wait(0)
    assert not await signal.wait(0)


async def test_signal_wakes_its_waiter(autojump_clock: MockClock) -> None:
    signal, woken = Signal(), []

    async def wait() -> None:
        woken.append(await signal.wait())

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            signal.set()
    assert woken == [True]


@pytest.mark.parametrize(("timeout", "waited"), [(5, 5), (0, 0), (-1, 0)])
async def test_signal_that_is_not_set_says_so_in_time(autojump_clock: MockClock, timeout: float, waited: float) -> None:
    started = trio.current_time()
    with trio.fail_after(3600):
        assert not await Signal().wait(timeout)
    assert trio.current_time() == started + waited


async def test_signal_whose_waiter_was_cancelled_is_still_set(autojump_clock: MockClock) -> None:
    signal = Signal()
    with trio.fail_after(3600):
        with trio.CancelScope() as scope:
            scope.cancel()
            signal.set()
            await signal.wait()
        assert scope.cancelled_caught
        assert await signal.wait(0)


async def test_topic_rings_every_listener_of_its_key_and_no_other() -> None:
    topics = Topics()
    with topics.hear("a") as one, topics.hear("a") as two, topics.hear("b") as other:
        topics.ring("a")
        topics.ring("nobody listens")
        assert [await signal.wait(0) for signal in (one, two, other)] == [True, True, False]
        topics.ring_all()
        assert [await signal.wait(0) for signal in (one, two, other)] == [True, True, True]


async def test_topic_whose_listener_left_rings_the_others() -> None:
    topics = Topics()
    with topics.hear("a") as staying:
        with topics.hear("a") as leaving:
            pass
        topics.ring("a")
        assert await staying.wait(0)
        assert not await leaving.wait(0)
    topics.ring("a")
    topics.ring_all()
    assert not await staying.wait(0)


def test_point_is_told_to_a_watcher_while_there_is_one() -> None:
    seen: list[str] = []
    reached("before")
    watch_points(seen.append)
    try:
        reached("lark.received")
    finally:
        watch_points(None)
    reached("after")
    assert seen == ["lark.received"]
