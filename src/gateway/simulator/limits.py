"""Call limits: so many in any window of so many seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from gateway.simulator.exchange import Refusal

THROTTLED = 99991400
KEYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    calls: int
    seconds: float


PER_APP = (Limit(50, 1.0), Limit(1000, 60.0))
PER_CHAT = (Limit(5, 1.0),)


class Limits:
    """Sliding windows by key. A refused call does not count against any window."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._calls: dict[tuple[Hashable, Limit], deque[float]] = {}

    def admit(self, now: float, *keyed: tuple[Hashable, tuple[Limit, ...]]) -> None:
        """Count one call against all limits of all keys. Raises Refusal with the seconds to wait."""
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

    def _window(self, key: Hashable, limit: Limit) -> deque[float]:
        if len(self._calls) > KEYS_MAX:
            self._calls.clear()  # forgetting errs on the generous side, and needs ten thousand chats to happen
        return self._calls.setdefault((key, limit), deque())


def _throttled(limit: Limit, wait_seconds: float) -> Refusal:
    headers = (
        ("x-ogw-ratelimit-limit", str(limit.calls)),
        ("x-ogw-ratelimit-reset", str(max(1, math.ceil(wait_seconds)))),
    )
    return Refusal(THROTTLED, "request trigger frequency limit", status=429, headers=headers)
