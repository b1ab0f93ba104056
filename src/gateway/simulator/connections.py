"""The open and the closed long connections, and the most that were open at the same time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from gateway.simulator.clock import SimulatorClock
from gateway.simulator.platform import App, Ticket, derive
from gateway.simulator.valve import Valve

OUTGOING_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Bytes:
    """One WebSocket message to send: binary, or text if `text` is set."""

    data: bytes
    text: bool = False


@dataclass(frozen=True, slots=True)
class Goodbye:
    """A queued request to close the WebSocket in good order, after the messages queued before it."""

    code: int
    reason: str


@dataclass(eq=False, slots=True)
class SocketConnection:
    """One accepted WebSocket. Times are ms since 1970.

    `instance_id` stands in the frames pushed here, and acknowledgements return it. `queue` accepts messages without
    waiting; one writer sends them in order. `closing` is the reason of its end, once known.
    """

    connection_id: str
    app_id: str
    service_id: int
    device_id: str
    instance_id: str
    opened_at: int
    valve: Valve
    outgoing: trio.MemorySendChannel[Bytes | Goodbye]
    user_agent: str = ""
    closed_at: int = 0
    closing: str = ""
    frames_in: int = 0
    pings: int = 0
    last_frame_at: int = 0
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def live(self) -> bool:
        """True until either side has ended it. The peer's end counts as soon as the kernel knows it, even if unread."""
        return not self.closed_at and not self.valve.peer_left()

    def queue(self, message: Bytes | Goodbye) -> bool:
        """Queue a message behind the earlier ones. False if the connection is over or OUTGOING_MAX messages wait."""
        try:
            self.outgoing.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def drop(self, how: str = "close", code: int = 1000) -> None:
        """End the connection: `close` (WebSocket close with `code`), `hang_up` (TCP FIN), `reset` (TCP RST) or `tear`.

        `tear` sends the beginning of a frame and hangs up. Raises ValueError for any other `how`.
        """
        if how not in ("close", "hang_up", "reset", "tear"):
            raise ValueError(f"a connection is dropped by close, hang_up, reset or tear, not {how!r}")
        self.closing = self.closing or f"dropped: {how}"
        if how == "close":
            self.queue(Goodbye(code, "simulated"))
        else:
            getattr(self.valve, how)()


class SocketConnections:
    """Open connections by app, the latest closed ones, and the most of each app that were live at the same time."""

    def __init__(self, clock: SimulatorClock, *, history_max: int, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._clock = clock
        self._open: dict[str, dict[str, SocketConnection]] = {}
        self._closed: deque[SocketConnection] = deque(maxlen=history_max)
        self._numbers = itertools.count(1)
        self.most_live: dict[str, int] = {}

    def open(
        self, app: App, ticket: Ticket, valve: Valve, user_agent: str
    ) -> tuple[SocketConnection, trio.MemoryReceiveChannel[Bytes | Goodbye]]:
        """Record an accepted connection. Returns it with the receiving end of its queue, which is for its writer."""
        outgoing, to_write = trio.open_memory_channel[Bytes | Goodbye](OUTGOING_MAX)
        number = next(self._numbers)
        connection = SocketConnection(
            connection_id=f"conn-{number}",
            app_id=app.app_id,
            service_id=app.service_id,
            device_id=ticket.device_id,
            instance_id=derive("", "instance", ticket.device_id, str(number)),
            opened_at=self._clock.wall_ms(),
            valve=valve,
            outgoing=outgoing,
            user_agent=user_agent,
        )
        self._open.setdefault(app.app_id, {})[connection.connection_id] = connection
        self.most_live[app.app_id] = max(self.most_live.get(app.app_id, 0), len(self.live(app.app_id)))
        self._changed()
        return connection, to_write

    def close(self, connection: SocketConnection, reason: str) -> None:
        """Record the end of a connection. A second call does nothing."""
        if connection.closed_at:
            return
        connection.closed_at = self._clock.wall_ms()
        connection.closing = connection.closing or reason
        connection.outgoing.close()
        connection.ended.set()
        del self._open[connection.app_id][connection.connection_id]
        self._closed.append(connection)
        self._changed()

    def live(self, app_id: str) -> list[SocketConnection]:
        return [connection for connection in self._open.get(app_id, {}).values() if connection.live]

    def get(self, connection_id: str) -> SocketConnection:
        """Return a connection that is still open. Raises LookupError for any other."""
        for connections in self._open.values():
            if connection_id in connections:
                return connections[connection_id]
        raise LookupError(f"connection {connection_id} is not open")

    def history(self, app_id: str = "") -> list[SocketConnection]:
        """Return the closed connections in the order in which they ended, and then the open ones."""
        still_open = [connection for connections in self._open.values() for connection in connections.values()]
        return [one for one in (*self._closed, *still_open) if app_id in ("", one.app_id)]
