"""Batching of database work: pieces that wait at the same time are done in one statement.

While a statement is in flight, the pieces that arrive are collected. When it returns, they go out together as the next
batch. A single piece is sent at once, without waiting for others. Under load many pieces share one commit. There is no
timer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog
import trio

from gateway.errors import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")

BATCH_MAX = 64
WAITING_MAX = 1024
"""Pieces that may be queued. When the queue is full, `Batcher.submit` blocks until there is room."""

_STOPPED = "the database work of this process has ended"

log = structlog.get_logger()


class _Submission(Generic[T, R]):
    """One piece of work, with the event its submitter waits on and the outcome that the submitter receives."""

    __slots__ = ("_done", "_outcome", "abandoned", "piece")

    def __init__(self, piece: T) -> None:
        self.piece = piece
        self.abandoned = False
        self._done = trio.Event()
        self._outcome: R | Exception = StoreUnavailable(_STOPPED)

    def settle(self, outcome: R | Exception) -> None:
        """Give the submitter its outcome and wake it. Does nothing if an outcome was given before."""
        if not self._done.is_set():
            self._outcome = outcome
            self._done.set()

    async def wait(self) -> R:
        await self._done.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Batcher(Generic[T, R]):
    """Collects pieces of work into batches. Exactly one task must run `run_batches` on it.

    `work` does a batch and returns one outcome for each piece, in the same order.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        batch_max: int = BATCH_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._name = name
        self._work = work
        self._batch_max = batch_max
        self._send, self._receive = trio.open_memory_channel[_Submission[T, R]](waiting_max)
        self._batch: list[_Submission[T, R]] = []

    async def submit(self, piece: T) -> R:
        """Submit a piece and wait for its outcome.

        Cancellation does not affect the other pieces of the batch. A piece that is still queued is withdrawn. A piece
        whose statement has been sent may still be carried out. Raises the exception that `work` raised for this piece.
        Raises StoreUnavailable when the runner has ended.
        """
        submission = _Submission[T, R](piece)
        try:
            await self._send.send(submission)
            return await submission.wait()
        except trio.BrokenResourceError as error:
            raise StoreUnavailable(_STOPPED) from error
        finally:
            submission.abandoned = True

    async def _gather(self) -> list[_Submission[T, R]]:
        """Wait for one piece, then collect all others that are ready, up to the batch limit.

        Each checkpoint gives the scheduler one pass, in which other tasks can submit. The loop ends when a pass adds
        nothing more.
        """
        self._batch = [await self._receive.receive()]
        gathered = 0
        while gathered < len(self._batch) < self._batch_max:
            gathered = len(self._batch)
            await trio.lowlevel.checkpoint()
            self._take_waiting()
        return [submission for submission in self._batch if not submission.abandoned]

    def _take_waiting(self) -> None:
        while len(self._batch) < self._batch_max:
            try:
                self._batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                return

    async def _do(self, batch: Sequence[_Submission[T, R]]) -> None:
        if not batch:
            return
        try:
            outcomes = await self._work([submission.piece for submission in batch])
        except Exception as error:
            await self._divide(batch, error)
            return
        for submission, outcome in zip(batch, outcomes, strict=True):
            submission.settle(outcome)

    async def _divide(self, batch: Sequence[_Submission[T, R]], error: Exception) -> None:
        """Isolate the piece that made the batch fail: run both halves separately, down to a single piece.

        StoreUnavailable is not divided: it concerns every piece, so each submitter gets it at once.
        """
        if len(batch) == 1:
            batch[0].settle(error)
        elif isinstance(error, StoreUnavailable):
            for submission in batch:
                submission.settle(_own_copy(error))
        else:
            log.warning("batch_halved", batch=self._name, pieces=len(batch), error=type(error).__name__)
            middle = len(batch) // 2
            await self._do(batch[:middle])
            await self._do(batch[middle:])

    def _stop(self) -> None:
        """Fail every piece that has no outcome yet, in the current batch or in the queue, and refuse later ones."""
        for submission in self._batch:
            submission.settle(StoreUnavailable(_STOPPED))
        while True:
            try:
                self._receive.receive_nowait().settle(StoreUnavailable(_STOPPED))
            except trio.WouldBlock:
                break
        self._receive.close()


async def run_batches(batcher: Batcher[T, R], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Carry out the submitted pieces, batch by batch, until cancelled. One batch is in flight at a time.

    Resource handling: when it ends, every waiting submitter gets StoreUnavailable, and so does every later one. Run it
    in a nursery outside the tasks that submit, so that it ends last. Error handling: a failed batch is divided until
    each error is given to its own submitter, so no exception of `work` is raised here.
    """
    task_status.started()
    try:
        while True:
            await batcher._do(await batcher._gather())
    finally:
        batcher._stop()


def _own_copy(error: StoreUnavailable) -> StoreUnavailable:
    """Copy the exception for one waiting task.

    One exception object raised in several tasks would collect all their tracebacks.
    """
    copy = StoreUnavailable(str(error))
    copy.__cause__ = error
    return copy
