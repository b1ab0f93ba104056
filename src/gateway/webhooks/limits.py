"""Rate limits for requests to triggers.

Beyond a limit a request is refused, or waits for its turn. Counted per process.

A request is judged first and counted afterwards, so that bad requests cannot use up the budget of a sender with a valid
signature:

- Unknown tokens, and signatures that are missing or wrong, count against the address they came from.
- Failures, and all requests at a trigger without a secret, count against the trigger.
- A request with a valid signature begins at once up to the pace, which is the limit per token. Beyond the pace it waits
  for its turn. It is refused only above CEILING times the pace.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Literal
from uuid import UUID

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import TooMany

Gate = Literal["token", "ip"]

MINUTE_SECONDS = 60
KEYS_MAX = 100_000
"""Keys that are counted at the same time. Beyond that, the key that has been idle longest is forgotten."""
CEILING = 10
"""A sender with a valid signature is refused above this multiple of its pace."""

Clock = Callable[[], float]


class LimitReached(TooMany):
    """A request over a limit. `gate` names the limit."""

    def __init__(self, gate: Gate, seconds: int) -> None:
        message = f"too many requests; try again in {seconds} s"
        super().__init__("rate_limited", message, retry_after=seconds)
        self.gate: Gate = gate


class RecentHits(MemoryStorage):
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


class RateLimit:
    """A limit of `per_minute` hits of a key in any minute. 0 means no limit. The minute is a sliding window.

    Every method is synchronous, so no other task can count between the check and the count, and no burst gets past the
    limit. The clock is monotonic, so setting the wall clock moves no limit.
    """

    def __init__(
        self,
        gate: Gate,
        per_minute: int,
        *,
        keys_max: int = KEYS_MAX,
        clock: Clock = time.monotonic,
        minute_seconds: int | None = None,
    ) -> None:
        """`minute_seconds` is the length of the window. The default is MINUTE_SECONDS; tests use a shorter one."""
        self._gate: Gate = gate
        self._item = RateLimitItemPerSecond(per_minute, minute_seconds or MINUTE_SECONDS) if per_minute else None
        self._hits = RecentHits(keys_max=keys_max, clock=clock)
        self._limiter = MovingWindowRateLimiter(self._hits)
        self._clock = clock

    def take(self, key: str) -> bool:
        """Count one hit if there is room for it. True if it was counted."""
        return self._item is None or self._limiter.hit(self._item, self._gate, key)

    def give_back(self, key: str) -> None:
        """Undo a `take` that was not used."""
        if self._item is not None:
            self._hits.give_back(self._item.key_for(self._gate, key))

    def has_room(self, key: str) -> bool:
        """True if `take` would count a hit."""
        return self._item is None or self._limiter.test(self._item, self._gate, key)

    def hit(self, key: str) -> None:
        """Count one hit. Raises LimitReached with the whole seconds after which to try again, at least one."""
        if self._item is not None and not self.take(key):
            raise self._refusal(self._item, key)

    def check(self, key: str) -> None:
        """Raise LimitReached if `hit` would, and count nothing."""
        if self._item is not None and not self.has_room(key):
            raise self._refusal(self._item, key)

    def _refusal(self, item: RateLimitItem, key: str) -> LimitReached:
        reset = self._limiter.get_window_stats(item, self._gate, key).reset_time
        return LimitReached(self._gate, max(1, math.ceil(reset - self._clock())))


class Standing(StrEnum):
    """The result of judging a request at a known trigger."""

    PROVEN = "proven"
    """Its signature is valid."""
    UNPROVEN = "unproven"
    """The trigger asks for no signature, or has a secret that cannot be read."""
    DISPROVED = "disproved"
    """Its signature is missing or wrong."""


class Gates:
    """The limits of one process. The standing of a request decides which of them apply."""

    def __init__(
        self,
        *,
        per_token_per_minute: int,
        per_ip_per_minute: int,
        clock: Clock = time.monotonic,
        minute_seconds: int | None = None,
    ) -> None:
        """`per_token_per_minute` sets the limits per token, `per_ip_per_minute` the one per address.

        0 turns them off.
        """

        def limit(gate: Gate, per_minute: int) -> RateLimit:
            return RateLimit(gate, per_minute, clock=clock, minute_seconds=minute_seconds)

        self._bad_credentials = limit("ip", per_ip_per_minute)
        self._unproven = limit("token", per_token_per_minute)
        self._pace = limit("token", per_token_per_minute)
        self._ceiling = limit("token", per_token_per_minute * CEILING)
        self._waiting: frozenset[UUID] = frozenset()

    # --- before a request is judged -----------------------------------------------------------------------------------

    def is_spent(self, address: str) -> bool:
        """True if this address has used up its limit of bad credentials."""
        return not self._bad_credentials.has_room(address)

    def count_unknown(self, address: str) -> None:
        """Count a token that does not exist. Raises LimitReached."""
        self._bad_credentials.hit(address)

    def check_unsigned(self, trigger_id: UUID) -> None:
        """Raise LimitReached for a trigger that asks for no signature and has no room, before the body is read."""
        self._unproven.check(str(trigger_id))

    # --- once it is judged --------------------------------------------------------------------------------------------

    def count(self, address: str, trigger_id: UUID, standing: Standing) -> None:
        """Count a request. Raises LimitReached."""
        if standing is Standing.DISPROVED:
            self._bad_credentials.hit(address)
        limit = self._ceiling if standing is Standing.PROVEN else self._unproven
        limit.hit(str(trigger_id))

    def has_to_wait(self, trigger_id: UUID, standing: Standing) -> bool:
        """True if a counted request that starts a run must wait for its turn. False lets it begin, and counts it."""
        if standing is not Standing.PROVEN:
            return False
        # While earlier deliveries of this trigger wait, this one waits too. Otherwise it would overtake them as soon as
        # the sliding window has room.
        if trigger_id not in self._waiting and self._pace.take(str(trigger_id)):
            return False
        self._waiting |= {trigger_id}
        return True

    # --- waiting deliveries -------------------------------------------------------------------------------------------

    def take_turn(self, trigger_id: UUID) -> bool:
        """Count a waiting delivery and let it begin. False when there is no room."""
        return self._pace.take(str(trigger_id))

    def give_back_turn(self, trigger_id: UUID) -> None:
        """Undo a `take_turn` that was not used."""
        self._pace.give_back(str(trigger_id))

    def set_waiting(self, trigger_ids: Iterable[UUID]) -> None:
        """Set the triggers at which deliveries wait. At all other triggers the next delivery may begin at once."""
        self._waiting = frozenset(trigger_ids)
