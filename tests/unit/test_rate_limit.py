"""Limits, counted over a sliding minute."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.errors import TooMany
from gateway.rate_limit import RateLimit


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def full(seconds: int) -> TooMany:
    return TooMany("full", f"try again in {seconds} s", retry_after=seconds)


def limited(per_minute: int, *, keys_max: int = 1_000, **options: Any) -> RateLimit:
    return RateLimit(per_minute, full, keys_max=keys_max, **options)


def test_hits_over_the_limit_are_refused_until_the_minute_has_passed() -> None:
    clock = Clock()
    limit = limited(3, clock=clock)
    for _ in range(3):
        limit.hit("a")
        clock.now += 10
    with pytest.raises(TooMany) as refused:
        limit.hit("a")
    assert (refused.value.code, refused.value.extra["retry_after"]) == ("full", 30)
    limit.hit("b")
    clock.now += 30
    limit.hit("a")
    with pytest.raises(TooMany) as refused:
        limit.hit("a")
    assert refused.value.extra["retry_after"] == 10


def test_retry_after_is_at_least_a_second() -> None:
    clock = Clock()
    limit = limited(1, clock=clock)
    limit.hit("a")
    clock.now += 59.9999
    with pytest.raises(TooMany) as refused:
        limit.hit("a")
    assert refused.value.extra["retry_after"] == 1


def test_check_consumes_nothing() -> None:
    limit = limited(1, clock=Clock())
    for _ in range(5):
        limit.check("a")
        assert limit.has_room("a")
    limit.hit("a")
    assert not limit.take("a")
    with pytest.raises(TooMany):
        limit.check("a")


def test_zero_means_no_limit() -> None:
    limit = limited(0)
    for _ in range(500):
        limit.hit("a")
        limit.check("a")
        assert limit.take("a")
        limit.give_back("a")


def test_limits_do_not_share_their_budgets() -> None:
    clock = Clock()
    one, other = limited(1, clock=clock), limited(1, clock=clock)
    one.hit("a")
    other.hit("a")


def test_memory_is_bounded_and_forgets_the_quietest() -> None:
    clock = Clock()
    limit = limited(1, keys_max=100, clock=clock)
    for number in range(1_000):
        limit.hit(f"client {number}")
    with pytest.raises(TooMany):
        limit.check("client 999")
    limit.check("client 1")
    assert len(limit._hits._hits) == 100


def test_turn_that_was_given_back_is_free_again() -> None:
    limit = limited(1, clock=Clock())
    limit.give_back("a")
    assert limit.take("a")
    limit.give_back("a")
    limit.give_back("a")
    assert limit.take("a")
    assert not limit.take("a")


def test_wall_clock_that_jumps_moves_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = limited(1)
    limit.hit("a")
    wall = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: wall)
    with pytest.raises(TooMany) as refused:
        limit.check("a")
    assert 1 <= refused.value.extra["retry_after"] <= 60  # type: ignore[operator]


def test_forgotten_key_begins_again() -> None:
    limit = limited(2, clock=Clock())
    limit.forget("a")
    for _ in range(2):
        limit.hit("a")
    limit.forget("a")
    assert [limit.take("a") for _ in range(3)] == [True, True, False]
    limited(0).forget("a")
