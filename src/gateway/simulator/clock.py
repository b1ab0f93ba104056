"""The two times of the simulated platform, both driven by trio's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import trio


@dataclass(slots=True)
class SimulatorClock:
    """Monotonic seconds, and a wall time that moves with them, so that a mock clock moves both.

    It must be made inside a trio run. The wall time is read once, at that moment.
    """

    _started: float = field(default_factory=trio.current_time)
    _epoch: float = field(default_factory=time.time)

    def now(self) -> float:
        """Return the seconds on trio's clock. Only differences of them have a meaning."""
        return trio.current_time()

    def wall_ms(self) -> int:
        """Return the milliseconds since 1970."""
        return round((self._epoch + trio.current_time() - self._started) * 1000)
