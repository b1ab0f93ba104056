"""The store interfaces of the webhook layer, and the rows that pass through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

DECIDED = "webhook_delivery_decided"
"""The constraint that a store names when a run is begun for a delivery that was decided already."""


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A stored webhook trigger at one revision, with its sealed secrets."""

    id: UUID
    workspace_id: UUID
    autopilot_id: UUID
    provider: str
    token: str = field(repr=False)
    revision: int
    event_filters: str | None
    secret_ids: Sequence[UUID]
    sealed_secrets: Sequence[str] = field(repr=False)
    secret_expiries: Sequence[datetime | None]


@dataclass(frozen=True, slots=True)
class DeliveryDraft:
    """A request to be stored, judged by `revision` of its trigger.

    `verdict` is `rejected`, or `queued` for a request whose signature was accepted. A `queued` request with a `reason`
    is stored as ignored. A request that `waits` begins when its turn comes.
    """

    id: UUID
    trigger_id: UUID
    token: str = field(repr=False)
    revision: int
    event: str
    dedupe_key: str | None
    dedupe_source: str | None
    signature_status: str
    secret_id: UUID | None
    verdict: str
    reason: str | None
    error: str | None
    headers: str = field(repr=False)
    content_type: str
    body: bytes = field(repr=False)
    response_status: int | None = None
    response_body: str | None = field(default=None, repr=False)
    waits: bool = False

    @property
    def holds_key(self) -> bool:
        """True if a later delivery with the same name counts as a repeat of this one."""
        return self.dedupe_key is not None and self.verdict != "rejected"


@dataclass(frozen=True, slots=True)
class LimitedDraft:
    """The row for the requests at a trigger that were refused within a minute. It shows the first of them."""

    id: UUID
    trigger_id: UUID
    event: str
    headers: str = field(repr=False)
    content_type: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """The row of a request or a replay. An `id` other than `request_id` means that an earlier row was found.

    The delivery `waits` for its turn if it must, or if other deliveries of its trigger already wait.
    """

    request_id: UUID
    id: UUID
    autopilot_id: UUID
    trigger_id: UUID
    status: str
    reason_code: str | None
    autopilot_run_id: UUID | None
    received_at: datetime
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome of a delivery."""

    id: UUID
    autopilot_id: UUID
    trigger_id: UUID
    status: str
    reason_code: str | None
    autopilot_run_id: UUID | None
    skipped: bool | None
    skip_reason: str | None


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """The stored fields from which a delivery is dispatched without its request."""

    id: UUID
    workspace_id: UUID
    autopilot_id: UUID
    trigger_id: UUID
    provider: str
    event: str
    signature_status: str
    status: str
    selected_headers: Mapping[str, Any] = field(repr=False)
    content_type: str | None
    raw_body: bytes | None = field(repr=False)
    received_at: datetime
    replayed_from_delivery_id: UUID | None
    dispatch_attempts: int


@dataclass(frozen=True, slots=True)
class TriggerState:
    enabled: bool
    autopilot_status: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the log without its large columns."""

    id: UUID
    workspace_id: UUID | None
    autopilot_id: UUID | None
    trigger_id: UUID | None
    source: str
    provider: str
    event: str
    dedupe_key: str | None
    dedupe_source: str | None
    signature_status: str
    signing_secret_id: UUID | None
    status: str
    reason_code: str | None
    attempt_count: int
    dispatch_attempts: int
    available_at: datetime
    replay_idempotency_key: str | None
    content_type: str | None
    response_status: int | None
    autopilot_run_id: UUID | None
    replayed_from_delivery_id: UUID | None
    error: str | None
    received_at: datetime
    last_attempt_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryDetail(Delivery):
    """A whole row of the log."""

    selected_headers: Mapping[str, Any] = field(repr=False)
    raw_body: bytes | None = field(repr=False)
    response_body: str | None = field(repr=False)


STATUSES = ("queued", "dispatched", "rejected", "ignored", "failed")


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Selects deliveries. `text`: each of its words must be the beginning of a word in the body."""

    status: str | None = None
    event: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayFilter(DeliveryFilter):
    """Selects the deliveries of a bulk replay: those received from `since` on and before `until`."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class BulkReplay:
    """A bulk replay as people see it. `planned` is the number of deliveries to replay, at most `budget`."""

    id: UUID
    autopilot_id: UUID
    filter: Mapping[str, Any]
    budget: int
    planned: int
    status: str
    accepted: int
    skipped: int
    failed: int
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReplayWork:
    """A bulk replay as the process sees it that carries it out."""

    id: UUID
    autopilot_id: UUID
    filter: Mapping[str, Any]
    planned: int
    done: int
    until_at: datetime
    cursor_at: datetime
    cursor_id: UUID


@dataclass(frozen=True, slots=True)
class ReplayItem:
    id: UUID
    created_at: datetime


class IntakeStore(Protocol):
    """The store of requests. Every method raises StoreUnavailable or StoreConflict."""

    async def find_trigger(self, token: str) -> TriggerRow | None: ...

    async def record(self, drafts: Sequence[DeliveryDraft]) -> Sequence[Recorded | None]:
        """Store requests together. The result is None for a request judged by an old revision of its trigger."""

    async def ignore(self, delivery_id: UUID, reason: str) -> bool:
        """Mark a delivery as ignored. False when it was decided already."""

    async def fail(self, delivery_id: UUID, error: str) -> bool:
        """Mark a delivery as failed. False when it was decided already."""

    async def verdict(self, delivery_id: UUID) -> Settled | None: ...

    async def claim_stale(self, rows_max: int) -> list[StoredDelivery]:
        """Take deliveries that a process received and did not finish.

        The next attempt at each is postponed, so that no other process takes it too.
        """


class TurnStore(Protocol):
    """Deliveries that wait for their turn, in a queue for each trigger. Any process may begin the first of a queue."""

    async def waiting_triggers(self, triggers_max: int) -> list[UUID]:
        """Return the triggers at which deliveries wait."""

    async def claim_turn(self, trigger_id: UUID) -> StoredDelivery | None:
        """Claim the first delivery of a trigger's queue. None while another process has it.

        The delivery stays the first until it is decided. If its process dies, it is claimed again later.
        """

    async def leave_queue(self, delivery_id: UUID) -> None:
        """Take a delivery out of the queue, so that the ones behind it go on. `claim_stale` finds it later."""


class LimitedStore(Protocol):
    async def record_limited(self, rows: Sequence[tuple[LimitedDraft, int]]) -> None:
        """Store rows, each with the number of requests to add to it. Raises StoreUnavailable or StoreConflict."""


class TokenStore(Protocol):
    async def token_digests(self, after: UUID, rows_max: int) -> list[tuple[UUID, bytes]]:
        """Return the ids and token digests of the triggers with an id above `after`, in the order of their ids."""


class ReplayStore(IntakeStore, Protocol):
    async def find_stored(self, autopilot_id: UUID, delivery_id: UUID) -> StoredDelivery | None: ...

    async def trigger_state(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerState | None: ...

    async def record_replay(self, replay_id: UUID, original_id: UUID, idempotency_key: str | None) -> Recorded | None:
        """Store a new row for the same body, or find the row that the same key made before.

        None when the original is gone.
        """


class BulkStore(Protocol):
    """The store of bulk replays. Any process may carry one out, one process at a time."""

    async def plan(self, autopilot_id: UUID, wanted: ReplayFilter) -> int: ...

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
    ) -> BulkReplay: ...

    async def find_bulk(self, autopilot_id: UUID, replay_id: UUID) -> BulkReplay | None: ...

    async def cancel_bulk(self, autopilot_id: UUID, replay_id: UUID) -> bool: ...

    async def claim_bulk(self, token: UUID, lease_seconds: float) -> ReplayWork | None: ...

    async def next_item(self, work: ReplayWork, wanted: ReplayFilter, after: ReplayItem) -> ReplayItem | None: ...

    async def advance_bulk(
        self, replay_id: UUID, token: UUID, item: ReplayItem, outcome: str, lease_seconds: float
    ) -> bool:
        """Count the outcome (`accepted`, `skipped` or `failed`) and move the cursor past the item.

        Renews the lease. False when the lease is lost.
        """

    async def complete_bulk(self, replay_id: UUID, token: UUID) -> None: ...


class LogStore(Protocol):
    """The store of the log, read only."""

    async def page(self, autopilot_id: UUID, wanted: DeliveryFilter, limit: int, offset: int) -> list[Delivery]: ...

    async def workspace_page(
        self, workspace_id: UUID, wanted: DeliveryFilter, limit: int, offset: int
    ) -> list[Delivery]: ...

    async def count(self, workspace_id: UUID, autopilot_id: UUID | None, wanted: DeliveryFilter) -> int: ...

    async def find(self, autopilot_id: UUID, delivery_id: UUID) -> DeliveryDetail | None: ...
