"""Calls that share a run, and what becomes of the others when one fails or is cancelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.errors import StoreUnavailable
from gateway.postgres.shared_calls import SharedCalls


class Statement:
    """Doubles numbers, one run at a time and only when it is let; 0 fails, and 13 has no result."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.go = trio.Semaphore(0)

    async def __call__(self, values: Sequence[int]) -> Mapping[int, int]:
        self.runs.append(list(values))
        await self.go.acquire()
        if 0 in values[:1]:
            raise StoreUnavailable("away")
        return {value: 2 * value for value in values if value != 13}


async def test_lone_call_runs_at_once() -> None:
    statement = Statement()
    statement.go.release()
    assert await SharedCalls(statement).join(4) == 8


async def test_calls_that_arrive_during_a_run_share_the_next() -> None:
    statement = Statement()
    shared_calls = SharedCalls(statement, calls_max=3)
    results: dict[int, int | None] = {}

    async def join(value: int) -> None:
        results[value] = await shared_calls.join(value)

    async with trio.open_nursery() as nursery:
        for value in (1, 2, 13, 4, 5):
            nursery.start_soon(join, value)
            await wait_all_tasks_blocked()
        for _ in range(3):
            statement.go.release()
    assert statement.runs == [[1], [2, 13, 4], [5]]
    assert results == {1: 2, 2: 4, 13: None, 4: 8, 5: 10}


async def test_failure_is_raised_to_its_caller_alone() -> None:
    statement = Statement()
    shared_calls = SharedCalls(statement)
    results: list[int | None] = []

    async def fail() -> None:
        with pytest.raises(StoreUnavailable):
            await shared_calls.join(0)

    async def join(value: int) -> None:
        results.append(await shared_calls.join(value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(fail)
        await wait_all_tasks_blocked()
        nursery.start_soon(join, 2)
        await wait_all_tasks_blocked()
        for _ in range(3):
            statement.go.release()
    assert statement.runs == [[1], [0, 2], [2]]
    assert results == [2, 4]


async def test_cancelled_call_leaves_the_others_to_the_next(autojump_clock: MockClock) -> None:
    statement = Statement()
    shared_calls = SharedCalls(statement)
    results: list[int | None] = []

    async def give_up(value: int, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await shared_calls.join(value)

    async def join(value: int) -> None:
        results.append(await shared_calls.join(value))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up, 1, 2)
            await wait_all_tasks_blocked()
            nursery.start_soon(give_up, 2, 1)
            await wait_all_tasks_blocked()
            nursery.start_soon(join, 3)
            await trio.sleep(3)
            statement.go.release()
    assert statement.runs == [[1], [3]]
    assert results == [6]
