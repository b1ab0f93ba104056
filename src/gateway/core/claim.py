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


class Phase(Enum):
    """The phase of a claim row at one moment. `STALE` means in flight for longer than `STALE_AFTER`."""

    ABSENT = "absent"
    IN_FLIGHT = "in_flight"
    STALE = "stale"
    PROCESSED = "processed"


class Step(Enum):
    """The steps that a worker may try. `MARK` and `RELEASE` take effect only with the claim's current token."""

    CLAIM = "claim"
    MARK = "mark"
    RELEASE = "release"


TRANSITIONS: dict[tuple[Phase, Step], Phase] = {
    (Phase.ABSENT, Step.CLAIM): Phase.IN_FLIGHT,
    (Phase.STALE, Step.CLAIM): Phase.IN_FLIGHT,
    (Phase.IN_FLIGHT, Step.MARK): Phase.PROCESSED,
    (Phase.IN_FLIGHT, Step.RELEASE): Phase.ABSENT,
    # The worker is late, but no other worker retook the claim: its work counts.
    (Phase.STALE, Step.MARK): Phase.PROCESSED,
    (Phase.STALE, Step.RELEASE): Phase.ABSENT,
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


def phase_of(row: ClaimRow | None, *, now: datetime) -> Phase:
    """Return the phase of a claim row at the time `now`. None stands for an absent row."""
    if row is None:
        return Phase.ABSENT
    if row.processed_at is not None:
        return Phase.PROCESSED
    return Phase.STALE if now - row.received_at > STALE_AFTER else Phase.IN_FLIGHT


def step(row: ClaimRow | None, action: Step, token: UUID, *, now: datetime) -> tuple[ClaimRow | None, bool]:
    """Return the row after `action`, and whether the action took effect. `Step.CLAIM` stores `token` in the row."""
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
    """Return the answer for a worker that did not get the claim.

    A row that vanished meanwhile was released. The answer is then `HELD`, so that a redelivery tries again.
    """
    return ClaimAnswer.PROCESSED if row is not None and row.processed_at is not None else ClaimAnswer.HELD
