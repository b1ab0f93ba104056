"""The trace of requests that a limit refused: one row for each trigger and minute, which counts them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid5

import msgspec
import structlog

from gateway.errors import StoreError
from gateway.webhooks.envelope import unread_event
from gateway.webhooks.headers import RequestHeaders, shown
from gateway.webhooks.ports import LimitedDraft, LimitedStore, TriggerRow
from gateway.webhooks.signature import signature_headers

logger = structlog.get_logger(__name__)

MINUTE_SECONDS = 60
WRITE_SECONDS = 1.0
"""The least time between two writes of one row. Repeats are counted in memory until then."""
ROWS_MAX = 10_000
"""Rows whose repeats are counted at the same time. Beyond that the oldest is forgotten with what it counted."""


@dataclass(slots=True)
class _Counted:
    """The row of one trigger and minute. `repeats` are the requests that are not written yet."""

    draft: LimitedDraft
    repeats: int = 0
    written_at: float = float("-inf")


class LimitedRequests:
    """Counts the refused requests of a process, and writes them down: the first at once, its repeats each second.

    The id of a row follows from its trigger and minute, so that all processes count in the same row. What a process
    that dies has not written is lost: at most the repeats of a second.
    """

    def __init__(
        self, store: LimitedStore, *, clock: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._counted: OrderedDict[UUID, _Counted] = OrderedDict()

    async def note(self, trigger: TriggerRow, headers: RequestHeaders) -> None:
        """Count a refused request. If it cannot be written, that is logged, and tried again with the next one."""
        minute = int(self._clock().timestamp()) // MINUTE_SECONDS
        row_id = uuid5(trigger.id, f"rate_limited {minute}")
        counted = self._counted.get(row_id)
        if counted is None:
            counted = self._counted[row_id] = _Counted(_draft(row_id, trigger, headers))
            if len(self._counted) > ROWS_MAX:
                self._counted.popitem(last=False)
        counted.repeats += 1
        if self._monotonic() - counted.written_at >= WRITE_SECONDS:
            try:
                await self._write([counted])
            except StoreError as error:
                logger.warning("limited_requests_not_stored", trigger_id=str(trigger.id), error=str(error))

    async def flush(self) -> int:
        """Write what was counted since, and forget rows that count nothing more. Return the number of rows written."""
        now = self._monotonic()
        for row_id, counted in list(self._counted.items()):
            if not counted.repeats and now - counted.written_at > MINUTE_SECONDS:
                del self._counted[row_id]
        waiting = [counted for counted in self._counted.values() if counted.repeats]
        await self._write(waiting)
        return len(waiting)

    async def _write(self, rows: list[_Counted]) -> None:
        """Write rows. Raises StoreError, and what it did not write stays counted."""
        taken = [(counted, counted.repeats) for counted in rows]
        for counted, repeats in taken:
            counted.repeats -= repeats
            counted.written_at = self._monotonic()
        drafts = [(counted.draft, repeats) for counted, repeats in taken if repeats]
        if not drafts:
            return
        try:
            await self._store.record_limited(drafts)
        except BaseException:
            for counted, repeats in taken:
                counted.repeats += repeats
            raise


def _draft(row_id: UUID, trigger: TriggerRow, headers: RequestHeaders) -> LimitedDraft:
    return LimitedDraft(
        id=row_id,
        trigger_id=trigger.id,
        event=unread_event(headers),
        headers=msgspec.json.encode(headers.kept(signature_headers(trigger.provider))).decode(),
        content_type=shown(headers.first("content-type")),
    )
