"""How a firing becomes a run: what those who fire (webhooks, people) ask of autopilots, and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import UUID

RunSource = Literal["schedule", "manual", "webhook", "api"]
Outcome = Literal["accepted", "skipped", "refused"]


@dataclass(frozen=True, slots=True)
class Firing:
    """One request for a run.

    A repeat of the same `delivery_id`, or of the same `idempotency_key` for the same autopilot, gets the run that the
    first one got. `payload` is the envelope {event, eventPayload, request} of a webhook, and anything JSON else.
    `actor_id` is the person who fires by hand; None for a machine.
    """

    autopilot_id: UUID
    source: RunSource
    trigger_id: UUID | None = None
    delivery_id: UUID | None = None
    idempotency_key: str | None = None
    actor_id: UUID | None = None
    payload: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What became of a firing. Only a `refused` one has no run.

    `accepted`: a run was begun. `skipped`: a run says in `reason` (for people; `reason_code` for programs) why nothing
    was begun. `refused`: nothing was written, because the trigger or the autopilot is off; `reason` is then one of
    `trigger_disabled`, `autopilot_paused`, `autopilot_archived`, `trigger_not_found`, `autopilot_not_found`.
    `repeated`: the run is that of an earlier firing with the same delivery or key.
    """

    run_id: UUID | None
    status: Outcome
    reason: str = ""
    reason_code: str = ""
    repeated: bool = False


class Dispatcher(Protocol):
    """Implemented by gateway.work.autopilots.AutopilotService."""

    async def dispatch(self, firing: Firing) -> Dispatched:
        """Begin a run, or find the one that this firing began before, in one transaction of its own.

        The run, its issue or task, the issue's own task and everything told about them commit together: a crash leaves
        all of it or nothing, and the same firing again is then the first or a repeat.

        Must not be called while holding a connection of the pool. Raises StoreUnavailable or StoreConflict; the same
        firing may be tried again.
        """
