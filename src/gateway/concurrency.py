"""The few concurrency primitives that trio leaves to the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


@contextmanager
def finishing(seconds: float) -> Iterator[trio.CancelScope]:
    """Shield what must still be said (a ROLLBACK, an ACK, a lease release) from cancellation, for at most `seconds`.

    The only way to shield in this code base, but for the two below, which shield tasks in the same manner: a shield
    without a deadline can hang a shutdown for ever. Shields that run while a lease is held must together stay below
    its expiry margin.
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
        async with trio.open_nursery() as inner:
            inner.cancel_scope.shield = True
            opened.append(inner)
            is_open.set()
            await body_left.wait()
            inner.cancel_scope.deadline = trio.current_time() + seconds

    async with trio.open_nursery() as outer:
        # Not `start`: cancelled during that, it would wait for a task which the shield keeps from noticing.
        outer.start_soon(run_finishing)
        try:
            await is_open.wait()
            yield opened[0]
        finally:
            body_left.set()


@asynccontextmanager
async def open_workers(seconds: float) -> AsyncIterator[Workers]:
    """Like `open_finishing_nursery`, without a task and a nursery of its own: for what is open thousands of times."""
    async with trio.open_nursery() as nursery:
        workers = Workers(nursery)
        try:
            yield workers
        finally:
            workers.end_by(trio.current_time() + seconds)


class Workers:
    """Tasks of one nursery, each behind a shield of its own. One that raises cancels the others, and the body."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._shields: set[trio.CancelScope] = set()
        self._deadline = float("inf")

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        """As a nursery's, from the body or from another worker."""
        self._nursery.start_soon(self._run, run, args)

    def end_by(self, deadline: float) -> None:
        """Cancel then what has not finished, and what is started later."""
        self._deadline = min(self._deadline, deadline)
        for shield in self._shields:
            shield.deadline = self._deadline

    async def _run(self, run: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        with trio.CancelScope(deadline=self._deadline, shield=True) as shield:
            self._shields.add(shield)
            try:
                await run(*args)
            except trio.Cancelled:
                raise
            except BaseException:
                self.end_by(float("-inf"))  # the nursery's own cancellation does not reach behind the shields
                raise
            finally:
                self._shields.discard(shield)


class Signal:
    """A wake-up that coalesces: `set` any number of times, and the next `wait` returns once.

    One waiter at a time. A `set` with nobody waiting is remembered, so a wake-up is never lost between two waits.
    """

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: trio.Event | None = None  # made when somebody waits: most signals of an idle bot have nobody

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None:
            self._waiter.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, or for `timeout` seconds; True when it was set. Cancellation leaves the signal as it was."""
        self._waiter = trio.Event()
        if self._is_set:
            self._waiter.set()
        try:
            with trio.move_on_after(float("inf") if timeout is None else max(timeout, 0)):
                await self._waiter.wait()
        finally:
            self._waiter = None
        was_set, self._is_set = self._is_set, False
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
