"""Work that a message causes after its event was acknowledged. It never delays the acknowledgement.

Files are fetched here. A row written in the message's transaction says what to fetch, so a crash loses nothing. The run
that waits for the files does so only until a deadline, so a failed fetch cannot prevent the run.
"""

from __future__ import annotations

import structlog
import trio

from gateway.concurrency import Signal, finishing, open_finishing_nursery, reached
from gateway.core.attachments import FetchProblem
from gateway.errors import StoreError
from gateway.recorder import SILENT, Recorder
from gateway.work.tasks.attachments import Attachment, Attachments, AttachmentStore, FetchFailed

POLL_SECONDS = 5.0
HOLD_SECONDS = 5.0
"""Interval at which a running fetch renews its hold. After 15 s without renewal another process may take the file."""
TAKEN_MAX = 64
"""Files that this process holds at a time. Far fewer are fetched at a time: a file that waits for its next try takes no
fetching slot."""
DRAIN_SECONDS = 2.0
"""Time that a running fetch still gets when the process stops. After it the file is released, and another process
starts its fetch from the beginning."""
RELEASE_SECONDS = 1.0
RETRY_FIRST_SECONDS = 1.0
RETRY_MAX_SECONDS = 8.0

log = structlog.get_logger()


async def run_attachments(
    attachments: Attachments,
    store: AttachmentStore,
    wake: Signal,
    *,
    poll_seconds: float = POLL_SECONDS,
    drain_seconds: float = DRAIN_SECONDS,
    recorder: Recorder = SILENT,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Fetch waiting files until cancelled. Several processes may do this at the same time.

    `wake` signals that a new file waits. A slow poll finds files that were never announced, or that a crash left
    behind.

    Error handling: each file is one unit of work. An error is recorded in the file's row, the fetch is tried again
    while a run waits for the file, and no other file is affected.

    Resource handling: after a cancellation, running fetches go on for `drain_seconds`. Files that are not done by then
    are released for another process.
    """
    fetcher = _Fetcher(attachments, store, wake, recorder)
    async with open_finishing_nursery(drain_seconds) as nursery:
        task_status.started()
        while True:
            for row in await fetcher.take():
                nursery.start_soon(fetcher.bring, row)
            await wake.wait(poll_seconds)


class _Fetcher:
    def __init__(self, attachments: Attachments, store: AttachmentStore, wake: Signal, recorder: Recorder) -> None:
        self._attachments = attachments
        self._store = store
        self._wake = wake
        self._recorder = recorder
        self._taken = 0

    async def take(self) -> list[Attachment]:
        room = TAKEN_MAX - self._taken
        if room <= 0:
            return []
        try:
            rows = list(await self._store.take(room))
        except StoreError as error:
            log.warning("attachments_not_taken", error=str(error))
            return []
        self._taken += len(rows)
        return rows

    async def bring(self, row: Attachment) -> None:
        """Fetch one file and settle its row. Raises nothing but a cancellation, which releases the row."""
        settled = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hold, row)
                await self._settle(row)
                nursery.cancel_scope.cancel()
            settled = True
        finally:
            self._taken -= 1
            if not settled:
                await self._release(row)
            # Look again at once: more files may be waiting than there was room for at the last look.
            self._wake.set()

    async def _settle(self, row: Attachment) -> None:
        reached("attachment.taken")
        try:
            failure = await self._fetch(row)
            if failure is not None:
                await self._attachments.give_up(row, failure.problem, final=not failure.transient)
        except StoreError as error:
            log.warning("attachment_not_settled", attachment_id=str(row.id), error=str(error))
        except Exception:
            log.exception("attachment_fault", attachment_id=str(row.id))
            self._recorder.count("unexpected_errors", unit="attachment")
            await self._give_up_after_fault(row)

    async def _give_up_after_fault(self, row: Attachment) -> None:
        try:
            await self._attachments.give_up(row, FetchProblem.UNEXPECTED)
        except StoreError as error:
            log.warning("attachment_not_settled", attachment_id=str(row.id), error=str(error))

    async def _fetch(self, row: Attachment) -> FetchFailed | None:
        """Fetch the file, with retries while the failure is transient and the run's deadline has not passed.

        Return None when the file was fetched, else the last failure.
        """
        deadline = trio.current_time() + row.seconds_left
        pause = RETRY_FIRST_SECONDS
        while True:
            try:
                await self._attachments.fetch(row)
            except FetchFailed as error:
                again_at = trio.current_time() + max(pause, error.retry_after)
                if not error.transient or again_at >= deadline:
                    return error
                await trio.sleep_until(again_at)
                pause = min(2 * pause, RETRY_MAX_SECONDS)
            else:
                return None

    async def _hold(self, row: Attachment) -> None:
        while True:
            await trio.sleep(HOLD_SECONDS)
            try:
                await self._store.hold(row.id)
            except StoreError as error:
                log.warning("attachment_not_held", attachment_id=str(row.id), error=str(error))

    async def _release(self, row: Attachment) -> None:
        with finishing(RELEASE_SECONDS):
            try:
                await self._store.release(row.id)
            except StoreError as error:
                log.warning("attachment_not_released", attachment_id=str(row.id), error=str(error))
