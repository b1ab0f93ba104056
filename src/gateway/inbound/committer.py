"""One statement for all messages that are outstanding together: how they gather is the `Batcher`'s."""

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
    """Where messages are handed in. Somebody must run `run_committer` on it; one runner only."""

    def __init__(self, *, waiting_max: int = WAITING_MAX, events_max: int = BATCH_MAX) -> None:
        self._store: IngestStore | None = None
        self._batcher = Batcher("messages", self._ingest, batch_max=events_max, waiting_max=waiting_max)

    async def submit(self, message: PlainMessage) -> Queueing | None:
        """Hand in a message and wait until its statement has returned: None when it was not taken in.

        As `Batcher.submit`. A message that was cancelled with its statement on the way may still be committed, and its
        redelivery finds it processed.
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
            # Halving would wait for the same row again and again while all bots wait. Alone, it delays only itself.
            log.info("inbound_batch_conflict", messages=len(messages), error=str(error))
            return [None] * len(messages)
        reached("inbound.fused.committed")
        return [taken.get(message.token) for message in messages]


async def run_committer(
    committer: Committer, store: IngestStore, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Commit what is handed in until cancelled.

    Resource handling: as `run_batches`. Run it outside whatever submits, so that it ends last.

    Error handling: a failed statement concerns its messages only, as there. A batch that somebody stands in the way of
    is not taken in: each of its messages goes the long way, on its own.

    There is one statement in flight at a time: with that, messages of one session keep their order without any other
    measure. A second one was measured and bought nothing, because the commits of one batch are already shared.
    """
    await committer.run(store, task_status=task_status)
