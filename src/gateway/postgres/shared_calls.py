"""Sharing of one statement by calls that wait at the same time, without a task or a timer to collect them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

import trio

C = TypeVar("C", bound=Hashable)
R = TypeVar("R")

CALLS_MAX = 500


class SharedCalls(Generic[C, R]):
    """Calls of one kind that share runs. One call at a time is the leader: it runs for itself and all that wait.

    The waiting calls then find their results ready. A single call does not wait for others. `run` gets at most
    `calls_max` calls and returns the results that it has. A call may be without a result.
    """

    def __init__(self, run: Callable[[Sequence[C]], Awaitable[Mapping[C, R]]], *, calls_max: int = CALLS_MAX) -> None:
        self._run = run
        self._calls_max = calls_max
        self._running = trio.Lock()
        self._waiting: dict[_Call[C, R], None] = {}

    async def join(self, value: C) -> R | None:
        """Return the result of `run` for this value; None when `run` had none for it.

        Raises the exception of `run` if this call was the leader. The calls that shared that run stay waiting, and the
        next leader runs them again. The same happens when the leader is cancelled. So running a call twice must do no
        harm.
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
