"""How often somebody may try what they have no right to, counted per replica."""

from __future__ import annotations

import math
import time
from typing import NoReturn

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from gateway.errors import RejectedRequest

PER_ADDRESS = RateLimitItemPerMinute(30)
PER_EMAIL = RateLimitItemPerMinute(10)
_KEY_LENGTH_MAX = 254


class Throttle:
    """Counts one sort of attempt, in as many ways as there are limits to it. `attempts` names it, in the plural."""

    def __init__(self, attempts: str) -> None:
        self._attempts = attempts
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def check(self, limit: RateLimitItem, kind: str, key: str) -> None:
        """Raises RejectedRequest (429) when the limit is reached; counts nothing."""
        if not self._limiter.test(limit, kind, key):
            self._refuse(limit, kind, key)

    def count(self, limit: RateLimitItem, kind: str, key: str) -> None:
        """Raises RejectedRequest (429) beyond the limit, with the whole seconds (at least one) until the next try."""
        if not self._limiter.hit(limit, kind, key):
            self._refuse(limit, kind, key)

    def _refuse(self, limit: RateLimitItem, kind: str, key: str) -> NoReturn:
        reset = self._limiter.get_window_stats(limit, kind, key).reset_time
        seconds = max(1, math.ceil(reset - time.time()))
        message = f"too many {self._attempts}; try again in {seconds} s"
        raise RejectedRequest(429, "too_many_attempts", message, retry_after=seconds)


class LoginThrottle:
    """Counts every attempt, good or bad, by the address it comes from and by the e-mail address it names."""

    def __init__(self, *, per_address: RateLimitItem = PER_ADDRESS, per_email: RateLimitItem = PER_EMAIL) -> None:
        self._throttle = Throttle("attempts to sign in")
        self._per_address = per_address
        self._per_email = per_email

    def check(self, address: str) -> None:
        """Judge an address before its request is read. Raises RejectedRequest (429) as `Throttle.check` does."""
        self._throttle.check(self._per_address, "address", address)

    def admit(self, address: str, email: str) -> None:
        """Raises RejectedRequest (429) as `Throttle.count` does."""
        self._throttle.count(self._per_address, "address", address)
        self._throttle.count(self._per_email, "email", email.strip().lower()[:_KEY_LENGTH_MAX])


class BadPostThrottle:
    """Counts posts that turned out bad, by the address they come from. A good one is never counted, nor refused."""

    def __init__(self, *, per_address: RateLimitItem = PER_ADDRESS) -> None:
        self._throttle = Throttle("posts that are not the platform's")
        self._per_address = per_address

    def count(self, address: str) -> None:
        """Raises RejectedRequest (429) as `Throttle.count` does."""
        self._throttle.count(self._per_address, "address", address)
