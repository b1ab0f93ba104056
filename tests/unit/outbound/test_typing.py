import pytest

from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
)
from gateway.outbound.typing import HIDE_ATTEMPTS_MAX, REST_OF_RUN_SECONDS, judge_failure

REFUSED = PlatformRefused("no", code=230002)
THROTTLED = PlatformThrottled("slow down", retry_after=40)
UNAUTHORIZED = PlatformUnauthorized("which app?")
AWAY = PlatformUnavailable("away")
FAULT = ValueError("a mistake of ours")


@pytest.mark.parametrize("error", [REFUSED, THROTTLED, UNAUTHORIZED])
def test_showing_is_given_up_at_a_no_unless_an_earlier_attempt_may_have_succeeded(error: PlatformError) -> None:
    assert judge_failure(error, unwanted=False, attempts=1) is None
    assert judge_failure(error, unwanted=False, attempts=2) == REST_OF_RUN_SECONDS


@pytest.mark.parametrize(
    ("error", "attempts", "delay"),
    [(AWAY, 1, 1.0), (AWAY, 2, 2.0), (AWAY, 3, REST_OF_RUN_SECONDS), (FAULT, 1, REST_OF_RUN_SECONDS)],
)
def test_showing_with_an_open_result_is_tried_a_few_times_and_then_let_be(
    error: Exception, attempts: int, delay: float
) -> None:
    assert judge_failure(error, unwanted=False, attempts=attempts) == delay


@pytest.mark.parametrize(
    ("error", "attempts", "delay"),
    [
        (AWAY, 1, 2.0),
        (AWAY, 2, 8.0),
        (AWAY, 5, 300.0),
        (UNAUTHORIZED, 1, 2.0),
        (FAULT, 1, 2.0),
        (THROTTLED, 1, 40.0),
        (THROTTLED, 4, 128.0),
        (REFUSED, 1, None),
        (AWAY, HIDE_ATTEMPTS_MAX, None),
        (THROTTLED, HIDE_ATTEMPTS_MAX, None),
    ],
)
def test_taking_away_is_tried_longer(error: Exception, attempts: int, delay: float | None) -> None:
    assert judge_failure(error, unwanted=True, attempts=attempts) == delay
