"""Who is refused after failing too often, by which clock, and who never is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from gateway.errors import TooMany
from gateway.http.throttle import KEYS_MAX, PER_ACCOUNT, PER_ADDRESS, LoginThrottle, bad_posts_limit
from gateway.rate_limit import RateLimit
from gateway.webhooks.limits import LimitReached


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def _refused(call: Callable[[], None]) -> int:
    with pytest.raises(TooMany) as refusal:
        call()
    return int(str(refusal.value.extra["retry_after"]))


def test_failures_lock_an_account_for_their_own_address_only() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock=clock)
    for _ in range(PER_ACCOUNT):
        throttle.admit("thief", "Ann@acme.example ")
    assert _refused(lambda: throttle.admit("thief", "ann@acme.example")) == 60
    throttle.admit("thief", "bob@acme.example")
    throttle.admit("ann's", "ann@acme.example")
    clock.now += 60
    throttle.admit("thief", "ann@acme.example")


def test_failures_from_a_thousand_addresses_leave_the_owner_room() -> None:
    throttle = LoginThrottle(clock=Clock())
    for number in range(1_000):
        for _ in range(PER_ACCOUNT):
            throttle.admit(f"bot {number}", "ann@acme.example")
    for _ in range(PER_ACCOUNT):
        throttle.admit("ann's", "ann@acme.example")
    _refused(lambda: throttle.admit("ann's", "ann@acme.example"))


def test_failures_lock_an_address_whatever_accounts_it_names() -> None:
    throttle = LoginThrottle(clock=Clock())
    for number in range(PER_ADDRESS):
        throttle.check("thief")
        throttle.admit("thief", f"person{number}@acme.example")
    _refused(lambda: throttle.check("thief"))
    _refused(lambda: throttle.admit("thief", "somebody@acme.example"))
    throttle.check("ann's")


def test_successes_count_for_nothing_and_clear_the_failures_of_their_account() -> None:
    throttle = LoginThrottle(clock=Clock())
    for _ in range(3 * PER_ADDRESS):
        throttle.admit("office", "ann@acme.example")
        throttle.succeeded("office", "ann@acme.example")
    for _ in range(PER_ACCOUNT - 1):
        throttle.admit("office", "ann@acme.example")
    throttle.admit("office", "ann@acme.example")
    throttle.succeeded("office", "ann@acme.example")
    for _ in range(PER_ACCOUNT):
        throttle.admit("office", "ann@acme.example")
    _refused(lambda: throttle.admit("office", "ann@acme.example"))


def test_attempts_that_were_not_judged_count_for_nothing() -> None:
    throttle = LoginThrottle(clock=Clock())
    for _ in range(3 * PER_ADDRESS):
        throttle.admit("office", "ann@acme.example")
        throttle.undecided("office", "ann@acme.example")
    for _ in range(PER_ACCOUNT):
        throttle.admit("office", "ann@acme.example")
    _refused(lambda: throttle.admit("office", "ann@acme.example"))


def test_only_a_success_makes_an_address_familiar_to_an_account() -> None:
    throttle = LoginThrottle(clock=Clock())
    throttle.admit("office", "ann@acme.example")
    assert not throttle.is_familiar("office", "ann@acme.example")
    throttle.succeeded("office", " ANN@acme.example")
    assert throttle.is_familiar("office", "ann@acme.example")
    assert not throttle.is_familiar("office", "bob@acme.example")
    for number in range(KEYS_MAX):
        throttle.succeeded(f"address {number}", "ann@acme.example")
    assert not throttle.is_familiar("office", "ann@acme.example")


def test_failures_at_other_accounts_do_not_lock_out_who_signed_in_from_there_before() -> None:
    throttle = LoginThrottle(clock=Clock())
    throttle.admit("office", "ann@acme.example")
    throttle.succeeded("office", "ann@acme.example")
    for number in range(PER_ADDRESS):
        throttle.admit("office", f"person{number}@acme.example")
    throttle.check("office")
    _refused(lambda: throttle.admit("office", "bob@acme.example"))
    for _ in range(PER_ACCOUNT):
        throttle.admit("office", "ann@acme.example")
    _refused(lambda: throttle.admit("office", "ann@acme.example"))


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_wall_clock_that_jumps_changes_no_limit(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    logins, posts = LoginThrottle(), bad_posts_limit()
    limit = RateLimit(1, partial(LimitReached, "ip"), keys_max=10)
    for _ in range(PER_ACCOUNT):
        logins.admit("thief", "ann@acme.example")
    for _ in range(PER_ADDRESS):
        posts.hit("thief")
    limit.hit("thief")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    for call in (
        lambda: logins.admit("thief", "ann@acme.example"),
        lambda: posts.hit("thief"),
        lambda: limit.hit("thief"),
    ):
        assert 1 <= _refused(call) <= 60
