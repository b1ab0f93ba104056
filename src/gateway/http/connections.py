"""Connections of HTTP clients: HTTP/1.1 only, with bounded request heads, closed as soon as the client has left.

hypercorn speaks the protocol. This module closes the gaps that hypercorn leaves. By itself hypercorn would

- answer `Upgrade: h2c` and the preface of HTTP/2,
- accept Content-Length together with Transfer-Encoding,
- keep the socket of a client that has left for as long as an idle one,
- end the process with an exception of a single connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

_log = structlog.get_logger(__name__)

READ_BYTES = 16_384
HEAD_BYTES_MAX = 16_384
HEAD_FIELDS_MAX = 100
LINGER_SECONDS = 1.0
LINGER_BYTES_MAX = 1_048_576
LINGER_READ_BYTES = 262_144
"""Bounds on reading the rest of a body after the answer: the time, the bytes in all, and the bytes of one read.

A socket that is closed while data waits in it unread sends a reset, and a reset can destroy the answer on its way.
"""
DISCONNECT_SECONDS = 1.0
"""The longest wait for a request to take the message that its connection is over."""
_BLANK_LINE = re.compile(rb"\n\r?\n")
"""The end of a head. h11 accepts lines that end in a bare LF too."""
_TARGET = re.compile(rb"/|\*$|https?://[^\[\]/?]+(/|$)")
"""The accepted request targets: a path, `*` (of OPTIONS), or the absolute URL that clients send to a proxy.

Quart fails at some of the others.
"""
_UNREAD = frozenset({h11.IDLE, h11.SEND_BODY, h11.ERROR})
"""The client's states, as h11 names them, in which it may still be sending data that no request reads."""


class Connections:
    """The connections of one server.

    At most `room_max` are open at the same time. `idle` holds the ones that wait for a request, the longest-idle first.
    """

    def __init__(self, room_max: int) -> None:
        self.room_max = room_max
        self.idle: dict[Connection, None] = {}  # a set that keeps the order of insertion
        self._open: set[Connection] = set()
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def make_room(self) -> bool:
        """True if one more connection may be opened. At the bound, the longest-idle connection is closed for it."""
        if len(self._open) < self.room_max:
            return True
        # `idle` keeps the order in which connections became idle, so its first entry has been idle the longest.
        longest = next(iter(self.idle), None)
        if longest is None:
            return False
        self.idle.pop(longest)
        # Its task ends a little later. The place is free now, so that the caller can take it without waiting.
        self._open.discard(longest)
        longest.close_now()
        return True

    def moved(self, connection: Connection, idle: bool) -> None:
        """Record that a connection waits for a request (`idle`), or that it has one."""
        if idle:
            self.idle[connection] = None
        else:
            self.idle.pop(connection, None)

    async def run(self, connection: Connection) -> None:
        """Serve a connection to its end. An exception of it is logged, and ends this connection only."""
        self._open.add(connection)
        self.idle[connection] = None
        try:
            await connection.run()
        except* Exception:
            _log.exception("http_connection_failed")
        finally:
            connection.close_now()
            self._open.discard(connection)
            self.idle.pop(connection, None)
            self._changed.set()

    async def wait_gone(self) -> None:
        """Wait until no connection is open."""
        while self._open:
            self._changed = trio.Event()
            await self._changed.wait()

    def close_unsent(self) -> None:
        """Close the connections whose client is still sending its request: no work on such a request has begun."""
        for connection in list(self._open):
            if connection.is_sending:
                connection.close_now()

    def close_all(self) -> None:
        for connection in list(self._open):
            connection.close_now()


class Connection(TCPServer):
    """The connection of one client. `moved` is called with True when it becomes idle, with False when it is not."""

    stream: trio.SocketStream  # type: ignore[assignment]  # hypercorn's type has TLS only

    def __init__(
        self,
        app: Any,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        moved: Callable[[Connection, bool], None],
    ) -> None:
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]  # as above
        self._h11 = _BoundedHeads(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        """The state of both sides of the connection, by which `protocol` reads requests and writes answers."""
        self._moved = moved
        self._reading = trio.CancelScope()
        self._lingers = False

    @property
    def is_sending(self) -> bool:
        """True if the client is in the middle of a request's body."""
        return self._h11.their_state is h11.SEND_BODY

    def close_now(self) -> None:
        """Close the socket at once. trio then raises ClosedResourceError in every task that reads from it or writes."""
        self.stream.socket.close()

    async def run(self) -> None:
        try:
            sock = self.stream.socket
            peers = [parse_socket_addr(sock.family, name) for name in (sock.getpeername(), sock.getsockname())]
            with trio.CancelScope() as scope:
                async with TaskGroup() as task_group:
                    self._task_group = task_group
                    self.protocol = _Protocol(  # type: ignore[assignment]  # where hypercorn chooses HTTP/2
                        self._h11,
                        self.app, self.config, self.context, task_group, self.state, False, *peers, self.protocol_send,
                    )  # fmt: skip
                    await self.idle_task.restart(task_group, self._idle_timeout)
                    await self._read_data()
                    self.close_now()
                    # Reading has ended: the client has left, or it gets no more answers. The idle timer and the work
                    # on a request end here too.
                    scope.cancel()
        except OSError:
            pass  # The client left while its connection was set up.

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Closed):
            await self._end_answers()
            await self.protocol.handle(Closed())
            return
        if isinstance(event, Updated):
            self._moved(self, event.idle)
        await super().protocol_send(event)

    async def _end_answers(self) -> None:
        """Shut down the sending side, and set the time at which reading ends and the connection closes.

        Reading goes on for up to LINGER_SECONDS if the client may still be sending, and ends at once otherwise.
        """
        self._lingers = self._h11.their_state in _UNREAD
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
            self._lingers = False
        # Usually this runs in the answer's task while `_read_data` waits in another one: the deadline ends that wait.
        self._reading.deadline = trio.current_time() + (LINGER_SECONDS if self._lingers else 0)

    async def _read_data(self) -> None:
        room = LINGER_BYTES_MAX
        with self._reading:
            try:
                while data := await self.stream.receive_some(LINGER_READ_BYTES if self._lingers else READ_BYTES):
                    if not self._lingers:
                        await self.protocol.handle(RawData(bytes(data)))
                        continue
                    room -= len(data)
                    if room < 0:
                        break
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                pass
        # Tell a request that is still being answered that its client has left.
        await self.protocol.handle(Closed())


class _Protocol(H11Protocol):
    """HTTP/1.1 without upgrades. A server may ignore the Upgrade field (RFC 9110, section 7.8)."""

    connection: _BoundedHeads

    def __init__(self, connection: _BoundedHeads, *args: Any) -> None:
        """`args` are hypercorn's own."""
        super().__init__(*args)
        self.connection = connection

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            # No more answers can be sent. A client that had sent the next request already left the reading task waiting
            # for this answer to end: it goes on, finds nothing to parse, and notices that the client is gone.
            self.connection.over = True
            await self.can_read.set()

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and self.connection.their_state is h11.SEND_BODY:
            # Answered before the body has come: the connection ends with this answer, and its client has to know, or
            # it would send the next request into the closing socket.
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing: hypercorn's own method would switch to HTTP/2 for h2c and for the preface of HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        # Always an HTTP request: hypercorn's own method would open a WebSocket where `Upgrade: websocket` asks for one.
        self.stream = _Request(
            self.app, self.config, self.context, self.task_group, self.ssl,
            self.client, self.server, self.stream_send, STREAM_ID,
        )  # fmt: skip
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _close_stream(self) -> None:
        # The request's queue is bounded. If the request reads no more messages, this call would wait for ever and hold
        # up the connection. Such a request does not need this last message either.
        with trio.move_on_after(DISCONNECT_SECONDS):
            await super()._close_stream()
        self.stream = None


class _Request(HTTPStream):
    """One request of a connection, until its answer has ended."""

    async def handle(self, event: Any) -> None:
        if self.closed:
            # The answer is over and hypercorn drops the rest of the body without awaiting. It may come in thousands of
            # pieces, and other tasks must get their turn in between.
            await trio.lowlevel.checkpoint()
        await super().handle(event)


class _BoundedHeads(h11.Connection):
    """Refuses a large head before h11 spends time on each of its lines, and a body that can be read in two ways."""

    over = False
    """True once no answer can be sent any more; then nothing more is parsed either."""

    def next_event(self) -> Any:
        if self.over:
            return h11.NEED_DATA
        # IDLE: no head has been parsed yet, so the bytes received so far (`trailing_data`) begin with one.
        if self.their_state is h11.IDLE:
            _refuse_large_head(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            _refuse_unreadable(event)
        return event


def _refuse_large_head(data: bytes) -> None:
    end = _BLANK_LINE.search(data)
    head = data if end is None else data[: end.start()]
    if len(head) > HEAD_BYTES_MAX or head.count(b"\n") > HEAD_FIELDS_MAX:
        message = f"a request's head may have {HEAD_BYTES_MAX} bytes and {HEAD_FIELDS_MAX} fields"
        raise h11.RemoteProtocolError(message, error_status_hint=431)


def _refuse_unreadable(request: h11.Request) -> None:
    if request.http_version not in {b"1.0", b"1.1"}:
        raise h11.RemoteProtocolError("not HTTP/1", error_status_hint=505)
    # Two lengths of one body: a proxy may believe the other one, and read a second request out of it (smuggling).
    names = {name for name, _ in request.headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        raise h11.RemoteProtocolError("Content-Length together with Transfer-Encoding", error_status_hint=400)
    if _TARGET.match(request.target) is None:
        raise h11.RemoteProtocolError("a request's target begins with /", error_status_hint=400)
