"""Rate limits over a sliding minute, counted in this process by the monotonic clock."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import TooMany

MINUTE_SECONDS = 60

Clock = Callable[[], float]


class RateLimit:
    """A limit of `per_minute` hits of a key in any minute. 0 means no limit. The minute is a sliding window.

    Every method is synchronous, so no other task can count between the check and the count, and no burst gets past the
    limit. The clock is monotonic, so setting the wall clock moves no limit.
    """

    def __init__(
        self,
        per_minute: int,
        refuse: Callable[[int], TooMany],
        *,
        keys_max: int,
        clock: Clock = time.monotonic,
        minute_seconds: int | None = None,
    ) -> None:
        """`refuse` makes the error of a hit over the limit.

        Its argument is the number of whole seconds after which to try again, at least one. At most `keys_max` keys are
        counted at the same time. Beyond that, the key that has been idle longest is forgotten. `minute_seconds` is the
        length of the window. The default is MINUTE_SECONDS; tests use a shorter one.
        """
        self._item = RateLimitItemPerSecond(per_minute, minute_seconds or MINUTE_SECONDS) if per_minute else None
        self._refuse = refuse
        self._hits = _RecentHits(keys_max=keys_max, clock=clock)
        self._limiter = MovingWindowRateLimiter(self._hits)
        self._clock = clock

    def has_room(self, key: str) -> bool:
        """True if `take` would count a hit."""
        return self._item is None or self._limiter.test(self._item, key)

    def take(self, key: str) -> bool:
        """Count one hit if there is room for it. True if it was counted."""
        return self._item is None or self._limiter.hit(self._item, key)

    def check(self, key: str) -> None:
        """Raise the error of `refuse` if `hit` would, and count nothing."""
        if self._item is not None and not self.has_room(key):
            raise self._refusal(self._item, key)

    def hit(self, key: str) -> None:
        """Count one hit. Beyond the limit this counts nothing, and raises the error of `refuse`."""
        if self._item is not None and not self.take(key):
            raise self._refusal(self._item, key)

    def give_back(self, key: str) -> None:
        """Take back the last hit of a key."""
        if self._item is not None:
            self._hits.give_back(self._item.key_for(key))

    def forget(self, key: str) -> None:
        """Take back all hits of a key."""
        if self._item is not None:
            self._hits.forget(self._item.key_for(key))

    def _refusal(self, item: RateLimitItem, key: str) -> TooMany:
        reset = self._limiter.get_window_stats(item, key).reset_time
        return self._refuse(max(1, math.ceil(reset - self._clock())))


class _RecentHits(MemoryStorage):
    """The hits of a moving window, by key and in order. The number of keys is bounded.

    The memory storage of the `limits` library is not used, because it keeps every key it ever saw, and starts a thread
    that looks through all of them.
    """

    STORAGE_SCHEME = ["recent-hits"]  # noqa: RUF012  (declared so by the library)

    def __init__(self, *, keys_max: int, clock: Clock) -> None:
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

    def give_back(self, key: str) -> None:
        """Forget the last hit of a key."""
        if self._hits.get(key):
            self._hits[key].pop()

    def forget(self, key: str) -> None:
        """Forget all hits of a key."""
        self._hits.pop(key, None)

    def _recent(self, key: str, expiry: int) -> deque[float]:
        hits = self._hits.get(key, deque())
        while hits and hits[0] <= self._clock() - expiry:
            hits.popleft()
        return hits
