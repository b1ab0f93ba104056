"""How often something may fail, counted per replica over a sliding minute of the monotonic clock."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import RejectedRequest
from gateway.webhooks.limits import RecentHits

PER_ADDRESS = RateLimitItemPerMinute(30)
PER_ACCOUNT = RateLimitItemPerMinute(10)
"""Of one address."""
KEYS_MAX = 20_000
"""Addresses, and pairs of address and account, that are counted at the same time; the quietest are forgotten first."""
_EMAIL_LENGTH_MAX = 254


class Throttle:
    """Counts one sort of attempt, in as many ways as there are limits to it. `attempts` names it, in the plural.

    Everything here is synchronous: between two awaits nobody else counts, so that no burst gets past a limit.
    """

    def __init__(self, attempts: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempts = attempts
        self._clock = clock
        self._hits = RecentHits(keys_max=KEYS_MAX, clock=clock)
        self._limiter = MovingWindowRateLimiter(self._hits)

    def check(self, limit: RateLimitItem, *key: str) -> None:
        """Raises RejectedRequest (429) when the limit is reached, with the whole seconds (at least one) to wait."""
        if self._limiter.test(limit, *key):
            return
        reset = self._limiter.get_window_stats(limit, *key).reset_time
        seconds = max(1, math.ceil(reset - self._clock()))
        message = f"too many {self._attempts}; try again in {seconds} s"
        raise RejectedRequest(429, "too_many_attempts", message, retry_after=seconds)

    def count(self, limit: RateLimitItem, *key: str) -> None:
        """Count one. Raises what `check` does, and counts nothing, beyond the limit."""
        self.check(limit, *key)
        self._limiter.hit(limit, *key)

    def give_back(self, limit: RateLimitItem, *key: str) -> None:
        """Uncount one."""
        self._hits.give_back(limit.key_for(*key))

    def forget(self, limit: RateLimitItem, *key: str) -> None:
        """Uncount all of them."""
        self._hits.forget(limit.key_for(*key))


class LoginThrottle:
    """Counts failed attempts to sign in, by the address they come from and by address and account together.

    There is no limit to an account's failures over all addresses: a stranger who fails on purpose would lock its owner
    out. An attempt counts from its beginning and is taken back when it turns out good, so that many at once do not get
    past the limit before the first of them has failed.
    """

    def __init__(
        self,
        *,
        per_address: RateLimitItem = PER_ADDRESS,
        per_account: RateLimitItem = PER_ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._throttle = Throttle("failed attempts to sign in", clock=clock)
        self._per_address = per_address
        self._per_account = per_account
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()

    def is_familiar(self, address: str, email: str) -> bool:
        """Whether somebody signed in to the account from there since this process began."""
        return (address, _account(email)) in self._familiar

    def check(self, address: str) -> None:
        """Judge an address before its request is read. Raises RejectedRequest (429) as `Throttle.check` does."""
        self._throttle.check(self._per_address, "address", address)

    def admit(self, address: str, email: str) -> None:
        """Count an attempt. Raises RejectedRequest (429) as `Throttle.check` does, and counts nothing then."""
        self._throttle.check(self._per_address, "address", address)
        self._throttle.count(self._per_account, "account", address, _account(email))
        self._throttle.count(self._per_address, "address", address)

    def succeeded(self, address: str, email: str) -> None:
        """Take an attempt back that was good: whoever made it knows the password, and begins anew with it."""
        self._throttle.forget(self._per_account, "account", address, _account(email))
        self._throttle.give_back(self._per_address, "address", address)
        self._familiar[address, _account(email)] = None
        self._familiar.move_to_end((address, _account(email)))
        if len(self._familiar) > KEYS_MAX:
            self._familiar.popitem(last=False)

    def undecided(self, address: str, email: str) -> None:
        """Take an attempt back whose password was never judged."""
        self._throttle.give_back(self._per_account, "account", address, _account(email))
        self._throttle.give_back(self._per_address, "address", address)


class BadPostThrottle:
    """Counts posts that turned out bad, by the address they come from. A good one is never counted, nor refused."""

    def __init__(
        self, *, per_address: RateLimitItem = PER_ADDRESS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._throttle = Throttle("posts that are not the platform's", clock=clock)
        self._per_address = per_address

    def count(self, address: str) -> None:
        """Raises RejectedRequest (429) as `Throttle.count` does."""
        self._throttle.count(self._per_address, "address", address)


def _account(email: str) -> str:
    return email.strip().lower()[:_EMAIL_LENGTH_MAX]
