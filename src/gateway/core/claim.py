"""The claim that makes a message exist once.

A claim is a row keyed by (installation, message id). Whoever inserts it, or retakes one that was abandoned, gets a
fresh token, and only that token may finish the claim: a slow worker whose claim was retaken finds that its token counts
for nothing and rolls back. `TRANSITIONS` is the whole machine. The SQL in `sql/inbound.sql` says the same in one
statement each (`claim_inbound_dedup`, `mark_inbound_processed`, `release_inbound_claim`), the in-memory store of the
tests calls `step`, and one suite holds both to it.

The database owns the clock: `now` is always the time of the statement, never of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

STALE_AFTER = timedelta(seconds=60)
"""How long a claim in flight is respected. Far above what one message takes, below the platform's second redelivery."""


class Phase(Enum):
    """What a claim row means at one moment. `STALE` is `IN_FLIGHT` for longer than `STALE_AFTER`."""

    ABSENT = "absent"
    IN_FLIGHT = "in_flight"
    STALE = "stale"
    PROCESSED = "processed"


class Step(Enum):
    """What a worker may try. `MARK` and `RELEASE` count only with the token of the claim as it stands."""

    CLAIM = "claim"
    MARK = "mark"
    RELEASE = "release"


TRANSITIONS: dict[tuple[Phase, Step], Phase] = {
    (Phase.ABSENT, Step.CLAIM): Phase.IN_FLIGHT,
    (Phase.STALE, Step.CLAIM): Phase.IN_FLIGHT,
    (Phase.IN_FLIGHT, Step.MARK): Phase.PROCESSED,
    (Phase.IN_FLIGHT, Step.RELEASE): Phase.ABSENT,
    # Late, but nobody retook it: the work counts.
    (Phase.STALE, Step.MARK): Phase.PROCESSED,
    (Phase.STALE, Step.RELEASE): Phase.ABSENT,
}
"""A pair that is not here changes nothing: a processed claim is final, a live one is not taken from its holder."""


class ClaimAnswer(Enum):
    """What a worker that asked for a message is told."""

    TAKEN = "taken"
    """It is this worker's: its token is the live one."""
    HELD = "held"
    """Another worker has it in flight. If that one dies, a later redelivery finds the claim stale."""
    PROCESSED = "processed"
    """Its outcome is committed."""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim as stored. In flight while `processed_at` is None."""

    token: UUID
    received_at: datetime
    processed_at: datetime | None = None


def phase_of(row: ClaimRow | None, *, now: datetime) -> Phase:
    if row is None:
        return Phase.ABSENT
    if row.processed_at is not None:
        return Phase.PROCESSED
    return Phase.STALE if now - row.received_at > STALE_AFTER else Phase.IN_FLIGHT


def step(row: ClaimRow | None, action: Step, token: UUID, *, now: datetime) -> tuple[ClaimRow | None, bool]:
    """The row after `action`, and whether it changed. A claim takes `token` as its new one."""
    if action is not Step.CLAIM and (row is None or row.token != token):
        return row, False
    target = TRANSITIONS.get((phase_of(row, now=now), action))
    if target is None:
        return row, False
    return _row_in(target, row, token, now), True


def _row_in(phase: Phase, row: ClaimRow | None, token: UUID, now: datetime) -> ClaimRow | None:
    if phase is Phase.PROCESSED and row is not None:
        return replace(row, processed_at=now)
    return ClaimRow(token, now) if phase is Phase.IN_FLIGHT else None


def answer_to_refused(row: ClaimRow | None) -> ClaimAnswer:
    """What to tell a worker that did not get the claim. A row that vanished meanwhile was released: come again."""
    return ClaimAnswer.PROCESSED if row is not None and row.processed_at is not None else ClaimAnswer.HELD
