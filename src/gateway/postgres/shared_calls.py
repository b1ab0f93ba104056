"""One statement for calls that are under way together, without a task or a timer to gather them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

import trio

C = TypeVar("C", bound=Hashable)
R = TypeVar("R")

CALLS_MAX = 500


class SharedCalls(Generic[C, R]):
    """Calls of one kind, of which one at a time runs: with all that wait, which then find theirs done.

    A lone call waits for nobody. `run` gets at most `calls_max` calls and gives the results it has; no call needs one.
    """

    def __init__(self, run: Callable[[Sequence[C]], Awaitable[Mapping[C, R]]], *, calls_max: int = CALLS_MAX) -> None:
        self._run = run
        self._calls_max = calls_max
        self._running = trio.Lock()
        self._waiting: dict[_Call[C, R], None] = {}

    async def join(self, value: C) -> R | None:
        """The result of `run` for this value; None when it had none.

        Raises what `run` raised when it was this call that ran it. Others that shared it are run again by the next, as
        they are when this call was cancelled: to run a call twice must do no harm.
        """
        call = _Call[C, R](value)
        self._waiting[call] = None
        try:
            async with self._running:
                if call in self._waiting:
                    await self._lead(call)
        finally:
            self._waiting.pop(call, None)
        return call.result

    async def _lead(self, leader: _Call[C, R]) -> None:
        others = (call for call in self._waiting if call is not leader)
        together = [leader, *islice(others, self._calls_max - 1)]
        results = await self._run([call.value for call in together])
        for call in together:
            call.result = results.get(call.value)
            self._waiting.pop(call, None)


class _Call(Generic[C, R]):
    __slots__ = ("result", "value")

    def __init__(self, value: C) -> None:
        self.value = value
        self.result: R | None = None
