from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest

from gateway.core.claim import (
    STALE_AFTER,
    ClaimAnswer,
    ClaimRow,
    Phase,
    Step,
    answer_to_refused,
    phase_of,
    step,
)

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
OURS, THEIRS = UUID(int=1), UUID(int=2)

ROWS = {
    Phase.ABSENT: None,
    Phase.IN_FLIGHT: ClaimRow(OURS, NOW),
    Phase.STALE: ClaimRow(OURS, NOW - timedelta(seconds=61)),
    Phase.PROCESSED: ClaimRow(OURS, NOW - timedelta(seconds=61), NOW),
}


@pytest.mark.parametrize("phase", Phase)
def test_phase_of_a_row_is_read_from_its_age_and_mark(phase: Phase) -> None:
    assert phase_of(ROWS[phase], now=NOW) is phase


def test_claim_is_respected_for_exactly_the_stale_time() -> None:
    assert phase_of(ClaimRow(OURS, NOW - STALE_AFTER), now=NOW) is Phase.IN_FLIGHT
    assert phase_of(ClaimRow(OURS, NOW - STALE_AFTER - timedelta(microseconds=1)), now=NOW) is Phase.STALE


@pytest.mark.parametrize(
    ("phase", "action", "after"),
    [
        (Phase.ABSENT, Step.CLAIM, Phase.IN_FLIGHT),
        (Phase.ABSENT, Step.MARK, None),
        (Phase.ABSENT, Step.RELEASE, None),
        (Phase.IN_FLIGHT, Step.CLAIM, None),
        (Phase.IN_FLIGHT, Step.MARK, Phase.PROCESSED),
        (Phase.IN_FLIGHT, Step.RELEASE, Phase.ABSENT),
        (Phase.STALE, Step.CLAIM, Phase.IN_FLIGHT),
        (Phase.STALE, Step.MARK, Phase.PROCESSED),
        (Phase.STALE, Step.RELEASE, Phase.ABSENT),
        (Phase.PROCESSED, Step.CLAIM, None),
        (Phase.PROCESSED, Step.MARK, None),
        (Phase.PROCESSED, Step.RELEASE, None),
    ],
)
def test_step_with_the_live_token_leads_where_it_should_or_changes_nothing(
    phase: Phase, action: Step, after: Phase | None
) -> None:
    row, changed = step(ROWS[phase], action, OURS, now=NOW)
    assert changed is (after is not None)
    assert phase_of(row, now=NOW) is (after or phase)


@pytest.mark.parametrize(("phase", "action"), list(product(Phase, [Step.MARK, Step.RELEASE])))
def test_step_with_another_token_changes_nothing(phase: Phase, action: Step) -> None:
    assert step(ROWS[phase], action, THEIRS, now=NOW) == (ROWS[phase], False)


def test_retake_of_a_stale_claim_rotates_the_token_and_its_age() -> None:
    row, changed = step(ROWS[Phase.STALE], Step.CLAIM, THEIRS, now=NOW)
    assert changed
    assert row == ClaimRow(THEIRS, NOW)


def test_mark_keeps_token_and_receipt() -> None:
    row, _ = step(ROWS[Phase.STALE], Step.MARK, OURS, now=NOW)
    assert row == ROWS[Phase.PROCESSED]


@pytest.mark.parametrize(
    ("phase", "answer"),
    [
        (Phase.ABSENT, ClaimAnswer.HELD),
        (Phase.IN_FLIGHT, ClaimAnswer.HELD),
        (Phase.STALE, ClaimAnswer.HELD),
        (Phase.PROCESSED, ClaimAnswer.PROCESSED),
    ],
)
def test_refused_worker_is_told_to_come_again_unless_the_outcome_is_committed(
    phase: Phase, answer: ClaimAnswer
) -> None:
    assert answer_to_refused(ROWS[phase]) is answer
