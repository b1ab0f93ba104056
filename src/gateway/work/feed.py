"""What happens in a workspace, told live to whoever listens: names and ids, never content.

The database announces each event with the commit that makes it true, and every replica hears all of them. Nothing is
kept: a listener that was away, or too slow, is told to read anew (`resync`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import structlog

from gateway.concurrency import Signal

WAITING_MAX = 256
"""Events that wait for one listener; one that falls further behind reads anew."""
RESYNC = "resync"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Happened:
    """One event: its name (`task:completed`) and the ids that go with it."""

    name: str
    fields: Mapping[str, Any]


class Listener:
    """The events of one workspace for one reader, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[Happened] = deque()
        self._signal = Signal()
        self._ended = False

    async def next(self, timeout: float) -> Happened | None:
        """The next event; None when there was none for so many seconds, or there will be none any more."""
        if not self._waiting and not self._ended:
            await self._signal.wait(timeout)
        return self._waiting.popleft() if self._waiting else None

    @property
    def ended(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return self._ended and not self._waiting

    def put(self, happened: Happened) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.clear()
            happened = Happened(RESYNC, {})
        self._waiting.append(happened)
        self._signal.set()

    def end(self) -> None:
        self._ended = True
        self._signal.set()


@dataclass(slots=True)
class Feed:
    """Hands out what the database announces. One per process."""

    _listeners: dict[UUID, set[Listener]] = field(default_factory=dict)
    _ended: bool = False

    @contextmanager
    def listen(self, workspace_id: UUID) -> Iterator[Listener]:
        """Everything that happens there until the block ends."""
        listener = Listener()
        if self._ended:
            listener.end()
        self._listeners.setdefault(workspace_id, set()).add(listener)
        try:
            yield listener
        finally:
            self._listeners[workspace_id].discard(listener)
            if not self._listeners[workspace_id]:
                del self._listeners[workspace_id]

    def publish(self, payload: str) -> None:
        """Take one announcement, JSON with at least `event` and `workspace_id`; "" says that some may be missing."""
        if not payload:
            for listener in self._everybody():
                listener.put(Happened(RESYNC, {}))
            return
        if not self._listeners:
            return  # every message is announced: what nobody hears is not read either
        try:
            fields = msgspec.json.decode(payload, type=dict[str, Any])
            name, workspace_id = str(fields.pop("event")), UUID(fields["workspace_id"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("announcement_unreadable", error=type(error).__name__, bytes=len(payload))
            return
        for listener in self._listeners.get(workspace_id, ()):
            listener.put(Happened(name, fields))

    def end(self) -> None:
        """Every listener gets what waits for it, then its end. For a shutdown, which open streams would hold up."""
        self._ended = True
        for listener in self._everybody():
            listener.end()

    def _everybody(self) -> list[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]
