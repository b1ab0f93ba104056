"""Limits, counted over a sliding minute."""

from __future__ import annotations

import pytest

from gateway.errors import RejectedRequest
from gateway.webhooks.limits import RateLimit


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_hits_over_the_limit_are_refused_until_the_minute_has_passed() -> None:
    clock = Clock()
    limit = RateLimit("token", 3, clock=clock)
    for _ in range(3):
        limit.hit("a")
        clock.now += 10
    with pytest.raises(RejectedRequest) as refused:
        limit.hit("a")
    assert (refused.value.status, refused.value.extra["retry_after"]) == (429, 30)
    limit.hit("b")
    clock.now += 30
    limit.hit("a")
    with pytest.raises(RejectedRequest) as refused:
        limit.hit("a")
    assert refused.value.extra["retry_after"] == 10


def test_retry_after_is_at_least_a_second() -> None:
    clock = Clock()
    limit = RateLimit("token", 1, clock=clock)
    limit.hit("a")
    clock.now += 59.9999
    with pytest.raises(RejectedRequest) as refused:
        limit.hit("a")
    assert refused.value.extra["retry_after"] == 1


def test_check_consumes_nothing() -> None:
    limit = RateLimit("ip", 1, clock=Clock())
    for _ in range(5):
        limit.check("a")
    limit.count("a")
    with pytest.raises(RejectedRequest):
        limit.check("a")


def test_zero_means_no_limit() -> None:
    limit = RateLimit("ip", 0)
    for _ in range(500):
        limit.hit("a")
        limit.count("a")
        limit.check("a")


def test_limits_do_not_share_their_budgets() -> None:
    clock = Clock()
    one, other = RateLimit("ip", 1, clock=clock), RateLimit("token", 1, clock=clock)
    one.hit("a")
    other.hit("a")


def test_memory_is_bounded_and_forgets_the_quietest() -> None:
    clock = Clock()
    limit = RateLimit("ip", 1, keys_max=100, clock=clock)
    for number in range(1_000):
        limit.count(f"client {number}")
    with pytest.raises(RejectedRequest):
        limit.check("client 999")
    limit.check("client 1")
    assert len(limit._limiter.storage._hits) == 100  # type: ignore[attr-defined]
