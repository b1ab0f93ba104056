"""Tests on a clock that jumps to the next thing that happens."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import trio

SIMULATED_SECONDS_MAX = 30 * 24 * 3600.0
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""What the wall clock says when trio's says 0."""


def simulated_now() -> float:
    """Return the wall clock's time, as a Unix time."""
    return EPOCH.timestamp() + trio.current_time()


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Run a test under `autojump_clock`, inside the limit without which a deadlock would hang for ever."""

    @wraps(test)
    async def run(*, autojump_clock: trio.testing.MockClock, **fixtures: Any) -> None:
        with trio.fail_after(SIMULATED_SECONDS_MAX):
            await test(**fixtures)

    # pytest reads from the signature which fixtures a test asks for, and pytest-trio finds its clock among them.
    own = inspect.signature(test, eval_str=False).parameters.values()
    clock = inspect.Parameter("autojump_clock", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*own, clock])  # type: ignore[attr-defined]
    return run
