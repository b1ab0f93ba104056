from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
from trio.testing import MockClock

from gateway.concurrency import Workers, open_finishing_nursery, open_workers

Open = Callable[[float], AbstractAsyncContextManager[trio.Nursery | Workers]]


@pytest.fixture(params=[open_finishing_nursery, open_workers])
def open_(request: pytest.FixtureRequest) -> Open:
    opened: Open = request.param
    return opened


async def test_tasks_finish_after_the_body_was_cancelled(open_: Open, autojump_clock: MockClock) -> None:
    finished = trio.Event()

    async def work() -> None:
        await trio.sleep(3)
        finished.set()

    with trio.fail_after(60):
        with trio.move_on_after(1):
            async with open_(5) as nursery:
                nursery.start_soon(work)
                await trio.sleep_forever()
        assert finished.is_set()
        assert trio.current_time() == pytest.approx(3)


async def test_tasks_are_cancelled_when_their_time_is_over(open_: Open, autojump_clock: MockClock) -> None:
    with trio.fail_after(60):
        with trio.move_on_after(1):
            async with open_(5) as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(6)


async def test_countdown_begins_when_the_body_is_left_without_cancellation_too(
    open_: Open, autojump_clock: MockClock
) -> None:
    with trio.fail_after(60):
        async with open_(5) as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(10)
        assert trio.current_time() == pytest.approx(15)


async def test_body_that_was_cancelled_before_it_began_ends_at_once(open_: Open, autojump_clock: MockClock) -> None:
    with trio.fail_after(60):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with open_(5):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() < 1


async def test_task_that_raises_cancels_siblings_and_body_at_once(open_: Open, autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.sleep(1)
        raise ValueError("boom")

    async def hold() -> None:
        async with open_(5) as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    with trio.fail_after(60):
        with pytest.raises(ExceptionGroup) as caught:
            await hold()
        assert caught.group_contains(ValueError)
        assert trio.current_time() == pytest.approx(1)


async def test_task_that_starts_after_the_body_was_left_has_what_is_left_of_the_time(
    open_: Open, autojump_clock: MockClock
) -> None:
    with trio.fail_after(60):
        async with open_(5) as nursery:

            async def start_another() -> None:
                await trio.sleep(3)
                nursery.start_soon(trio.sleep_forever)

            nursery.start_soon(start_another)
        assert trio.current_time() == pytest.approx(5)
