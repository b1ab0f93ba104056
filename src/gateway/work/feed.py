"""The live feed of events in a workspace. Events hold names and ids, never content.

The database announces each event at the commit that makes it true, and every replica receives all of them. Events are
not stored. A listener that was away or too slow is told to read the data again (`resync`).
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
"""Events that wait for one listener. A listener that falls further behind gets a `resync` in their place."""
RESYNC = "resync"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Happened:
    """One event: its name, such as `task:completed`, and its ids."""

    name: str
    fields: Mapping[str, Any]


class Listener:
    """The events of one workspace for one reader, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[Happened] = deque()
        self._signal = Signal()
        self._ended = False

    async def next(self, timeout: float) -> Happened | None:
        """Return the next event. None when none came within `timeout` seconds, or when the feed has ended."""
        if not self._waiting and not self._ended:
            await self._signal.wait(timeout)
        return self._waiting.popleft() if self._waiting else None

    @property
    def ended(self) -> bool:
        """True if no event waits and none will come."""
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
    """Passes the announcements of the database to listeners. One per process."""

    _listeners: dict[UUID, set[Listener]] = field(default_factory=dict)
    _ended: bool = False

    @contextmanager
    def listen(self, workspace_id: UUID) -> Iterator[Listener]:
        """Listen to the events of a workspace until the block ends."""
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
        """Take in one announcement: JSON with at least `event` and `workspace_id`.

        "" means that some may have been lost.
        """
        if not payload:
            for listener in self._everybody():
                listener.put(Happened(RESYNC, {}))
            return
        if not self._listeners:
            return  # every message is announced, so without listeners even the parsing is saved
        try:
            fields = msgspec.json.decode(payload, type=dict[str, Any])
            name, workspace_id = str(fields.pop("event")), UUID(fields["workspace_id"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("announcement_unreadable", error=type(error).__name__, bytes=len(payload))
            return
        for listener in self._listeners.get(workspace_id, ()):
            listener.put(Happened(name, fields))

    def end(self) -> None:
        """End every listener after its waiting events. For a shutdown, which open streams would delay."""
        self._ended = True
        for listener in self._everybody():
            listener.end()

    def _everybody(self) -> list[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]
