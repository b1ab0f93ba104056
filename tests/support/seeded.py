"""Runs that a seed decides wholly: the dice, the order of the tasks, and a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog.testing
import trio
import trio.testing


def run_seeded(seed: int, main: Callable[[], Awaitable[None]], *, seconds_max: float) -> None:
    """Run `main` within so many simulated seconds; the same seed is the same run."""

    async def bounded() -> None:
        with trio.fail_after(seconds_max):
            await main()

    scheduler: Any = trio._core._run
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        # Captured, because rendering the traceback of every staged failure takes longer than all the rest.
        with structlog.testing.capture_logs():
            trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = False
