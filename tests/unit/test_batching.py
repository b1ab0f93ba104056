"""Work that is outstanding together is done together, and fails apart."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.batching import Batcher, run_batches
from gateway.errors import StoreUnavailable


class Worker:
    """Doubles numbers; a batch waits until it is let go. 13 is a bug, 0 an outage."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = trio.Event()

    async def work(self, pieces: Sequence[int]) -> list[int]:
        self.batches.append(list(pieces))
        await self.go.wait()
        if 0 in pieces:
            raise StoreUnavailable("away")
        if 13 in pieces:
            raise ZeroDivisionError
        return [2 * piece for piece in pieces]


async def outcome(batcher: Batcher[int, int], piece: int, outcomes: dict[int, object]) -> None:
    try:
        outcomes[piece] = await batcher.submit(piece)
    except (StoreUnavailable, ZeroDivisionError) as error:
        outcomes[piece] = type(error)


async def outcomes_of(pieces: Sequence[int], batch_max: int = 64) -> tuple[Worker, dict[int, object]]:
    """The first piece goes alone, because nobody else is there yet; the others wait for it together."""
    worker, outcomes = Worker(), dict[int, object]()
    batcher = Batcher("numbers", worker.work, batch_max=batch_max)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_batches, batcher)
        async with trio.open_nursery() as submitters:
            for piece in pieces:
                submitters.start_soon(outcome, batcher, piece, outcomes)
                await wait_all_tasks_blocked()
            worker.go.set()
        nursery.cancel_scope.cancel()
    return worker, outcomes


async def test_pieces_outstanding_together_share_a_batch_and_get_their_own_outcome() -> None:
    worker, outcomes = await outcomes_of([1, 2, 3, 4])
    assert worker.batches == [[1], [2, 3, 4]]
    assert outcomes == {1: 2, 2: 4, 3: 6, 4: 8}


async def test_batch_is_bounded() -> None:
    worker, _ = await outcomes_of([1, 2, 3, 4, 5], batch_max=2)
    assert worker.batches == [[1], [2, 3], [4, 5]]


async def test_failure_of_one_piece_is_its_own() -> None:
    _, outcomes = await outcomes_of([1, 2, 13, 4, 5])
    assert outcomes == {1: 2, 2: 4, 13: ZeroDivisionError, 4: 8, 5: 10}


async def test_outage_is_everybodys() -> None:
    worker, outcomes = await outcomes_of([1, 2, 0, 3])
    assert outcomes == {1: 2, 2: StoreUnavailable, 0: StoreUnavailable, 3: StoreUnavailable}
    assert len(worker.batches) == 2


async def test_piece_whose_submitter_left_is_not_done() -> None:
    worker = Worker()
    batcher = Batcher("numbers", worker.work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_batches, batcher)
        nursery.start_soon(batcher.submit, 1)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as submitters:
                submitters.start_soon(batcher.submit, 2)
                await wait_all_tasks_blocked()
                scope.cancel()
        worker.go.set()
        assert await batcher.submit(3) == 6
        nursery.cancel_scope.cancel()
    assert worker.batches == [[1], [3]]


async def test_submitters_are_told_when_the_runner_ends(autojump_clock: MockClock) -> None:
    worker = Worker()
    batcher = Batcher("numbers", worker.work)
    outcomes: dict[int, object] = {}
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as runner:
                    runner.start_soon(run_batches, batcher)
                    nursery.start_soon(outcome, batcher, 1, outcomes)
                    await wait_all_tasks_blocked()
                    nursery.start_soon(outcome, batcher, 2, outcomes)
                    await wait_all_tasks_blocked()
                    scope.cancel()
        with pytest.raises(StoreUnavailable):
            await batcher.submit(3)
    assert outcomes == {1: StoreUnavailable, 2: StoreUnavailable}
