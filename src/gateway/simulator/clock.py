"""The two times of the simulated platform, both driven by trio's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import trio


@dataclass(slots=True)
class Clock:
    """Seconds that never go back, and wall time that moves with them, so that a mock clock moves both.

    Must be made inside a trio run: the wall time is read once, at that moment.
    """

    _started: float = field(default_factory=trio.current_time)
    _epoch: float = field(default_factory=time.time)

    def now(self) -> float:
        """Seconds on trio's clock; only differences mean something."""
        return trio.current_time()

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return round((self._epoch + trio.current_time() - self._started) * 1000)
