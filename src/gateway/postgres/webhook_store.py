"""The log of webhook deliveries, in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from gateway.postgres.arrays import LargeValues
from gateway.postgres.driver import TrioConnection
from gateway.postgres.janitor_store import ROWS_MAX
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.webhooks.ports import (
    BulkReplay,
    Delivery,
    DeliveryDetail,
    DeliveryDraft,
    DeliveryFilter,
    Recorded,
    ReplayFilter,
    ReplayItem,
    ReplayWork,
    Settled,
    StoredDelivery,
    TriggerRow,
    TriggerState,
)

_Q = load(
    "webhook.sql",
    TriggerRow,
    Recorded,
    Settled,
    StoredDelivery,
    TriggerState,
    Delivery,
    DeliveryDetail,
    BulkReplay,
    ReplayWork,
    ReplayItem,
)

_TALLY_ROWS_MIN = 200
"""Up to this many rows of the tally are summed as fast as one row, so they are left as they are."""


class PostgresWebhookStore:
    """Implements the stores of `webhooks.ports` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def find_trigger(self, token: str) -> TriggerRow | None:
        async with self._pool.connection() as conn:
            row: TriggerRow | None = await _Q.find_webhook_trigger(conn, token=token)
            return row

    async def token_digests(self, after: UUID, rows_max: int) -> list[tuple[UUID, bytes]]:
        async with self._pool.connection() as conn:
            rows: list[tuple[UUID, bytes]] = await _Q.token_digests(conn, after=after, rows_max=rows_max)
            return rows

    async def record(self, drafts: Sequence[DeliveryDraft]) -> Sequence[Recorded | None]:
        firsts, followed = _repeats_apart(drafts)
        async with self._pool.connection() as conn:
            rows: list[Recorded] = await _Q.record_deliveries(conn, **_columns(firsts))
        found = {row.request_id: row for row in rows}
        return [found.get(followed[draft.id]) for draft in drafts]

    async def ignore(self, delivery_id: UUID, reason: str) -> bool:
        async with self._pool.connection() as conn:
            ignored: int = await _Q.ignore_delivery(conn, delivery_id=delivery_id, reason=reason)
            return ignored > 0

    async def fail(self, delivery_id: UUID, error: str) -> bool:
        async with self._pool.connection() as conn:
            failed: int = await _Q.fail_delivery(conn, delivery_id=delivery_id, error=error)
            return failed > 0

    async def verdict(self, delivery_id: UUID) -> Settled | None:
        async with self._pool.connection() as conn:
            settled: Settled | None = await _Q.delivery_verdict(conn, delivery_id=delivery_id)
            return settled

    async def claim_stale(self, rows_max: int) -> list[StoredDelivery]:
        async with self._pool.connection() as conn:
            rows: list[StoredDelivery] = await _Q.claim_stale_deliveries(conn, rows_max=rows_max)
            return rows

    # --- deliveries that wait for their turn --------------------------------------------------------------------------

    async def waiting_triggers(self, triggers_max: int) -> list[UUID]:
        async with self._pool.connection() as conn:
            rows: list[tuple[UUID]] = await _Q.waiting_triggers(conn, triggers_max=triggers_max)
            return [trigger_id for (trigger_id,) in rows]

    async def claim_turn(self, trigger_id: UUID) -> StoredDelivery | None:
        async with self._pool.connection() as conn:
            row: StoredDelivery | None = await _Q.claim_turn(conn, trigger_id=trigger_id)
            return row

    async def leave_queue(self, delivery_id: UUID) -> None:
        async with self._pool.connection() as conn:
            await _Q.leave_queue(conn, delivery_id=delivery_id)

    # --- replays ------------------------------------------------------------------------------------------------------

    async def find_stored(self, autopilot_id: UUID, delivery_id: UUID) -> StoredDelivery | None:
        async with self._pool.connection() as conn:
            row: StoredDelivery | None = await _Q.find_stored_delivery(
                conn, autopilot_id=autopilot_id, delivery_id=delivery_id
            )
            return row

    async def trigger_state(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerState | None:
        async with self._pool.connection() as conn:
            row: TriggerState | None = await _Q.trigger_state(conn, autopilot_id=autopilot_id, trigger_id=trigger_id)
            return row

    async def record_replay(self, replay_id: UUID, original_id: UUID, idempotency_key: str | None) -> Recorded | None:
        async with self._pool.connection() as conn:
            row: Recorded | None = await _Q.record_replay(
                conn, id=replay_id, original_id=original_id, idempotency_key=idempotency_key
            )
            return row

    async def plan(self, autopilot_id: UUID, wanted: ReplayFilter) -> int:
        async with self._pool.connection() as conn:
            count: int = await _Q.plan_replay(conn, autopilot_id=autopilot_id, **await _wanted(conn, wanted))
            return count

    async def add_bulk(
        self,
        replay_id: UUID,
        workspace_id: UUID,
        autopilot_id: UUID,
        user_id: UUID,
        *,
        filter: bytes,
        budget: int,
        planned: int,
    ) -> BulkReplay:
        async with self._pool.connection() as conn:
            row: BulkReplay = await _Q.add_bulk_replay(
                conn,
                id=replay_id,
                workspace_id=workspace_id,
                autopilot_id=autopilot_id,
                user_id=user_id,
                filter=filter.decode(),
                budget=budget,
                planned=planned,
            )
            return row

    async def find_bulk(self, autopilot_id: UUID, replay_id: UUID) -> BulkReplay | None:
        async with self._pool.connection() as conn:
            row: BulkReplay | None = await _Q.find_bulk_replay(conn, autopilot_id=autopilot_id, replay_id=replay_id)
            return row

    async def cancel_bulk(self, autopilot_id: UUID, replay_id: UUID) -> bool:
        async with self._pool.connection() as conn:
            cancelled: int = await _Q.cancel_bulk_replay(conn, autopilot_id=autopilot_id, replay_id=replay_id)
            return cancelled > 0

    async def claim_bulk(self, token: UUID, lease_seconds: float) -> ReplayWork | None:
        async with self._pool.connection() as conn:
            row: ReplayWork | None = await _Q.claim_bulk_replay(conn, token=token, lease_seconds=lease_seconds)
            return row

    async def next_item(self, work: ReplayWork, wanted: ReplayFilter, after: ReplayItem) -> ReplayItem | None:
        async with self._pool.connection() as conn:
            row: ReplayItem | None = await _Q.next_replayed(
                conn,
                autopilot_id=work.autopilot_id,
                until_at=work.until_at,
                cursor_at=after.created_at,
                cursor_id=after.id,
                **await _wanted(conn, wanted),
            )
            return row

    async def advance_bulk(
        self, replay_id: UUID, token: UUID, item: ReplayItem, outcome: str, lease_seconds: float
    ) -> bool:
        counts = {name: int(name == outcome) for name in ("accepted", "skipped", "failed")}
        async with self._pool.connection() as conn:
            advanced: int = await _Q.advance_bulk_replay(
                conn,
                replay_id=replay_id,
                token=token,
                cursor_at=item.created_at,
                cursor_id=item.id,
                lease_seconds=lease_seconds,
                **counts,
            )
            return advanced > 0

    async def complete_bulk(self, replay_id: UUID, token: UUID) -> None:
        async with self._pool.connection() as conn:
            await _Q.complete_bulk_replay(conn, replay_id=replay_id, token=token)

    # --- reading the log ----------------------------------------------------------------------------------------------

    async def page(self, autopilot_id: UUID, wanted: DeliveryFilter, limit: int, offset: int) -> list[Delivery]:
        page = {"event": wanted.event, "row_limit": limit, "row_offset": offset}
        async with self._pool.connection() as conn:
            rows: list[Delivery]
            if wanted.text is not None:
                words = await _words(conn, wanted.text)
                rows = await _Q.search_deliveries(
                    conn, autopilot_id=autopilot_id, words=words, status=wanted.status, **page
                )
            elif wanted.status is not None:
                rows = await _Q.list_deliveries_by_status(conn, autopilot_id=autopilot_id, status=wanted.status, **page)
            else:
                rows = await _Q.list_deliveries(conn, autopilot_id=autopilot_id, **page)
            return rows

    async def workspace_page(
        self, workspace_id: UUID, wanted: DeliveryFilter, limit: int, offset: int
    ) -> list[Delivery]:
        page = {"status": wanted.status, "event": wanted.event, "row_limit": limit, "row_offset": offset}
        async with self._pool.connection() as conn:
            rows: list[Delivery]
            if wanted.text is None:
                rows = await _Q.list_workspace_deliveries(conn, workspace_id=workspace_id, **page)
            else:
                words = await _words(conn, wanted.text)
                rows = await _Q.search_workspace_deliveries(conn, workspace_id=workspace_id, words=words, **page)
            return rows

    async def count(self, workspace_id: UUID, autopilot_id: UUID | None, wanted: DeliveryFilter) -> int:
        place = {"workspace_id": workspace_id, "autopilot_id": autopilot_id, "status": wanted.status}
        async with self._pool.connection() as conn:
            total: int
            if wanted.text is not None:
                words = await _words(conn, wanted.text)
                total = await _Q.count_searched_deliveries(conn, words=words, event=wanted.event, **place)
            elif wanted.event is not None:
                total = await _Q.count_found_deliveries(conn, event=wanted.event, **place)
            else:
                total = await _Q.count_deliveries(conn, **place)
            return total

    async def find(self, autopilot_id: UUID, delivery_id: UUID) -> DeliveryDetail | None:
        async with self._pool.connection() as conn:
            row: DeliveryDetail | None = await _Q.find_delivery(
                conn, autopilot_id=autopilot_id, delivery_id=delivery_id
            )
            return row

    # --- keeping the log small ----------------------------------------------------------------------------------------

    async def purge(self, keep_seconds: float, *, rows_max: int = ROWS_MAX) -> int:
        """Delete older deliveries, statement by statement, and return how many. The caller bounds the time."""
        gone = 0
        while True:
            async with self._pool.connection() as conn:
                rows = await _Q.purge_deliveries(conn, keep_seconds=keep_seconds, rows_max=rows_max)
            gone += int(rows)
            if rows < rows_max:
                return gone

    async def fold_tally(self, *, rows_max: int = 100_000) -> int:
        """Sum up the rows of the tally. Returns 0, because no visible count changes."""
        async with self._pool.connection() as conn:
            if await _Q.tally_rows(conn) > _TALLY_ROWS_MIN:
                await _Q.fold_tally(conn, rows_max=rows_max)
        return 0


async def _words(conn: TrioConnection[Any], text: str) -> str:
    words: str = await _Q.search_query(conn, text=text.replace("\x00", " "))
    return words


async def _wanted(conn: TrioConnection[Any], wanted: ReplayFilter) -> dict[str, Any]:
    return {
        "status": wanted.status,
        "event": wanted.event,
        "words": None if wanted.text is None else await _words(conn, wanted.text),
        "since": wanted.since,
        "until": wanted.until,
    }


def _repeats_apart(drafts: Sequence[DeliveryDraft]) -> tuple[dict[UUID, tuple[DeliveryDraft, int]], dict[UUID, UUID]]:
    """Separate the repeats within one batch of drafts.

    Returns the first draft of each deduplication key with its number of occurrences, and for every draft the id of the
    first one with its key. One statement may insert or update a row only once. With this, a repeat within the batch is
    treated like a repeat in a later statement.
    """
    firsts: dict[UUID, tuple[DeliveryDraft, int]] = {}
    followed: dict[UUID, UUID] = {}
    named: dict[tuple[UUID, str | None], UUID] = {}
    for draft in drafts:
        name = (draft.trigger_id, draft.dedupe_key)
        first = named.setdefault(name, draft.id) if draft.holds_key else draft.id
        followed[draft.id] = first
        firsts[first] = (firsts[first][0], firsts[first][1] + 1) if first in firsts else (draft, 1)
    return firsts, followed


def _columns(firsts: Mapping[UUID, tuple[DeliveryDraft, int]]) -> dict[str, list[Any]]:
    drafts = [draft for draft, _ in firsts.values()]
    return {
        "times": [times for _, times in firsts.values()],
        "ids": [draft.id for draft in drafts],
        "trigger_ids": [draft.trigger_id for draft in drafts],
        "tokens": [draft.token for draft in drafts],
        "revisions": [draft.revision for draft in drafts],
        "events": [draft.event for draft in drafts],
        "dedupe_keys": [draft.dedupe_key for draft in drafts],
        "dedupe_sources": [draft.dedupe_source for draft in drafts],
        "signatures": [draft.signature_status for draft in drafts],
        "secret_ids": [draft.secret_id for draft in drafts],
        "verdicts": [draft.verdict for draft in drafts],
        "reasons": [draft.reason for draft in drafts],
        "errors": [draft.error for draft in drafts],
        "headers": LargeValues(draft.headers for draft in drafts),
        "content_types": [draft.content_type for draft in drafts],
        "bodies": LargeValues(draft.body for draft in drafts),
        "response_statuses": [draft.response_status for draft in drafts],
        "response_bodies": [draft.response_body for draft in drafts],
        "waits": [draft.waits for draft in drafts],
    }
