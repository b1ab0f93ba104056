"""The log of webhook deliveries, in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from gateway.postgres.arrays import LargeValues
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.webhooks.ports import (
    BulkReplay,
    Delivery,
    DeliveryDetail,
    DeliveryDraft,
    DeliveryFilter,
    LimitedDraft,
    Recorded,
    ReplayFilter,
    ReplayItem,
    ReplayWork,
    Settled,
    StoredDelivery,
    TriggerRow,
    TriggerState,
)

_SQL = SqlFile("webhook.sql")
_FIND_WEBHOOK_TRIGGER = _SQL.one_or_none("find_webhook_trigger", TriggerRow)
_TOKEN_DIGESTS = _SQL.many("token_digests", tuple[UUID, bytes])
_RECORD_DELIVERIES = _SQL.many("record_deliveries", Recorded)
_RECORD_LIMITED = _SQL.count("record_limited")
_IGNORE_DELIVERY = _SQL.changed("ignore_delivery")
_FAIL_DELIVERY = _SQL.changed("fail_delivery")
_DELIVERY_VERDICT = _SQL.one_or_none("delivery_verdict", Settled)
_CLAIM_STALE_DELIVERIES = _SQL.many("claim_stale_deliveries", StoredDelivery)
_WAITING_TRIGGERS = _SQL.column("waiting_triggers", UUID)
_CLAIM_TURN = _SQL.one_or_none("claim_turn", StoredDelivery)
_LEAVE_QUEUE = _SQL.count("leave_queue")
_FIND_STORED_DELIVERY = _SQL.one_or_none("find_stored_delivery", StoredDelivery)
_TRIGGER_STATE = _SQL.one_or_none("trigger_state", TriggerState)
_RECORD_REPLAY = _SQL.one_or_none("record_replay", Recorded)
_LIST_DELIVERIES = _SQL.many("list_deliveries", Delivery)
_LIST_DELIVERIES_BY_STATUS = _SQL.many("list_deliveries_by_status", Delivery)
_SEARCH_DELIVERIES = _SQL.many("search_deliveries", Delivery)
_COUNT_DELIVERIES = _SQL.value("count_deliveries", int)
_COUNT_FOUND_DELIVERIES = _SQL.value("count_found_deliveries", int)
_COUNT_SEARCHED_DELIVERIES = _SQL.value("count_searched_deliveries", int)
_LIST_WORKSPACE_DELIVERIES = _SQL.many("list_workspace_deliveries", Delivery)
_SEARCH_WORKSPACE_DELIVERIES = _SQL.many("search_workspace_deliveries", Delivery)
_SEARCH_QUERY = _SQL.value("search_query", str)
_FIND_DELIVERY = _SQL.one_or_none("find_delivery", DeliveryDetail)
_FOLD_TALLY = _SQL.count("fold_tally")
_TALLY_ROWS = _SQL.value("tally_rows", int)
_PLAN_REPLAY = _SQL.value("plan_replay", int)
_ADD_BULK_REPLAY = _SQL.one("add_bulk_replay", BulkReplay)
_FIND_BULK_REPLAY = _SQL.one_or_none("find_bulk_replay", BulkReplay)
_CANCEL_BULK_REPLAY = _SQL.changed("cancel_bulk_replay")
_CLAIM_BULK_REPLAY = _SQL.one_or_none("claim_bulk_replay", ReplayWork)
_NEXT_REPLAYED = _SQL.one_or_none("next_replayed", ReplayItem)
_ADVANCE_BULK_REPLAY = _SQL.changed("advance_bulk_replay")
_COMPLETE_BULK_REPLAY = _SQL.count("complete_bulk_replay")

FINISH_SECONDS = 10.0
"""A delivery that its process has not finished by then may be claimed by another one."""
_TALLY_ROWS_MIN = 200
"""Up to this many rows of the tally are summed as fast as one row, so they are left as they are."""


class PostgresWebhookStore:
    """Implements the stores of `webhooks.ports` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # --- receiving ----------------------------------------------------------------------------------------------------

    async def find_trigger(self, token: str) -> TriggerRow | None:
        return await _FIND_WEBHOOK_TRIGGER(self._pool, token=token)

    async def token_digests(self, after: UUID, rows_max: int) -> list[tuple[UUID, bytes]]:
        return await _TOKEN_DIGESTS(self._pool, after=after, rows_max=rows_max)

    async def record(self, drafts: Sequence[DeliveryDraft]) -> Sequence[Recorded | None]:
        firsts, followed = _repeats_apart(drafts)
        rows = await _RECORD_DELIVERIES(self._pool, **_columns(firsts), finish_seconds=FINISH_SECONDS)
        found = {row.request_id: row for row in rows}
        return [found.get(followed[draft.id]) for draft in drafts]

    async def record_limited(self, rows: Sequence[tuple[LimitedDraft, int]]) -> None:
        drafts = [draft for draft, _ in rows]
        await _RECORD_LIMITED(
            self._pool,
            ids=[draft.id for draft in drafts],
            trigger_ids=[draft.trigger_id for draft in drafts],
            events=[draft.event for draft in drafts],
            headers=[draft.headers for draft in drafts],
            content_types=[draft.content_type for draft in drafts],
            times=[times for _, times in rows],
        )

    async def ignore(self, delivery_id: UUID, reason: str) -> bool:
        return await _IGNORE_DELIVERY(self._pool, delivery_id=delivery_id, reason=reason)

    async def fail(self, delivery_id: UUID, error: str) -> bool:
        return await _FAIL_DELIVERY(self._pool, delivery_id=delivery_id, error=error)

    async def verdict(self, delivery_id: UUID) -> Settled | None:
        return await _DELIVERY_VERDICT(self._pool, delivery_id=delivery_id)

    async def claim_stale(self, rows_max: int) -> list[StoredDelivery]:
        return await _CLAIM_STALE_DELIVERIES(self._pool, finish_seconds=FINISH_SECONDS, rows_max=rows_max)

    # --- deliveries that wait for their turn --------------------------------------------------------------------------

    async def waiting_triggers(self, triggers_max: int) -> list[UUID]:
        return await _WAITING_TRIGGERS(self._pool, triggers_max=triggers_max)

    async def claim_turn(self, trigger_id: UUID) -> StoredDelivery | None:
        return await _CLAIM_TURN(self._pool, trigger_id=trigger_id, finish_seconds=FINISH_SECONDS)

    async def leave_queue(self, delivery_id: UUID) -> None:
        await _LEAVE_QUEUE(self._pool, delivery_id=delivery_id)

    # --- replays ------------------------------------------------------------------------------------------------------

    async def find_stored(self, autopilot_id: UUID, delivery_id: UUID) -> StoredDelivery | None:
        return await _FIND_STORED_DELIVERY(self._pool, autopilot_id=autopilot_id, delivery_id=delivery_id)

    async def trigger_state(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerState | None:
        return await _TRIGGER_STATE(self._pool, autopilot_id=autopilot_id, trigger_id=trigger_id)

    async def record_replay(self, replay_id: UUID, original_id: UUID, idempotency_key: str | None) -> Recorded | None:
        return await _RECORD_REPLAY(
            self._pool,
            id=replay_id,
            original_id=original_id,
            idempotency_key=idempotency_key,
            finish_seconds=FINISH_SECONDS,
        )

    async def plan(self, autopilot_id: UUID, wanted: ReplayFilter) -> int:
        async with self._pool.connection() as conn:
            return await _PLAN_REPLAY(conn, autopilot_id=autopilot_id, **await _wanted(conn, wanted))

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
        return await _ADD_BULK_REPLAY(
            self._pool,
            id=replay_id,
            workspace_id=workspace_id,
            autopilot_id=autopilot_id,
            user_id=user_id,
            filter=filter.decode(),
            budget=budget,
            planned=planned,
        )

    async def find_bulk(self, autopilot_id: UUID, replay_id: UUID) -> BulkReplay | None:
        return await _FIND_BULK_REPLAY(self._pool, autopilot_id=autopilot_id, replay_id=replay_id)

    async def cancel_bulk(self, autopilot_id: UUID, replay_id: UUID) -> bool:
        return await _CANCEL_BULK_REPLAY(self._pool, autopilot_id=autopilot_id, replay_id=replay_id)

    async def claim_bulk(self, token: UUID, lease_seconds: float) -> ReplayWork | None:
        return await _CLAIM_BULK_REPLAY(self._pool, token=token, lease_seconds=lease_seconds)

    async def next_item(self, work: ReplayWork, wanted: ReplayFilter, after: ReplayItem) -> ReplayItem | None:
        async with self._pool.connection() as conn:
            return await _NEXT_REPLAYED(
                conn,
                autopilot_id=work.autopilot_id,
                until_at=work.until_at,
                cursor_at=after.created_at,
                cursor_id=after.id,
                **await _wanted(conn, wanted),
            )

    async def advance_bulk(
        self, replay_id: UUID, token: UUID, item: ReplayItem, outcome: str, lease_seconds: float
    ) -> bool:
        counts = {name: int(name == outcome) for name in ("accepted", "skipped", "failed")}
        return await _ADVANCE_BULK_REPLAY(
            self._pool,
            replay_id=replay_id,
            token=token,
            cursor_at=item.created_at,
            cursor_id=item.id,
            lease_seconds=lease_seconds,
            **counts,
        )

    async def complete_bulk(self, replay_id: UUID, token: UUID) -> None:
        await _COMPLETE_BULK_REPLAY(self._pool, replay_id=replay_id, token=token)

    # --- reading the log ----------------------------------------------------------------------------------------------

    async def page(self, autopilot_id: UUID, wanted: DeliveryFilter, limit: int, offset: int) -> list[Delivery]:
        page = {"autopilot_id": autopilot_id, "event": wanted.event, "row_limit": limit, "row_offset": offset}
        async with self._pool.connection() as conn:
            if wanted.text is not None:
                words = await _words(conn, wanted.text)
                return await _SEARCH_DELIVERIES(conn, words=words, status=wanted.status, **page)
            if wanted.status is not None:
                return await _LIST_DELIVERIES_BY_STATUS(conn, status=wanted.status, **page)
            return await _LIST_DELIVERIES(conn, **page)

    async def workspace_page(
        self, workspace_id: UUID, wanted: DeliveryFilter, limit: int, offset: int
    ) -> list[Delivery]:
        page = {"status": wanted.status, "event": wanted.event, "row_limit": limit, "row_offset": offset}
        async with self._pool.connection() as conn:
            if wanted.text is None:
                return await _LIST_WORKSPACE_DELIVERIES(conn, workspace_id=workspace_id, **page)
            words = await _words(conn, wanted.text)
            return await _SEARCH_WORKSPACE_DELIVERIES(conn, workspace_id=workspace_id, words=words, **page)

    async def count(self, workspace_id: UUID, autopilot_id: UUID | None, wanted: DeliveryFilter) -> int:
        place = {"workspace_id": workspace_id, "autopilot_id": autopilot_id, "status": wanted.status}
        async with self._pool.connection() as conn:
            if wanted.text is not None:
                words = await _words(conn, wanted.text)
                return await _COUNT_SEARCHED_DELIVERIES(conn, words=words, event=wanted.event, **place)
            if wanted.event is not None:
                return await _COUNT_FOUND_DELIVERIES(conn, event=wanted.event, **place)
            return await _COUNT_DELIVERIES(conn, **place)

    async def find(self, autopilot_id: UUID, delivery_id: UUID) -> DeliveryDetail | None:
        return await _FIND_DELIVERY(self._pool, autopilot_id=autopilot_id, delivery_id=delivery_id)

    # --- keeping the log small ----------------------------------------------------------------------------------------

    async def fold_tally(self, *, rows_max: int = 100_000) -> int:
        """Sum up the rows of the tally. Returns 0, because no visible count changes."""
        async with self._pool.connection() as conn:
            if await _TALLY_ROWS(conn) > _TALLY_ROWS_MIN:
                await _FOLD_TALLY(conn, rows_max=rows_max)
        return 0


async def _words(conn: TrioConnection[Any], text: str) -> str:
    return await _SEARCH_QUERY(conn, text=text.replace("\x00", " "))


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
