"""The few concurrency primitives that trio leaves to the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


@contextmanager
def finishing(seconds: float) -> Iterator[trio.CancelScope]:
    """Shield a last message to a peer (a ROLLBACK, an ACK, a lease release) from cancellation, for at most `seconds`.

    This code base shields only with this function and with `open_finishing_nursery` and `open_workers`, which shield
    whole tasks. All three set a deadline, because a shield without one can hang a shutdown for ever. The shields that
    run while a lease is held must together stay below its expiry margin.
    """
    with trio.move_on_after(seconds, shield=True) as scope:
        yield scope


@asynccontextmanager
async def open_finishing_nursery(seconds: float) -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks may finish their work: they are cancelled `seconds` after the body has ended.

    The body itself is cancelled like any other code. The countdown begins when the body is left, whether by return,
    exception or cancellation. A task that raises cancels its siblings and the body at once, as in any nursery.
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
        # `start` would hang here. If it were cancelled, it would wait for the new task to end, but the shield keeps
        # that task from noticing the cancellation. `is_open` reports readiness instead.
        outer.start_soon(run_finishing)
        try:
            await is_open.wait()
            yield opened[0]
        finally:
            body_left.set()


@asynccontextmanager
async def open_workers(seconds: float) -> AsyncIterator[Workers]:
    """Like `open_finishing_nursery`, with one task and one nursery less, for places that open thousands of them."""
    async with trio.open_nursery() as nursery:
        workers = Workers(nursery)
        try:
            yield workers
        finally:
            workers.end_by(trio.current_time() + seconds)


class Workers:
    """Tasks of one nursery, each behind its own shield. A task that raises cancels the others and the body."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._shields: set[trio.CancelScope] = set()
        self._deadline = float("inf")

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task, like `trio.Nursery.start_soon`. The body and other workers may call it."""
        self._nursery.start_soon(self._run, run, args)

    def end_by(self, deadline: float) -> None:
        """Cancel at `deadline` every task that has not finished. Tasks that are started later get the same deadline."""
        self._deadline = min(self._deadline, deadline)
        for shield in self._shields:
            shield.deadline = self._deadline

    async def _run(self, run: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        with trio.CancelScope(deadline=self._deadline, shield=True) as shield:
            self._shields.add(shield)
            try:
                await run(*args)
            except trio.Cancelled:
                raise  # the deadline has passed, which is no error: the other workers have the same deadline
            except BaseException:
                # The nursery cancels its scope for this error, but that does not reach tasks behind their shields.
                self.end_by(float("-inf"))
                raise
            finally:
                self._shields.discard(shield)


class Signal:
    """A wake-up that coalesces: after any number of `set` calls, the next `wait` returns once.

    One waiter at a time. A `set` without a waiter is remembered, so a wake-up between two waits is not lost.
    """

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: trio.Event | None = None  # created by `wait`: most signals of an idle bot have no waiter

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None:
            self._waiter.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, or for `timeout` seconds. Returns True if it was set.

        Cancellation leaves the signal as it was.
        """
        # The new event is in place before `_is_set` is read, and there is no checkpoint between: no `set` is missed.
        self._waiter = trio.Event()
        if self._is_set:
            self._waiter.set()
        try:
            with trio.move_on_after(float("inf") if timeout is None else max(timeout, 0)):
                await self._waiter.wait()
        finally:
            self._waiter = None
        # Cleared only here: a cancelled wait never reaches this line and leaves a pending `set` for the next waiter.
        was_set, self._is_set = self._is_set, False
        return was_set


class Topics:
    """Signals by key, for waiters that come and go (a long poll on one runtime's queue).

    `hear(key)` is a context manager that yields a Signal. `ring(key)` sets every Signal that listens on that key.
    `ring_all()` sets all of them. It is for a lost notification connection, which may have missed any key.
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
    """Report that the named point was reached, for crash tests. Does nothing unless a test installed a watcher."""
    if _watcher is not None:
        _watcher(point)


def watch_points(watcher: Callable[[str], None] | None) -> None:
    """Install the callback of `reached` (tests only). It may kill the process, raise, or record the point."""
    global _watcher
    _watcher = watcher
