"""The claim that makes a message exist once.

A claim is a row keyed by (installation, message id). The worker that inserts it, or retakes an abandoned one, gets a
fresh token. Only that token may finish the claim: a slow worker whose claim was retaken finds its token invalid and
rolls back. `TRANSITIONS` is the whole state machine. `sql/inbound.sql` implements it with one statement per step
(`claim_inbound_dedup`, `mark_inbound_processed`, `release_inbound_claim`). The in-memory store of the tests calls
`step`, and one test suite checks both against the same expectations.

The database owns the clock: `now` is always the time of the statement, never of the process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

STALE_AFTER = timedelta(seconds=60)
"""The time for which a claim in flight is respected.

It is far above the time that one message takes, and below the time of the platform's second redelivery.
"""


class ClaimPhase(Enum):
    """The phase of a claim row at one moment. `STALE` means in flight for longer than `STALE_AFTER`."""

    ABSENT = "absent"
    IN_FLIGHT = "in_flight"
    STALE = "stale"
    PROCESSED = "processed"


class ClaimStep(Enum):
    """The steps that a worker may try. `MARK` and `RELEASE` take effect only with the claim's current token."""

    CLAIM = "claim"
    MARK = "mark"
    RELEASE = "release"


TRANSITIONS: dict[tuple[ClaimPhase, ClaimStep], ClaimPhase] = {
    (ClaimPhase.ABSENT, ClaimStep.CLAIM): ClaimPhase.IN_FLIGHT,
    (ClaimPhase.STALE, ClaimStep.CLAIM): ClaimPhase.IN_FLIGHT,
    (ClaimPhase.IN_FLIGHT, ClaimStep.MARK): ClaimPhase.PROCESSED,
    (ClaimPhase.IN_FLIGHT, ClaimStep.RELEASE): ClaimPhase.ABSENT,
    # The worker is late, but no other worker retook the claim: its work counts.
    (ClaimPhase.STALE, ClaimStep.MARK): ClaimPhase.PROCESSED,
    (ClaimPhase.STALE, ClaimStep.RELEASE): ClaimPhase.ABSENT,
}
"""A pair that is missing here changes nothing: a processed claim is final, and a live one stays with its holder."""


class ClaimAnswer(Enum):
    """The answer to a worker that asked to claim a message."""

    TAKEN = "taken"
    """This worker has the claim: its token is the live one."""
    HELD = "held"
    """Another worker has it in flight. If that one dies, a later redelivery finds the claim stale."""
    PROCESSED = "processed"
    """The message was handled before: its outcome is committed."""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim as stored. It is in flight while `processed_at` is None."""

    token: UUID
    received_at: datetime
    processed_at: datetime | None = None


def phase_of(row: ClaimRow | None, *, now: datetime) -> ClaimPhase:
    """Return the phase of a claim row at the time `now`. None stands for an absent row."""
    if row is None:
        return ClaimPhase.ABSENT
    if row.processed_at is not None:
        return ClaimPhase.PROCESSED
    return ClaimPhase.STALE if now - row.received_at > STALE_AFTER else ClaimPhase.IN_FLIGHT


def step(row: ClaimRow | None, action: ClaimStep, token: UUID, *, now: datetime) -> tuple[ClaimRow | None, bool]:
    """Return the row after `action`, and whether it took effect. `ClaimStep.CLAIM` stores `token` in the row."""
    if action is not ClaimStep.CLAIM and (row is None or row.token != token):
        return row, False
    target = TRANSITIONS.get((phase_of(row, now=now), action))
    if target is None:
        return row, False
    return _row_in(target, row, token, now), True


def _row_in(phase: ClaimPhase, row: ClaimRow | None, token: UUID, now: datetime) -> ClaimRow | None:
    if phase is ClaimPhase.PROCESSED and row is not None:
        return replace(row, processed_at=now)
    return ClaimRow(token, now) if phase is ClaimPhase.IN_FLIGHT else None


def answer_to_refused(row: ClaimRow | None) -> ClaimAnswer:
    """Return the answer for a worker that did not get the claim.

    A row that vanished meanwhile was released. The answer is then `HELD`, so that a redelivery tries again.
    """
    return ClaimAnswer.PROCESSED if row is not None and row.processed_at is not None else ClaimAnswer.HELD
