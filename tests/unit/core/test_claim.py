from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest

from gateway.core.claim import (
    STALE_AFTER,
    ClaimAnswer,
    ClaimPhase,
    ClaimRow,
    ClaimStep,
    answer_to_refused,
    phase_of,
    step,
)

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
OURS, THEIRS = UUID(int=1), UUID(int=2)

ROWS = {
    ClaimPhase.ABSENT: None,
    ClaimPhase.IN_FLIGHT: ClaimRow(OURS, NOW),
    ClaimPhase.STALE: ClaimRow(OURS, NOW - timedelta(seconds=61)),
    ClaimPhase.PROCESSED: ClaimRow(OURS, NOW - timedelta(seconds=61), NOW),
}


@pytest.mark.parametrize("phase", ClaimPhase)
def test_phase_of_a_row_is_read_from_its_age_and_mark(phase: ClaimPhase) -> None:
    assert phase_of(ROWS[phase], now=NOW) is phase


def test_claim_is_respected_for_exactly_the_stale_time() -> None:
    assert phase_of(ClaimRow(OURS, NOW - STALE_AFTER), now=NOW) is ClaimPhase.IN_FLIGHT
    assert phase_of(ClaimRow(OURS, NOW - STALE_AFTER - timedelta(microseconds=1)), now=NOW) is ClaimPhase.STALE


@pytest.mark.parametrize(
    ("phase", "action", "after"),
    [
        (ClaimPhase.ABSENT, ClaimStep.CLAIM, ClaimPhase.IN_FLIGHT),
        (ClaimPhase.ABSENT, ClaimStep.MARK, None),
        (ClaimPhase.ABSENT, ClaimStep.RELEASE, None),
        (ClaimPhase.IN_FLIGHT, ClaimStep.CLAIM, None),
        (ClaimPhase.IN_FLIGHT, ClaimStep.MARK, ClaimPhase.PROCESSED),
        (ClaimPhase.IN_FLIGHT, ClaimStep.RELEASE, ClaimPhase.ABSENT),
        (ClaimPhase.STALE, ClaimStep.CLAIM, ClaimPhase.IN_FLIGHT),
        (ClaimPhase.STALE, ClaimStep.MARK, ClaimPhase.PROCESSED),
        (ClaimPhase.STALE, ClaimStep.RELEASE, ClaimPhase.ABSENT),
        (ClaimPhase.PROCESSED, ClaimStep.CLAIM, None),
        (ClaimPhase.PROCESSED, ClaimStep.MARK, None),
        (ClaimPhase.PROCESSED, ClaimStep.RELEASE, None),
    ],
)
def test_step_with_the_live_token_leads_where_it_should_or_changes_nothing(
    phase: ClaimPhase, action: ClaimStep, after: ClaimPhase | None
) -> None:
    row, changed = step(ROWS[phase], action, OURS, now=NOW)
    assert changed is (after is not None)
    assert phase_of(row, now=NOW) is (after or phase)


@pytest.mark.parametrize(("phase", "action"), list(product(ClaimPhase, [ClaimStep.MARK, ClaimStep.RELEASE])))
def test_step_with_another_token_changes_nothing(phase: ClaimPhase, action: ClaimStep) -> None:
    assert step(ROWS[phase], action, THEIRS, now=NOW) == (ROWS[phase], False)


def test_retake_of_a_stale_claim_rotates_the_token_and_its_age() -> None:
    row, changed = step(ROWS[ClaimPhase.STALE], ClaimStep.CLAIM, THEIRS, now=NOW)
    assert changed
    assert row == ClaimRow(THEIRS, NOW)


def test_mark_keeps_token_and_receipt() -> None:
    row, _ = step(ROWS[ClaimPhase.STALE], ClaimStep.MARK, OURS, now=NOW)
    assert row == ROWS[ClaimPhase.PROCESSED]


@pytest.mark.parametrize(
    ("phase", "answer"),
    [
        (ClaimPhase.ABSENT, ClaimAnswer.HELD),
        (ClaimPhase.IN_FLIGHT, ClaimAnswer.HELD),
        (ClaimPhase.STALE, ClaimAnswer.HELD),
        (ClaimPhase.PROCESSED, ClaimAnswer.PROCESSED),
    ],
)
def test_refused_worker_is_told_to_come_again_unless_the_outcome_is_committed(
    phase: ClaimPhase, answer: ClaimAnswer
) -> None:
    assert answer_to_refused(ROWS[phase]) is answer
