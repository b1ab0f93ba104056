"""Write all messages that are waiting at the same moment in one statement. The `Batcher` gathers them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import trio

from gateway.batching import BATCH_MAX, WAITING_MAX, Batcher, run_batches
from gateway.concurrency import reached
from gateway.errors import StoreConflict
from gateway.inbound.ports import IngestStore, PlainMessage
from gateway.work.tasks.sessions import Queueing

log = structlog.get_logger()


class Committer:
    """Takes in messages and commits them in batches. Exactly one `run_committer` must run on it."""

    def __init__(self, *, waiting_max: int = WAITING_MAX, events_max: int = BATCH_MAX) -> None:
        self._store: IngestStore | None = None
        self._batcher = Batcher("messages", self._ingest, batch_max=events_max, waiting_max=waiting_max)

    async def submit(self, message: PlainMessage) -> Queueing | None:
        """Hand in a message and wait until its statement has returned. None when the message was not taken in.

        Errors and cancellation are those of `Batcher.submit`. If the caller is cancelled while the statement is
        running, the message may still be committed. Its redelivery then finds it processed.
        """
        return await self._batcher.submit(message)

    async def run(self, store: IngestStore, *, task_status: trio.TaskStatus[None]) -> None:
        """Commit into `store` until cancelled; see `run_committer`."""
        self._store = store
        await run_batches(self._batcher, task_status=task_status)

    async def _ingest(self, messages: Sequence[PlainMessage]) -> list[Queueing | None]:
        if self._store is None:
            raise RuntimeError("nobody runs this committer")
        reached("inbound.fused.before")
        try:
            taken = await self._store.ingest(messages)
        except StoreConflict as error:
            # Another transaction holds a row lock. Retrying the batch in halves would wait for that lock again and
            # again, while all bots wait. On the two-phase path the blocked message delays only itself.
            log.info("inbound_batch_conflict", messages=len(messages), error=str(error))
            return [None] * len(messages)
        reached("inbound.fused.committed")
        return [taken.get(message.token) for message in messages]


async def run_committer(
    committer: Committer, store: IngestStore, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Commit the messages that are handed in, until cancelled.

    Resource handling: as for `run_batches`. Run it in a nursery outside the tasks that submit, so that it ends last.

    Error handling: as for `run_batches`, a failed statement affects its own messages only. A batch that meets a row
    lock of another transaction is not taken in. Each of its messages then takes the two-phase path on its own.

    Only one statement is in flight at a time, so messages of one session keep their order without any other measure. A
    second statement in flight was measured and gained nothing, because the messages of one batch already share a
    commit.
    """
    await committer.run(store, task_status=task_status)
