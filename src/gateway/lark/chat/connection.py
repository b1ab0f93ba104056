"""The long connection on real sockets: bootstrap, dial, handshake, and the established link until it ends.

`lark.wire.session` decides what to do; this module moves bytes, keeps time and runs the tasks. The caller's task reads,
keeps the connection alive and notices silence. One more task writes our frames, and one task per chat decides the
events of that chat in order. These tasks exist only while they have something to do: of thousands of links nearly all
are idle, and each task would cost each of them memory.

An event goes through `_Link`: `_read` → `_take` → `_act` → `_deliver`, then in the task of its chat `_decide` →
`_answer`. `_decide` calls `on_event`, which is `LarkChannel.receive`, and a code comes back once the outcome is
committed. The bounds in ConnectionSettings may be changed. The order of decision, answer and write may not: an event
must never be acknowledged before it is committed.

When the caller is cancelled, reading and keeping alive stop at once. Deciding and writing get a second more, so that
events already received are settled and acknowledged.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import structlog
import trio
from h11 import ProtocolError as HttpProtocolError
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError as WebSocketProtocolError

from gateway.channel.channel import ConnectionState, Fence, LinkHealth, LinkLost, LinkRefused
from gateway.channel.errors import PlatformError, PlatformRefused, PlatformUnauthorized, PlatformUnreachable
from gateway.concurrency import Signal, Workers, open_workers, reached
from gateway.errors import RemoteProtocolError
from gateway.lark.api.proxy import Proxies, Proxy
from gateway.lark.api.reason import why
from gateway.lark.api.tunnel import ask_for, protocol
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.wire.assembler import AssemblerLimits
from gateway.lark.wire.endpoint import Endpoint, judge_handshake
from gateway.lark.wire.frame import Frame, encode
from gateway.lark.wire.session import REDELIVER, Action, Deliver, Ignored, Ponged, Send, Session, WentDeaf
from gateway.recorder import SILENT, Recorder

log = structlog.get_logger()

E = TypeVar("E", bound=Exception)
T = TypeVar("T")

DIRECT = Proxies({})

# The library ends the connection over a message that is longer than its limit. With the headroom, a frame that is just
# above ours is dropped instead.
_WEBSOCKET_HEADROOM_BYTES = 64 * 2**10
_RECEIVE_BYTES = 16 * 2**10  # several events at once when they come fast
_CLOSE_WAIT_SECONDS_MIN = 0.02
_CLOSE_WAIT_SECONDS_MAX = 0.25


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Bounds of one connection.

    TCP keepalive and the TCP user time-out make the kernel give up on a vanished peer, with or without unacknowledged
    data, within about 35 s here. `events_in_flight_max` and `bytes_in_flight_max` bound the events that were received
    and are not decided yet. Events of a chat that takes more than its share of them are answered 500. While many chats
    together fill them, the connection is not read. `chunk_bytes_max` bounds the kept pieces of split events that are
    not complete yet. `handover_seconds` is the second that `Channel.run` grants after its cancellation.
    """

    bootstrap_timeout_seconds: float = 15.0
    dial_timeout_seconds: float = 15.0
    tunnel_timeout_seconds: float = 10.0
    handshake_timeout_seconds: float = 15.0
    write_timeout_seconds: float = 10.0
    handover_seconds: float = 1.0
    frame_bytes_max: int = 2**20
    events_in_flight_max: int = 1024
    bytes_in_flight_max: int = 8 * 2**20
    chunk_bytes_max: int = 4 * 2**20
    send_queue_frames_max: int = 256
    keepalive_idle_seconds: int = 20
    keepalive_interval_seconds: int = 5
    keepalive_probes: int = 3
    user_timeout_seconds: int = 30


@dataclass(frozen=True, slots=True)
class RawLink:
    """A byte stream to the platform. `abort` closes it without awaiting anything; it may be called repeatedly."""

    stream: trio.abc.Stream
    abort: Callable[[], None]


FetchEndpoint = Callable[[], Awaitable[Endpoint]]
"""Asks the platform where to dial. Raises the PlatformError family."""
OpenStream = Callable[[Endpoint], Awaitable[RawLink]]
"""Dials, TLS included. Raises OSError, trio.BrokenResourceError, or the PlatformError family."""
OnEvent = Callable[[bytes], Awaitable[int]]
"""Decides one event: 200 or 500. An exception counts as 500."""


async def open_tcp_link(
    endpoint: Endpoint,
    *,
    ssl_context: ssl.SSLContext,
    proxies: Proxies = DIRECT,
    settings: ConnectionSettings | None = None,
) -> RawLink:
    """Dial over TCP, as an OpenStream. `ssl_context` is shared, because each takes close to a megabyte.

    Raises OSError if the peer does not answer, trio.BrokenResourceError if TLS fails, and PlatformUnreachable or
    PlatformRefused for a failure at the proxy. The caller owns the result. On every other way out, cancellation
    included, the socket is closed.
    """
    settings = settings or ConnectionSettings()
    proxy = proxies.route("https" if endpoint.tls else "http", endpoint.host, endpoint.port)
    tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port) if proxy is None else await _reach(proxy)
    try:
        _tune(tcp.socket, settings)
        stream: trio.abc.Stream = tcp
        if proxy is not None:
            stream = await _tunnel(tcp, proxy, endpoint, ssl_context, settings)
        if endpoint.tls:
            stream = await _secure(stream, ssl_context, endpoint.host)
        return RawLink(stream, tcp.socket.close)
    except BaseException:
        # The bare socket, without awaiting: closing TLS would first write to a peer that may be silent.
        tcp.socket.close()
        raise


async def _reach(proxy: Proxy) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise PlatformUnreachable(f"the proxy {proxy} cannot be reached: {error}") from error


async def _tunnel(
    tcp: trio.SocketStream, proxy: Proxy, endpoint: Endpoint, ssl_context: ssl.SSLContext, settings: ConnectionSettings
) -> trio.abc.Stream:
    """Return a stream to the endpoint through `tcp`, a connection to the proxy, which the caller owns and closes."""
    try:
        with trio.fail_after(settings.tunnel_timeout_seconds):
            stream = await _secure(tcp, ssl_context, proxy.host) if proxy.tls else tcp
            await ask_for(stream, proxy, endpoint.host, endpoint.port)
            return stream
    except trio.BrokenResourceError as error:
        raise PlatformUnreachable(f"the connection to the proxy {proxy} broke: {why(error)}") from error
    except trio.TooSlowError as error:
        waited = settings.tunnel_timeout_seconds
        words = f"the proxy {proxy} gave no whole answer to {protocol(proxy)} within {waited:g} s"
        raise PlatformUnreachable(words) from error


async def _secure(stream: trio.abc.Stream, context: ssl.SSLContext, host: str) -> trio.abc.Stream:
    tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    await tls.do_handshake()
    return tls


def _tune(sock: trio.socket.SocketType, settings: ConnectionSettings) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": settings.keepalive_idle_seconds,
        "TCP_KEEPINTVL": settings.keepalive_interval_seconds,
        "TCP_KEEPCNT": settings.keepalive_probes,
        "TCP_USER_TIMEOUT": settings.user_timeout_seconds * 1000,
    }
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:  # Linux has all of them, other systems some
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def run_connection(
    *,
    fetch_endpoint: FetchEndpoint,
    open_stream: OpenStream,
    on_event: OnEvent,
    order_key: Callable[[bytes], str],
    fence: Fence,
    health: LinkHealth,
    settings: ConnectionSettings | None = None,
    wall_clock: Callable[[], datetime] = _utc_now,
    recorder: Recorder = SILENT,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Hold one long connection until cancelled; call `started()` once it is established.

    Events with the same `order_key` are decided one after the other, all others concurrently; "" means no order. If too
    many events of one key are under way, further ones are answered 500 at once, so that no other key waits for them.
    The platform sends a refused event again later, and it is then decided after the events that its key received
    meanwhile. Those are not held back: they would be delayed to the platform's later attempts, minutes and hours away,
    and lost after the last of them.

    Resource handling: the socket is closed on every way out. Cancellation ends reading at once. Events already received
    are settled and acknowledged within `handover_seconds`, then the connection is closed. Events that are not settled
    in that time are not acknowledged, and the platform sends them again. When `fence` falls, the socket is closed at
    once.

    Error handling: raises LinkRefused for a definite no of the platform, LinkLost for everything that may pass. An
    exception of `on_event` is logged, counted and answered 500; the connection goes on.
    """
    settings = settings or ConnectionSettings()
    session = Session(limits=AssemblerLimits(bytes_max=settings.chunk_bytes_max))
    health.state, health.code, health.detail = ConnectionState.CONNECTING, 0, ""
    try:
        endpoint = await _bootstrap(fetch_endpoint, settings)
        session.endpoint_given(endpoint)
        raw = await _dial(endpoint, open_stream, settings)
        with _owned(raw, fence):
            link = _Link(
                session,
                raw,
                settings,
                on_event=on_event,
                order_key=order_key,
                health=health,
                wall_clock=wall_clock,
                recorder=recorder,
            )
            await link.run(endpoint, task_status)
    except LinkRefused as refusal:
        session.refused()
        health.state, health.code, health.detail = ConnectionState.REFUSED, refusal.code, refusal.reason
        raise
    except LinkLost as loss:
        health.state = ConnectionState.DEAF if loss.deaf else ConnectionState.CONNECTING
        health.detail = str(loss)
        raise
    finally:
        session.ended()


@contextmanager
def _ending_the_link() -> Iterator[None]:
    """Turn the PlatformError family into LinkRefused for a definite no, and into LinkLost for the rest."""
    try:
        yield
    except (PlatformRefused, PlatformUnauthorized) as error:
        raise LinkRefused(error.code, str(error)) from error
    except PlatformError as error:
        raise LinkLost(str(error)) from error


async def _bootstrap(fetch_endpoint: FetchEndpoint, settings: ConnectionSettings) -> Endpoint:
    try:
        with _ending_the_link(), trio.fail_after(settings.bootstrap_timeout_seconds):
            return await fetch_endpoint()
    except trio.TooSlowError as error:
        waited = settings.bootstrap_timeout_seconds
        raise LinkLost(f"the platform gave no connection URL within {waited:g} s") from error


async def _dial(endpoint: Endpoint, open_stream: OpenStream, settings: ConnectionSettings) -> RawLink:
    try:
        with _ending_the_link(), trio.fail_after(settings.dial_timeout_seconds):
            return await open_stream(endpoint)
    except (OSError, trio.BrokenResourceError) as error:
        raise LinkLost(f"{endpoint} cannot be reached: {why(error)}") from error
    except trio.TooSlowError as error:
        raise LinkLost(f"{endpoint} cannot be reached within {settings.dial_timeout_seconds:g} s") from error


@contextmanager
def _owned(raw: RawLink, fence: Fence) -> Iterator[None]:
    """Close the link at the end of the block, or at once when the fence falls."""
    retract = fence.on_fall(raw.abort)
    try:
        yield
    finally:
        retract()
        raw.abort()


class _Tap(trio.abc.Stream):
    """The stream given to the WebSocket library: it reports the end of the real stream, and can collect writes.

    Without the report, the library would wait on for a handshake answer that cannot come any more. Without collecting,
    the library spends a system call on every message, which is a good part of the cost of an acknowledgement.
    """

    def __init__(self, stream: trio.abc.Stream, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end
        self._held: bytearray | None = None
        # The library's reading task writes too, to answer pings and closes; a trio stream allows one writer at a time.
        self._writing = trio.Lock()
        self.ended = False

    @asynccontextmanager
    async def corked(self) -> AsyncIterator[None]:
        """Collect the bytes sent within the block and write them as one at its end; drop them after an exception."""
        held = self._held = bytearray()
        try:
            yield
        finally:
            self._held = None
        await self.send_all(held)  # not in `finally`: after an exception nothing is written

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._held is not None:
            self._held += data
            return
        try:
            async with self._writing:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:  # the end of the stream, or an exception
                self._end()
        return data

    async def aclose(self) -> None:
        self._end()
        await self._stream.aclose()

    def _end(self) -> None:
        self.ended = True
        self._on_end()


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    on_written: Callable[[], None] | None = None


class _Writer:
    """The queue of outgoing frames, written by one task at a time. Frames that wait together are written together.

    The task is one of `workers`, and lasts as long as there are frames to write. A write that fails may leave half a
    frame, so it ends the connection: `on_failure` is called, and nothing more is written.
    """

    def __init__(
        self,
        ws: WebSocketConnection,
        tap: _Tap,
        settings: ConnectionSettings,
        workers: Workers,
        on_failure: Callable[[LinkLost], None],
    ) -> None:
        self._ws = ws
        self._tap = tap
        self._frames_max = settings.send_queue_frames_max
        self._timeout_seconds = settings.write_timeout_seconds
        self._workers = workers
        self._on_failure = on_failure
        self._waiting: list[_Outgoing] = []
        self._writing = False
        self._closed = False
        self._moved = trio.Event()

    async def put(self, frame: Frame, on_written: Callable[[], None] | None = None) -> None:
        """Queue a frame; wait while the queue is full. A cancelled call has queued nothing.

        After the link ended this does nothing: the end is reported elsewhere, and the platform sends events again that
        were not acknowledged.
        """
        # At the start, because nothing may be awaited between the last check and the queueing.
        await trio.lowlevel.checkpoint()
        while len(self._waiting) >= self._frames_max and not self._closed:
            await self._moved.wait()
        if self._closed:
            return
        self._waiting.append(_Outgoing(encode(frame), on_written))
        if not self._writing:
            self._writing = True
            self._workers.start_soon(self._run)

    async def finish(self) -> None:
        """Take no more frames, and wait until the queued ones are written or lost."""
        self._closed = True
        while self._writing:
            await self._moved.wait()

    async def _run(self) -> None:
        try:
            while self._waiting:
                # All at once: frames that are queued during this write form the next one.
                outgoing, self._waiting = self._waiting, []
                self._move()
                await self._write(outgoing)
        except LinkLost as loss:
            self._closed = True
            self._waiting.clear()
            self._on_failure(loss)
        finally:
            self._writing = False
            self._move()

    def _move(self) -> None:
        """Wake the tasks that wait for room in the queue, or for the last write."""
        self._moved.set()
        self._moved = trio.Event()

    async def _write(self, outgoing: Sequence[_Outgoing]) -> None:
        try:
            with trio.fail_after(self._timeout_seconds):
                # The library writes into the tap's buffer here; the one real write is at the end of the block.
                async with self._tap.corked():
                    for each in outgoing:
                        await self._ws.send_message(each.data)
        except ConnectionClosed as closed:
            raise LinkLost(_describe(closed)) from closed
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise LinkLost("the connection broke while a frame was being written") from broken
        except trio.TooSlowError as error:
            raise LinkLost(f"a frame could not be written within {self._timeout_seconds:g} s") from error
        for each in outgoing:
            if each.on_written is not None:
                each.on_written()


@dataclass(slots=True)
class _Lane:
    """The undecided events of one key; the first is being decided. If `shut`, it takes no more until it is empty."""

    waiting: deque[Deliver]
    bytes: int
    shut: bool = False


class _Lanes:
    """The undecided events: one after the other for each key, otherwise concurrent; bounded in number and bytes.

    A key may hold as much as is still free. This leaves room for others even when several keys are stuck: one stuck key
    holds half of the whole, two hold a third each. Events beyond that are refused. But a key may always hold a
    sixteenth of the whole: a burst may fill the room with a few events of each of many keys. Then no key is to blame,
    and the connection waits instead.

    After a refusal, a key takes no events until all that it holds are decided. So the accepted events and the refused
    ones are both unbroken stretches of the chat, instead of alternating.
    """

    def __init__(self, decide: Callable[[Deliver], Awaitable[None]], settings: ConnectionSettings) -> None:
        self._decide = decide
        self._settings = settings
        self._lanes: dict[object, _Lane] = {}
        self._events = 0
        self._bytes = 0
        self._left = Signal()

    def refuses(self, key: object, delivery: Deliver) -> bool:
        """True if the key has used up its share. A key without undecided events is never refused."""
        lane = self._lanes.get(key)
        if lane is None:
            return False
        if not lane.shut:
            events = _share(self._settings.events_in_flight_max, self._events)
            bytes_ = _share(self._settings.bytes_in_flight_max, self._bytes)
            lane.shut = len(lane.waiting) >= events or lane.bytes + len(delivery.payload) > bytes_
            if lane.shut:
                log.warning("chat_over_its_share", waiting=len(lane.waiting), bytes=lane.bytes)
        return lane.shut

    def has_room(self, delivery: Deliver) -> bool:
        """True if there is room for the event; always true if no other is under way, whatever the size."""
        if self._events == 0:
            return True
        total_bytes = self._bytes + len(delivery.payload)
        return self._events < self._settings.events_in_flight_max and total_bytes <= self._settings.bytes_in_flight_max

    async def room(self, delivery: Deliver) -> None:
        """Wait for room for the event. There may be one waiter at a time."""
        while not self.has_room(delivery):
            await self._left.wait()

    async def idle(self) -> None:
        """Wait until all events are decided. There may be one waiter at a time, and none in `room` meanwhile."""
        while self._events:
            await self._left.wait()

    def add(self, key: object, delivery: Deliver, workers: Workers) -> None:
        size = len(delivery.payload)
        self._events += 1
        self._bytes += size
        if (lane := self._lanes.get(key)) is not None:
            lane.waiting.append(delivery)
            lane.bytes += size
        else:
            self._lanes[key] = _Lane(deque((delivery,)), size)
            workers.start_soon(self._run, key)

    async def _run(self, key: object) -> None:
        lane = self._lanes[key]
        while lane.waiting:
            # It stays in the lane while it is decided, so that its bytes count until then.
            await self._decide(lane.waiting[0])
            size = len(lane.waiting.popleft().payload)
            lane.bytes -= size
            self._bytes -= size
            self._events -= 1
            self._left.set()
        del self._lanes[key]


def _share(total: int, taken: int) -> int:
    """Return how much one key may hold of a total of which `taken` is in use."""
    return max(total - taken, total // 16)


class _Link:
    """One link, from the WebSocket handshake to its end."""

    def __init__(
        self,
        session: Session,
        raw: RawLink,
        settings: ConnectionSettings,
        *,
        on_event: OnEvent,
        order_key: Callable[[bytes], str],
        health: LinkHealth,
        wall_clock: Callable[[], datetime],
        recorder: Recorder,
    ) -> None:
        self._session = session
        self._raw = raw
        self._settings = settings
        self._on_event = on_event
        self._order_key = order_key
        self._health = health
        self._wall_clock = wall_clock
        self._recorder = recorder
        self._writer: _Writer  # set after the handshake; before it there is nothing to write
        self._lanes = _Lanes(self._decide, settings)
        self._body = trio.CancelScope()
        self._ending: LinkLost | LinkRefused | None = None
        self._round_trip_seconds = 0.0

    async def run(self, endpoint: Endpoint, task_status: trio.TaskStatus[None]) -> None:
        """Serve the link until cancelled. Raises LinkRefused or LinkLost when the link cannot be made or ends."""
        try:
            async with open_workers(self._settings.handover_seconds) as workers:
                # `_end` cancels the body only, so the workers keep their time to settle and acknowledge.
                with self._body:
                    await self._serve(endpoint, workers, task_status)
        # Exceptions of workers come in groups. The ending is raised below, outside of any group.
        except* ConnectionRejected as rejections:
            self._end(_judge_rejection(_first(rejections)))
        except* (HandshakeError, ConnectionClosed, WebSocketProtocolError, HttpProtocolError) as errors:
            # From the reading task of the library. The last two come when the peer sent nonsense and the library fails
            # at its own answer to it.
            self._end(LinkLost(f"the WebSocket failed: {_first(errors)}"))
        if self._ending is not None:
            raise self._ending

    async def _serve(self, endpoint: Endpoint, workers: Workers, task_status: trio.TaskStatus[None]) -> None:
        shaken = await self._shake_hands(endpoint, workers)
        if shaken is None:
            return
        ws, tap = shaken
        self._session.established(trio.current_time())
        self._health.state = ConnectionState.LIVE
        log.info("link_live", endpoint=str(endpoint), service_id=endpoint.service_id)
        self._writer = _Writer(ws, tap, self._settings, workers, self._write_failed)
        try:
            task_status.started()
            await self._read(ws, workers)
        finally:
            # As a worker: this task may be cancelled, and could then await nothing.
            workers.start_soon(self._settle_and_close, ws)

    async def _shake_hands(self, endpoint: Endpoint, workers: Workers) -> tuple[WebSocketConnection, _Tap] | None:
        """Make the WebSocket handshake; None if it failed, with the reason recorded by `_end`.

        A refusal by the platform is raised as ConnectionRejected by `workers`.
        """
        timeout = self._settings.handshake_timeout_seconds
        established = False
        try:
            with trio.move_on_after(timeout) as scope:
                # If the stream ends, the scope is cancelled: the library itself would wait until the time-out.
                tap = _Tap(self._raw.stream, scope.cancel)
                ws = await wrap_client_stream(
                    workers,  # type: ignore[arg-type]  # it only starts its reading task there
                    tap,  # type: ignore[arg-type]  # any stream will do
                    endpoint.authority,
                    endpoint.resource,
                    max_message_size=self._settings.frame_bytes_max + _WEBSOCKET_HEADROOM_BYTES,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
                established = True
                return ws, tap
            what = "the peer closed the connection" if tap.ended else f"nothing was answered within {timeout:g} s"
            self._end(LinkLost(f"the WebSocket handshake with {endpoint} failed: {what}"))
            return None
        finally:
            if not established:
                self._raw.abort()  # else the library's reading task would wait for bytes until it is cancelled

    async def _read(self, ws: WebSocketConnection, workers: Workers) -> None:
        while True:
            try:
                message = await self._keeping_alive(ws.get_message, workers)
            except ConnectionClosed as closed:
                self._end(LinkLost(_describe(closed)))
                return
            if self._ending is not None:
                return  # the end was decided in the same turn of the scheduler that brought this message
            if isinstance(message, bytes) and len(message) <= self._settings.frame_bytes_max:
                await self._take(message, workers)
            else:
                log.warning("message_dropped", text=isinstance(message, str), length=len(message))

    async def _take(self, message: bytes, workers: Workers) -> None:
        try:
            actions = self._session.receive(message, trio.current_time())
        except RemoteProtocolError as error:
            log.warning("frame_malformed", length=len(message), error=str(error))
            return
        self._health.last_frame_at = self._wall_clock()
        for action in actions:
            await self._act(action, workers)

    async def _act(self, action: Action, workers: Workers) -> None:
        match action:
            case Send(frame):
                await self._writer.put(frame)
            case Deliver():
                await self._deliver(action, workers)
            case Ponged(seconds):
                self._ponged(seconds)
            case Ignored(reason):
                log.warning("frame_ignored", reason=reason)
            case WentDeaf(seconds):
                self._end(LinkLost(f"nothing was heard for {seconds:.0f} s", deaf=True))

    def _ponged(self, seconds: float | None) -> None:
        if seconds is not None:
            self._round_trip_seconds = seconds
            self._health.pong_ms = seconds * 1000

    async def _keeping_alive(self, wait: Callable[[], Awaitable[T]], workers: Workers) -> T:
        """Return the result of `wait`; meanwhile send the pings that are due, and end the link after silence.

        `wait` is cancelled and called again, so it must lose nothing when it is cancelled.
        """
        while True:
            if trio.current_time() >= self._session.wake_at:
                for action in self._session.tick(trio.current_time()):
                    await self._act(action, workers)
            # After WentDeaf `wake_at` is infinite, but `_body` is cancelled, so the wait ends at once.
            with trio.move_on_at(self._session.wake_at):
                return await wait()

    async def _deliver(self, delivery: Deliver, workers: Workers) -> None:
        reached("lark.received")
        self._health.last_event_at = self._wall_clock()
        key = self._key_of(delivery)
        if self._lanes.refuses(key, delivery):
            # The platform sends it again in 15 s. No claim was made for it, so it is then a message like any other.
            await self._answer(delivery, REDELIVER)
            return
        if not self._lanes.has_room(delivery):
            # The connection is not read meanwhile. Without the pause, that would count as silence of the platform.
            self._session.pause()
            await self._keeping_alive(partial(self._lanes.room, delivery), workers)
            self._session.resume(trio.current_time())
        self._lanes.add(key, delivery, workers)

    def _key_of(self, delivery: Deliver) -> object:
        """Return the key of the lane for an event. An event without order is its own key, so it waits for no other."""
        try:
            return self._order_key(delivery.payload) or delivery
        except Exception:
            self._recorder.count("unexpected_errors", unit="frame")
            log.exception("event_has_no_order_key", **_transport_ids(delivery.frame))
            return delivery

    async def _decide(self, delivery: Deliver) -> None:
        try:
            code = await self._on_event(delivery.payload)
        except Exception:
            self._recorder.count("unexpected_errors", unit="frame")
            log.exception("event_failed", **_transport_ids(delivery.frame))
            code = REDELIVER
        reached("lark.before_ack")
        await self._answer(delivery, code)

    async def _answer(self, delivery: Deliver, code: int) -> None:
        if code == REDELIVER:
            self._health.asked_again_at = trio.current_time()
        # The first answer is to the event itself; the others are to late pieces of it, and are not measured.
        answer, *repeated = self._session.settle(delivery, code, trio.current_time())
        await self._writer.put(answer, partial(self._acknowledged, delivery, code))
        for frame in repeated:
            await self._writer.put(frame)

    def _acknowledged(self, delivery: Deliver, code: int) -> None:
        reached("lark.acknowledged")
        seconds = trio.current_time() - delivery.received_at
        self._recorder.observe("channel_ack_seconds", seconds, channel=CHANNEL_TYPE, code=str(code))

    async def _settle_and_close(self, ws: WebSocketConnection) -> None:
        """End the link after reading has stopped: finish events and answers, then close the WebSocket and the socket.

        Like every worker, it is cancelled `handover_seconds` after the body was left.
        """
        await self._lanes.idle()
        await self._writer.finish()
        with trio.move_on_after(self._close_wait_seconds()):
            await ws.aclose()
        self._raw.abort()

    def _close_wait_seconds(self) -> float:
        # The peer's close frame proves that it knows that the link is over. A live peer answers about as fast as it
        # answers a ping; a frozen one is not worth waiting for.
        return min(_CLOSE_WAIT_SECONDS_MAX, max(_CLOSE_WAIT_SECONDS_MIN, 2 * self._round_trip_seconds))

    def _write_failed(self, loss: LinkLost) -> None:
        # The last write may have ended inside a frame, so nothing may follow it.
        self._raw.abort()
        self._end(loss)

    def _end(self, ending: LinkLost | LinkRefused) -> None:
        """End the link; the first reason given is the one reported."""
        if self._ending is None:
            self._ending = ending
        self._body.cancel()


def _judge_rejection(rejection: ConnectionRejected) -> LinkLost | LinkRefused:
    verdict = judge_handshake(rejection.status_code, rejection.headers or ())
    if isinstance(verdict, PlatformRefused):
        return LinkRefused(verdict.code, str(verdict))
    return LinkLost(str(verdict))


def _describe(closed: ConnectionClosed) -> str:
    reason = closed.reason
    if reason is None:
        return "the connection was closed"
    said = f": {reason.reason}" if reason.reason else ""
    return f"the connection was closed ({reason.code} {reason.name}{said})"


def _transport_ids(frame: Frame) -> dict[str, str]:
    keys = (b"message_id", b"trace_id")
    return {key.decode(): (frame.header(key) or b"").decode("utf-8", "replace")[:100] for key in keys}


def _first(group: BaseExceptionGroup[E]) -> E:
    """Return the first exception in a group, or in the groups within it, that is no group itself."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
