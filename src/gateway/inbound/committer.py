"""One statement for all messages that are outstanding together.

While a statement is in flight the next arrivals gather; when it returns they leave together. A lone message is never
held back for company, and a busy moment pays for one commit instead of many. There is no timer.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import trio

from gateway.concurrency import reached
from gateway.errors import StoreConflict, StoreUnavailable
from gateway.inbound.ports import IngestStore, PlainMessage
from gateway.work.sessions import Queueing

EVENTS_MAX = 64
"""Messages in one statement at most. More would trade latency for little: the commit is shared by then."""
WAITING_MAX = 1024
"""Messages that may wait; a submitter beyond that waits to be let in."""

_STOPPED = "the committer has stopped"

log = structlog.get_logger()


class _Submission:
    """A message, the task that waits for it, and what it is told."""

    __slots__ = ("_done", "_error", "_queueing", "abandoned", "message")

    def __init__(self, message: PlainMessage) -> None:
        self.message = message
        self.abandoned = False
        self._done = trio.Event()
        self._queueing: Queueing | None = None
        self._error: Exception | None = None

    def settle(self, queueing: Queueing | None) -> None:
        self._queueing = queueing
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Does nothing when it has been told already."""
        if not self._done.is_set():
            self._error = error
            self._done.set()

    async def wait(self) -> Queueing | None:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._queueing


class Committer:
    """Where messages are handed in. Somebody must run `run_committer` on it; one runner only."""

    def __init__(self, *, waiting_max: int = WAITING_MAX) -> None:
        self._send, self._receive = trio.open_memory_channel[_Submission](waiting_max)
        self._batch: list[_Submission] = []

    async def submit(self, message: PlainMessage) -> Queueing | None:
        """Hand in a message and wait until its statement has returned: None when it was not taken in.

        Cancellation does not disturb the others of the batch. A message that is waiting is taken back; one whose
        statement is on its way may still be committed, and its redelivery finds it processed.
        Raises what the store raised for this message; StoreUnavailable when the runner has ended.
        """
        submission = _Submission(message)
        try:
            await self._send.send(submission)
            return await submission.wait()
        except trio.BrokenResourceError as error:
            raise StoreUnavailable(_STOPPED) from error
        finally:
            submission.abandoned = True

    async def _gather(self, events_max: int) -> list[_Submission]:
        """Wait for one message, then take whatever else is there, and whatever the passes of the scheduler add.

        Frames that one read brought in are decided by tasks that are ready now but have not run yet. Each pass lets
        them run; the first one that adds nothing ends the gathering, so a lone message waits for one pass.
        """
        self._batch = [await self._receive.receive()]
        gathered = 0
        while gathered < len(self._batch) < events_max:
            gathered = len(self._batch)
            await trio.lowlevel.checkpoint()
            self._take_waiting(events_max)
        return [submission for submission in self._batch if not submission.abandoned]

    def _take_waiting(self, events_max: int) -> None:
        while len(self._batch) < events_max:
            try:
                self._batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                return

    def _stop(self) -> None:
        """Refuse what comes, and fail what waits or was taken out and not told."""
        for submission in self._batch:
            submission.fail(StoreUnavailable(_STOPPED))
        while True:
            try:
                self._receive.receive_nowait().fail(StoreUnavailable(_STOPPED))
            except trio.WouldBlock:
                break
        self._receive.close()


async def run_committer(
    committer: Committer,
    store: IngestStore,
    *,
    events_max: int = EVENTS_MAX,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Commit what is handed in until cancelled.

    Resource handling: on the way out every waiting submitter gets StoreUnavailable, and so does every later one. Run it
    outside whatever submits, so that it ends last.

    Error handling: a failed statement concerns its messages only. A batch that fails is halved until the one message
    that the store cannot take stands alone, and only its submitter is told; when the store is away, all of them are.
    A batch that somebody stands in the way of is not taken in: each of its messages goes the long way, on its own.

    There is one statement in flight at a time: with that, messages of one session keep their order without any other
    measure. A second one was measured and bought nothing, because the commits of one batch are already shared.
    """
    task_status.started()
    try:
        while True:
            await _commit(store, await committer._gather(events_max))
    finally:
        committer._stop()


async def _commit(store: IngestStore, batch: Sequence[_Submission]) -> None:
    if not batch:
        return
    try:
        await _ingest(store, batch)
    except StoreUnavailable as error:
        for submission in batch:
            submission.fail(_own_copy(error))
    except StoreConflict as error:
        # Halving would wait for the same row again and again while all bots wait. Alone, only its own message waits.
        log.info("inbound_batch_conflict", messages=len(batch), error=str(error))
        for submission in batch:
            submission.settle(None)
    except Exception as error:
        if len(batch) == 1:
            batch[0].fail(error)
            return
        log.warning("inbound_batch_halved", messages=len(batch), error=type(error).__name__)
        middle = len(batch) // 2
        await _commit(store, batch[:middle])
        await _commit(store, batch[middle:])


async def _ingest(store: IngestStore, batch: Sequence[_Submission]) -> None:
    reached("inbound.fused.before")
    taken = await store.ingest([submission.message for submission in batch])
    reached("inbound.fused.committed")
    for submission in batch:
        submission.settle(taken.get(submission.message.token))


def _own_copy(error: StoreUnavailable) -> StoreUnavailable:
    """An exception for each waiting task: raised in several tasks, one object would collect all their tracebacks."""
    copy = StoreUnavailable(str(error))
    copy.__cause__ = error
    return copy
