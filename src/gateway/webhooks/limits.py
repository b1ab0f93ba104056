"""How many requests are taken, counted per process: by token, and by address for those with bad credentials."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Literal

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import RejectedRequest

Gate = Literal["token", "ip"]

KEYS_MAX = 100_000
"""Clients that are counted at the same time. Beyond that, who has been quiet longest is forgotten."""


class RecentHits(MemoryStorage):
    """The hits of a moving window by key, in order, bounded in the number of keys.

    The library's own memory storage keeps every key it ever saw, and starts a thread to look through all of them.
    """

    STORAGE_SCHEME = ["recent-hits"]  # noqa: RUF012  (declared so by the library)

    def __init__(self, *, keys_max: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()
        self._keys_max = keys_max
        self._clock = clock

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        hits = self._recent(key, expiry)
        if len(hits) + amount > limit:
            return False
        hits.extend([self._clock()] * amount)
        self._hits[key] = hits
        self._hits.move_to_end(key)
        if len(self._hits) > self._keys_max:
            self._hits.popitem(last=False)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        hits = self._recent(key, expiry)
        return (hits[0] if hits else self._clock()), len(hits)

    def _recent(self, key: str, expiry: int) -> deque[float]:
        hits = self._hits.get(key, deque())
        while hits and hits[0] <= self._clock() - expiry:
            hits.popleft()
        return hits


class RateLimit:
    """At most so many hits of a key in any minute; 0 means no limit. The last minute slides, it does not begin anew.

    Everything here is synchronous: between two awaits nobody else counts, so that no burst gets past the limit.
    """

    def __init__(
        self, gate: Gate, per_minute: int, *, keys_max: int = KEYS_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gate = gate
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = MovingWindowRateLimiter(RecentHits(keys_max=keys_max, clock=clock))
        self._clock = clock

    def hit(self, key: str) -> None:
        """Count one. Raises RejectedRequest (429) with the whole seconds after which to try again, at least one."""
        if self._item is not None and not self._limiter.hit(self._item, self._gate, key):
            raise self._refusal(self._item, key)

    def count(self, key: str) -> None:
        """Count one that is answered in another way already."""
        if self._item is not None:
            self._limiter.hit(self._item, self._gate, key)

    def check(self, key: str) -> None:
        """Raises what `hit` would, and counts nothing."""
        if self._item is not None and not self._limiter.test(self._item, self._gate, key):
            raise self._refusal(self._item, key)

    def _refusal(self, item: RateLimitItem, key: str) -> RejectedRequest:
        reset = self._limiter.get_window_stats(item, self._gate, key).reset_time
        seconds = max(1, math.ceil(reset - self._clock()))
        message = f"too many requests; try again in {seconds} s"
        return RejectedRequest(429, "rate_limited", message, retry_after=seconds)
