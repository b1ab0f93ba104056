"""One statement for all work that is outstanding together.

While a statement is in flight the next arrivals gather; when it returns they leave together. A lone piece is never held
back for company, and a busy moment pays for one commit instead of many. There is no timer.
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
"""Pieces that may wait; a submitter beyond that waits to be let in."""

_STOPPED = "the database work of this process has ended"

log = structlog.get_logger()


class _Submission(Generic[T, R]):
    """A piece of work, the task that waits for it, and what it is told."""

    __slots__ = ("_done", "_outcome", "abandoned", "piece")

    def __init__(self, piece: T) -> None:
        self.piece = piece
        self.abandoned = False
        self._done = trio.Event()
        self._outcome: R | Exception = StoreUnavailable(_STOPPED)

    def settle(self, outcome: R | Exception) -> None:
        """Does nothing when it has been told already."""
        if not self._done.is_set():
            self._outcome = outcome
            self._done.set()

    async def wait(self) -> R:
        await self._done.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Batcher(Generic[T, R]):
    """Where pieces are handed in. Somebody must run `run_batches` on it; one runner only.

    `work` does a batch and returns an outcome for each piece, in order.
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
        """Hand in a piece and wait for its outcome.

        Cancellation does not disturb the others of the batch. A piece that is waiting is taken back; one whose
        statement is on its way may still be done. Raises what the work raised for it; StoreUnavailable when the runner
        has ended.
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
        """Wait for one piece, then take whatever else is there, and whatever the passes of the scheduler add."""
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
        """A failure concerns one piece: halve until it stands alone. When the store is away, it concerns all."""
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
        """Refuse what comes, and fail what waits or was taken out and not told."""
        for submission in self._batch:
            submission.settle(StoreUnavailable(_STOPPED))
        while True:
            try:
                self._receive.receive_nowait().settle(StoreUnavailable(_STOPPED))
            except trio.WouldBlock:
                break
        self._receive.close()


async def run_batches(batcher: Batcher[T, R], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Do what is handed in, batch by batch, until cancelled; one batch is in flight at a time.

    Resource handling: on the way out every waiting submitter gets StoreUnavailable, and so does every later one. Run it
    outside whatever submits, so that it ends last. Error handling: a failed batch is divided; nothing gets here.
    """
    task_status.started()
    try:
        while True:
            await batcher._do(await batcher._gather())
    finally:
        batcher._stop()


def _own_copy(error: StoreUnavailable) -> StoreUnavailable:
    """An exception for each waiting task: raised in several tasks, one object would collect all their tracebacks."""
    copy = StoreUnavailable(str(error))
    copy.__cause__ = error
    return copy
