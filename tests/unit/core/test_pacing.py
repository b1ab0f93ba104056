"""The platform's limits are kept exactly, in the order of asking, and decoration yields."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pacing import CHATS_MAX, FAILURES_MAX, AppPace, Limit
from gateway.lark.chat.channel import LIMITS


def _busiest(times: list[float], seconds: float) -> int:
    """The most calls in any window of that length."""
    times = sorted(times)
    return max((bisect_left(times, at + seconds) - place for place, at in enumerate(times)), default=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.3)), min_size=1, max_size=300))
def test_no_window_ever_holds_more_than_its_limit(asked: list[tuple[int, float]]) -> None:
    pace, now = AppPace(LIMITS), 0.0
    by_chat: dict[int, list[float]] = {}
    for chat, pause in asked:
        now += pause
        by_chat.setdefault(chat, []).append(pace.reserve(f"oc_{chat}", now))
    for limit in LIMITS.chat:
        assert all(_busiest(times, limit.seconds) <= limit.calls for times in by_chat.values())
    for limit in LIMITS.app:
        assert _busiest([at for times in by_chat.values() for at in times], limit.seconds) <= limit.calls


@given(st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=100))
def test_no_window_holds_more_however_late_a_call_of_the_chat_arrives(calls: list[tuple[float, float, float]]) -> None:
    """One after the other, as the messages of a chat go; each arrives somewhere between its start and its end."""
    pace, now, arrivals = AppPace(LIMITS), 0.0, []
    for pause, seconds, share in calls:
        began = pace.reserve("oc_1", now + pause)
        now = began + seconds
        arrivals.append(began + seconds * share)
        pace.release("oc_1", began, now)
    assert all(_busiest(arrivals, limit.seconds) <= limit.calls for limit in LIMITS.chat)


def test_app_with_calls_under_way_has_so_much_less_room() -> None:
    pace = AppPace(LIMITS)
    starts = [pace.reserve(f"oc_{number}", 0.0) for number in range(10)]
    for number in range(40):
        pace.release(f"oc_{number}", pace.reserve(f"oc_{number}", 5.0), 5.0)
    assert pace.app_free_at(5.0) > 6.0
    pace.release("oc_0", starts[0], 5.5)
    assert 6.0 < pace.app_free_at(5.5) < 6.1


def test_app_may_use_all_of_its_second() -> None:
    pace = AppPace(LIMITS)
    assert [pace.reserve(f"oc_{number}", 0.0) for number in range(50)] == [0.0] * 50
    assert pace.reserve("oc_50", 0.0) > 1.0


def test_chat_that_is_full_does_not_hold_up_another() -> None:
    pace = AppPace(LIMITS)
    for _ in range(5):
        pace.reserve("oc_1", 0.0)
    assert pace.chat_free_at("oc_1", 0.0) > 1.0
    assert pace.chat_free_at("oc_2", 0.0) == 0.0
    assert pace.reserve("oc_2", 0.0) == 0.0


def test_decoration_yields_while_there_is_still_room_for_messages() -> None:
    pace = AppPace(LIMITS)
    admitted = [pace.admit_decoration(0.0) for _ in range(40)]
    assert admitted == [True] * 25 + [False] * 15
    assert pace.reserve("oc_1", 0.0) == 0.0
    assert pace.admit_decoration(2.0)


@pytest.mark.parametrize(("chat", "other"), [("oc_1", 0.0), (None, 7.0)])
def test_throttle_pauses_whom_it_concerns(chat: str | None, other: float) -> None:
    pace = AppPace(LIMITS)
    pace.throttled(chat, 0.0, 7.0)
    assert pace.reserve("oc_1", 0.0) == 7.0
    assert pace.reserve("oc_2", 0.0) == other


def test_breaker_opens_after_silence_and_doubles_to_half_a_minute() -> None:
    pace = AppPace(LIMITS)
    pauses = [pace.unanswered(0.0) for _ in range(FAILURES_MAX + 8)]
    assert pauses[: FAILURES_MAX - 1] == [0.0] * (FAILURES_MAX - 1)
    assert pauses[FAILURES_MAX - 1 : FAILURES_MAX + 2] == [1.0, 2.0, 4.0]
    assert pauses[-1] == 30.0
    assert pace.reserve("oc_1", 0.0) == 30.0


def test_breaker_closes_with_the_first_answer() -> None:
    pace = AppPace(LIMITS)
    for _ in range(FAILURES_MAX - 1):
        pace.unanswered(0.0)
    pace.answered()
    assert pace.unanswered(0.0) == 0.0
    assert pace.reserve("oc_1", 0.0) == 0.0


def test_chats_beyond_the_bound_are_forgotten_oldest_first() -> None:
    pace = AppPace(LIMITS)
    for number in range(CHATS_MAX + 1):
        pace.throttled(f"oc_{number}", 0.0, 100.0)
    assert pace.chat_free_at("oc_0", 0.0) == 0.0
    assert pace.chat_free_at("oc_1", 0.0) == 100.0


def test_limits_are_the_platforms() -> None:
    assert (Limit(50, 1.0), Limit(1000, 60.0)) == LIMITS.app
    assert (Limit(5, 1.0),) == LIMITS.chat


def test_platform_without_limits_is_never_waited_for() -> None:
    pace = AppPace()
    assert {pace.reserve("room", 1.0) for _ in range(10_000)} == {1.0}
    pace.release("room", 1.0, 1.0)
    assert pace.admit_decoration(1.0)
