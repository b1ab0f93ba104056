"""Call limits: at most a number of calls in any window of a number of seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from gateway.simulator.exchange import Refusal

THROTTLED = 99991400
KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class SimLimit:
    calls: int
    seconds: float


PER_APP = (SimLimit(50, 1.0), SimLimit(1000, 60.0))
PER_CHAT = (SimLimit(5, 1.0),)


class SimLimits:
    """Counts calls in sliding windows by key. A refused call counts in no window."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._calls: dict[tuple[Hashable, SimLimit], deque[float]] = {}

    def admit(self, now: float, *keyed: tuple[Hashable, tuple[SimLimit, ...]]) -> None:
        """Count one call in all windows of all keys. At a limit it raises Refusal with the seconds to wait."""
        if not self.enabled:
            return
        windows = [(limit, self._window(key, limit)) for key, limits in keyed for limit in limits]
        for limit, window in windows:
            while window and window[0] <= now - limit.seconds:
                window.popleft()
            if len(window) >= limit.calls:
                raise _throttled(limit, window[0] + limit.seconds - now)
        for _, window in windows:
            window.append(now)

    def _window(self, key: Hashable, limit: SimLimit) -> deque[float]:
        if len(self._calls) > KEYS_MAX:
            self._calls.clear()  # forgetting admits too many calls at worst, and needs thousands of keys to happen
        return self._calls.setdefault((key, limit), deque())


def _throttled(limit: SimLimit, wait_seconds: float) -> Refusal:
    headers = (
        ("x-ogw-ratelimit-limit", str(limit.calls)),
        ("x-ogw-ratelimit-reset", str(max(1, math.ceil(wait_seconds)))),
    )
    return Refusal(THROTTLED, "request trigger frequency limit", status=429, headers=headers)
