"""How often somebody may try to sign in, counted per replica."""

from __future__ import annotations

import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from gateway.errors import RejectedRequest

PER_ADDRESS = RateLimitItemPerMinute(30)
PER_EMAIL = RateLimitItemPerMinute(10)
_KEY_LENGTH_MAX = 254


class LoginThrottle:
    """Counts every attempt, good or bad, by the address it comes from and by the e-mail address it names."""

    def __init__(self, *, per_address: RateLimitItem = PER_ADDRESS, per_email: RateLimitItem = PER_EMAIL) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._per_address = per_address
        self._per_email = per_email

    def admit(self, address: str, email: str) -> None:
        """Raises RejectedRequest (429) with the whole seconds after which to try again, at least one."""
        self._count(self._per_address, "address", address)
        self._count(self._per_email, "email", email.strip().lower()[:_KEY_LENGTH_MAX])

    def _count(self, limit: RateLimitItem, kind: str, key: str) -> None:
        if self._limiter.hit(limit, "login", kind, key):
            return
        reset = self._limiter.get_window_stats(limit, "login", kind, key).reset_time
        seconds = max(1, math.ceil(reset - time.time()))
        message = f"too many attempts to sign in; try again in {seconds} s"
        raise RejectedRequest(429, "too_many_attempts", message, retry_after=seconds)
