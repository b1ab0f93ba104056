"""The few concurrency primitives that trio leaves to the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


@contextmanager
def finishing(seconds: float) -> Iterator[trio.CancelScope]:
    """Shield what must still be said (a ROLLBACK, an ACK, a lease release) from cancellation, for at most `seconds`.

    The only way to shield in this code base: a shield without a deadline can hang a shutdown for ever. Shields that
    run while a lease is held must together stay below its expiry margin.
    """
    with trio.move_on_after(seconds, shield=True) as scope:
        yield scope


@asynccontextmanager
async def open_finishing_nursery(seconds: float) -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks may finish what they began: they are cancelled `seconds` after the body, not with it.

    The body itself is cancelled like any other code; the countdown begins when it is left, however that happens. A task
    that raises cancels its siblings and the body at once, as in any nursery.
    """
    opened: list[trio.Nursery] = []
    is_open, body_left = trio.Event(), trio.Event()

    async def run_finishing() -> None:
        with finishing(float("inf")) as scope:
            async with trio.open_nursery() as inner:
                opened.append(inner)
                is_open.set()
                await body_left.wait()
                scope.deadline = trio.current_time() + seconds

    async with trio.open_nursery() as outer:
        # Not `start`: cancelled during that, it would wait for a task which the shield keeps from noticing.
        outer.start_soon(run_finishing)
        try:
            await is_open.wait()
            yield opened[0]
        finally:
            body_left.set()


class Signal:
    """A wake-up that coalesces: `set` any number of times, and the next `wait` returns once.

    One waiter at a time. A `set` with nobody waiting is remembered, so a wake-up is never lost between two waits.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, or for `timeout` seconds; True when it was set. Cancellation leaves the signal as it was."""
        with trio.move_on_after(float("inf") if timeout is None else max(timeout, 0)):
            await self._event.wait()
        was_set = self._event.is_set()
        if was_set:
            self._event = trio.Event()
        return was_set


class Topics:
    """Signals by key, for waiters that come and go (a long poll on one runtime's queue).

    `hear(key)` is a context manager that yields a Signal; `ring(key)` sets every Signal listening on that key, and
    `ring_all()` sets all of them, which is what a lost notification connection calls for.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, set[Signal]] = {}

    @contextmanager
    def hear(self, key: str) -> Iterator[Signal]:
        signal = Signal()
        self._listeners.setdefault(key, set()).add(signal)
        try:
            yield signal
        finally:
            listeners = self._listeners[key]
            listeners.discard(signal)
            if not listeners:
                del self._listeners[key]

    def ring(self, key: str) -> None:
        for signal in self._listeners.get(key, ()):
            signal.set()

    def ring_all(self) -> None:
        for listeners in self._listeners.values():
            for signal in listeners:
                signal.set()


_watcher: Callable[[str], None] | None = None


def reached(point: str) -> None:
    """Mark a named point that matters to crash tests; does nothing unless a test process installed a watcher."""
    if _watcher is not None:
        _watcher(point)


def watch_points(watcher: Callable[[str], None] | None) -> None:
    """Install the callback of `reached` (tests only): it may kill the process, raise, or record the point."""
    global _watcher
    _watcher = watcher
