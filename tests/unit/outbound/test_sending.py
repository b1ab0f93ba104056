from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.errors import (
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.errors import LocalProtocolError
from gateway.outbound.sending import (
    SETTLING_SECONDS,
    FindOut,
    GiveUp,
    NextStep,
    Postpone,
    is_outlived,
    is_repeatable,
    judge_attempt,
    next_step,
)

DAY = 24 * 3600.0


def judge(
    error: Exception, *, attempts: int = 1, age: float = 0.0, doubt: bool = False, idle: float = 0.0, unit: float = 0.5
) -> Postpone | GiveUp | FindOut:
    return judge_attempt(error, attempts=attempts, age_seconds=age, in_doubt=doubt, idle_seconds=idle, random_unit=unit)


def test_unavailable_platform_leaves_a_doubt_and_backs_off_to_a_minute() -> None:
    delays = [judge(PlatformUnavailable("away"), attempts=number) for number in (1, 2, 3, 7, 500)]
    assert delays == [Postpone(seconds, True) for seconds in (1, 2, 4, 60, 60)]


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 10_000))
def test_unavailable_platform_spreads_retries_around_the_delay(unit: float, attempts: int) -> None:
    verdict = judge(PlatformUnavailable("away"), attempts=attempts, unit=unit)
    assert isinstance(verdict, Postpone)
    assert 0.5 <= verdict.delay_seconds <= 90


def test_platform_that_was_not_reached_leaves_no_doubt() -> None:
    assert judge(PlatformUnreachable("no connection"), attempts=2) == Postpone(2, False)
    assert judge(PlatformUnreachable("no connection"), doubt=True, age=2 * DAY) == Postpone(1, False)


def test_refusal_is_final() -> None:
    assert judge(PlatformRefused("no")) == GiveUp()


def test_throttling_leaves_no_doubt_and_waits_as_told() -> None:
    assert judge(PlatformThrottled("slow", retry_after=7)) == Postpone(7, False)
    assert judge(PlatformThrottled("slow", retry_after=0)) == Postpone(0.1, False)


def test_bad_credentials_are_tried_slowly() -> None:
    delays = [judge(PlatformUnauthorized("bad secret"), attempts=number) for number in (1, 2, 5, 50)]
    assert delays == [Postpone(seconds, False) for seconds in (60, 120, 900, 900)]


@pytest.mark.parametrize(
    "error",
    [
        PlatformUnauthorized("bad secret"),
        PlatformThrottled("slow", retry_after=1),
        PlatformUnreachable("no connection"),
    ],
)
def test_row_that_could_not_be_sent_for_a_day_is_given_up(error: Exception) -> None:
    assert judge(error, age=DAY) == GiveUp()
    assert judge(error, age=DAY - 1) != GiveUp()


def test_refusal_of_what_may_have_been_delivered_before_is_not_called_failed() -> None:
    assert judge(PlatformRefused("no"), doubt=True, idle=SETTLING_SECONDS) == FindOut()
    assert judge(PlatformRefused("no"), doubt=True, idle=20.0) == Postpone(SETTLING_SECONDS, True)


def test_fault_that_kept_us_from_calling_is_given_up_at_the_fifth_attempt() -> None:
    fault = LocalProtocolError("the text is empty")
    assert [judge(fault, attempts=number) == GiveUp() for number in (1, 4, 5)] == [False, False, True]
    assert judge(fault, attempts=1) == Postpone(1, False)


def test_fault_that_may_have_met_the_answer_ends_in_a_look_at_the_chat() -> None:
    assert judge(ValueError(), attempts=1) == Postpone(1, True)
    assert judge(ValueError(), attempts=5) == Postpone(SETTLING_SECONDS, True)
    assert judge(ValueError(), attempts=6, doubt=True, idle=SETTLING_SECONDS) == FindOut()


def test_row_is_outlived_after_a_day_unless_it_may_have_been_sent() -> None:
    assert not is_outlived(age_seconds=DAY - 1, in_doubt=False)
    assert is_outlived(age_seconds=DAY, in_doubt=False)
    assert not is_outlived(age_seconds=DAY, in_doubt=True)


def test_key_is_used_for_a_little_less_than_it_is_honoured() -> None:
    assert is_repeatable(doubt_seconds=55 * 60, key_seconds=3600)
    assert not is_repeatable(doubt_seconds=55 * 60 + 1, key_seconds=3600)
    assert not is_repeatable(doubt_seconds=0, key_seconds=0)


@pytest.mark.parametrize(
    ("age", "doubt", "idle", "key", "expected"),
    [
        pytest.param(0, None, 0, 3600, NextStep.SEND, id="a new row"),
        pytest.param(DAY - 1, None, 0, 3600, NextStep.SEND, id="an old row"),
        pytest.param(DAY, None, 0, 3600, NextStep.GIVE_UP, id="a row that outlived its use"),
        pytest.param(2 * DAY, 60, 0, 3600, NextStep.SEND, id="in doubt while the key holds, however old"),
        pytest.param(0, 3600, SETTLING_SECONDS - 1, 3600, NextStep.WAIT, id="in doubt past the key, too early to look"),
        pytest.param(0, 3600, SETTLING_SECONDS, 3600, NextStep.FIND_OUT, id="in doubt past the key"),
        pytest.param(0, 0, SETTLING_SECONDS, 0, NextStep.FIND_OUT, id="in doubt where the platform has no keys"),
    ],
)
def test_next_step_of_a_row_that_is_due(
    age: float, doubt: float | None, idle: float, key: float, expected: NextStep
) -> None:
    assert next_step(age_seconds=age, doubt_seconds=doubt, idle_seconds=idle, key_seconds=key) is expected
