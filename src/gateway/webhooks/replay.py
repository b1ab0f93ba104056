"""Replays of deliveries: of a single one, or of many in a bulk replay, which any process can continue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from uuid import UUID

import msgspec
import structlog
import trio

from gateway.concurrency import Signal, reached
from gateway.errors import DomainError, Invalid, NotFound, StoreError, StoreUnavailable
from gateway.ids import new_id
from gateway.webhooks.delivery import Intake, stored_firing
from gateway.webhooks.envelope import InvalidBody
from gateway.webhooks.ports import (
    BulkReplay,
    BulkStore,
    ReplayFilter,
    ReplayItem,
    ReplayStore,
    ReplayWork,
    StoredDelivery,
)

logger = structlog.get_logger(__name__)

KEY_CHARS_MAX = 255
BUDGET_MAX = 10_000
LEASE_SECONDS = 30.0
POLL_SECONDS = 5.0


class Replayer:
    """Replays a single delivery. The replay is a new delivery that refers to the original one."""

    def __init__(self, store: ReplayStore, intake: Intake, *, mint: Callable[[], UUID] = new_id) -> None:
        self._store = store
        self._intake = intake
        self._mint = mint

    async def replay(self, autopilot_id: UUID, delivery_id: UUID, idempotency_key: str | None) -> tuple[UUID, str]:
        """Replay a delivery. Return the new delivery's id and its outcome: accepted, skipped, ignored or failed.

        The same key finds the replay that it made before. Raises Invalid for a delivery that cannot be replayed,
        and NotFound for a delivery that does not exist or whose trigger is gone.
        """
        original = await self._store.find_stored(autopilot_id, delivery_id)
        if original is None:
            raise NotFound("delivery_not_found", "this autopilot has no such delivery")
        await self._check(original)
        recorded = await self._store.record_replay(self._mint(), original.id, idempotency_key)
        stored = None if recorded is None else await self._store.find_stored(autopilot_id, recorded.id)
        if stored is None:
            raise NotFound("delivery_not_found", "this autopilot has no such delivery")
        reached("webhooks.replay_recorded")
        if stored.status != "queued":
            return stored.id, {"dispatched": "accepted"}.get(stored.status, stored.status)
        firing = await trio.to_thread.run_sync(stored_firing, stored)
        answer = await self._intake.dispatch(stored.provider, firing, stored.id, stored.trigger_id)
        return stored.id, str(answer.body["status"])

    async def _check(self, original: StoredDelivery) -> None:
        if original.status == "rejected" or original.signature_status == "invalid":
            raise _refused("delivery_rejected", "a rejected delivery cannot be replayed")
        if original.status == "queued":
            raise _refused("delivery_queued", "the delivery has not been decided yet")
        try:
            await trio.to_thread.run_sync(stored_firing, original)
        except InvalidBody as error:
            raise _refused("body_unusable", str(error)) from error
        state = await self._store.trigger_state(original.autopilot_id, original.trigger_id)
        if state is None:
            raise NotFound("trigger_not_found", "the trigger of this delivery is gone")
        if state.autopilot_status != "active":
            raise _refused("autopilot_inactive", f"the autopilot is {state.autopilot_status}")
        if not state.enabled:
            raise _refused("trigger_disabled", "the trigger is disabled")


def checked_key(header: str | None) -> str | None:
    """Return the key of an Idempotency-Key header, or None without one.

    Raises Invalid for a key that is too long or not printable.
    """
    key = (header or "").strip()
    if len(key) > KEY_CHARS_MAX or not key.isprintable():
        message = f"an Idempotency-Key has at most {KEY_CHARS_MAX} printable characters"
        raise Invalid("invalid_idempotency_key", message, field="Idempotency-Key")
    return key or None


def _refused(code: str, message: str) -> Invalid:
    return Invalid(code, message)


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a bulk replay: `filter` selects `matched` deliveries, and `planned` of them would be replayed."""

    filter: ReplayFilter
    budget: int
    matched: int

    @property
    def planned(self) -> int:
        return min(self.matched, self.budget)


class BulkReplays:
    """Plans, starts and ends bulk replays. `wake` wakes the task of this process that carries them out."""

    def __init__(self, store: BulkStore, wake: Signal, *, mint: Callable[[], UUID] = new_id) -> None:
        self._store = store
        self._wake = wake
        self._mint = mint

    async def plan(self, autopilot_id: UUID, wanted: ReplayFilter, budget: int) -> Plan:
        """Make a plan. Raises Invalid for a budget outside 1 to BUDGET_MAX."""
        if not 1 <= budget <= BUDGET_MAX:
            message = f"a budget is a number of deliveries from 1 to {BUDGET_MAX}"
            raise Invalid("invalid_budget", message, field="budget")
        return Plan(wanted, budget, await self._store.plan(autopilot_id, wanted))

    async def start(self, workspace_id: UUID, autopilot_id: UUID, user_id: UUID, plan: Plan) -> BulkReplay:
        replay = await self._store.add_bulk(
            self._mint(),
            workspace_id,
            autopilot_id,
            user_id,
            filter=_without_nul(asdict(plan.filter)),
            budget=plan.budget,
            planned=plan.planned,
        )
        self._wake.set()
        return replay

    async def find(self, autopilot_id: UUID, replay_id: UUID) -> BulkReplay:
        replay = await self._store.find_bulk(autopilot_id, replay_id)
        if replay is None:
            raise NotFound("replay_not_found", "this autopilot has no such bulk replay")
        return replay

    async def cancel(self, autopilot_id: UUID, replay_id: UUID) -> BulkReplay:
        """End a bulk replay. Deliveries replayed by then stay. One that has ended already stays as it is."""
        await self._store.cancel_bulk(autopilot_id, replay_id)
        return await self.find(autopilot_id, replay_id)


def _without_nul(fields: dict[str, object]) -> bytes:
    return msgspec.json.encode(
        {name: value.replace("\x00", " ") if isinstance(value, str) else value for name, value in fields.items()}
    )


async def run_replays(
    store: BulkStore,
    replayer: Replayer,
    wake: Signal,
    *,
    poll_seconds: float = POLL_SECONDS,
    lease_seconds: float = LEASE_SECONDS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Carry out bulk replays until cancelled, one at a time, including those that another process began.

    Progress is stored after each delivery, and the bulk replay has an idempotency key of its own. So a process that
    takes over from one that was killed finds the last replay and does not make it a second time. While the database is
    away, this waits and tries again. An unexpected error fails its delivery only.
    """
    task_status.started()
    while True:
        try:
            worked = await _carry_out(store, replayer, lease_seconds)
        except StoreError as error:
            logger.warning("bulk_replay_postponed", error=str(error))
            worked = False
        if not worked:
            await wake.wait(poll_seconds)


async def _carry_out(store: BulkStore, replayer: Replayer, lease_seconds: float) -> bool:
    token = new_id()
    work = await store.claim_bulk(token, lease_seconds)
    if work is None:
        return False
    wanted = msgspec.convert(work.filter, ReplayFilter, strict=False)
    done, after = work.done, ReplayItem(work.cursor_id, work.cursor_at)
    while done < work.planned:
        item = await store.next_item(work, wanted, after)
        if item is None:
            break
        outcome = await _replay_item(replayer, work, item)
        reached("webhooks.bulk_item")
        if not await store.advance_bulk(work.id, token, item, outcome, lease_seconds):
            # It was cancelled, or its lease went to another process. In both cases this process must stop.
            return True
        done, after = done + 1, item
    await store.complete_bulk(work.id, token)
    return True


async def _replay_item(replayer: Replayer, work: ReplayWork, item: ReplayItem) -> str:
    """Replay one delivery and return how to count it: accepted, skipped or failed.

    Raises StoreUnavailable, because a database that is away is not a failure of the delivery.
    """
    try:
        _, outcome = await replayer.replay(work.autopilot_id, item.id, f"bulk:{work.id}")
    except StoreUnavailable:
        raise
    except DomainError as error:
        logger.info("bulk_replay_refused", replay_id=str(work.id), delivery_id=str(item.id), code=error.code)
        return "failed"
    except Exception:
        logger.exception("bulk_replay_failed", replay_id=str(work.id), delivery_id=str(item.id))
        return "failed"
    return outcome if outcome in ("accepted", "failed") else "skipped"
