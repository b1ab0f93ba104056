"""The platform's end of a long connection, reduced to what tests of the connection need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import msgspec
import trio
import trio.testing
from trio_websocket import WebSocketConnection, wrap_server_stream

from gateway.channel.channel import Fence, LinkHealth
from gateway.lark.chat.connection import ConnectionSettings, RawLink, run_connection
from gateway.lark.wire.endpoint import ClientConfig, Endpoint
from gateway.lark.wire.frame import CONTROL, DATA, Frame, decode, encode, pong
from support.recording import Recording

TICKET = "not-a-real-ticket"
SERVICE_ID = 7


class Peer:
    """A server's side of one WebSocket. `pings` and `acks` fill as frames arrive; `frames` yields them all."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.ws = ws
        self.answer_pings = True
        self.pong_payload: bytes | None = None
        self.pings: list[float] = []
        self.acks: list[tuple[float, Frame]] = []
        self.pongs: list[float] = []
        self.closed = trio.Event()
        self._changed = trio.Condition()

    async def run(self) -> None:
        try:
            while True:
                message = await self.ws.get_message()
                assert isinstance(message, bytes)
                frame = decode(message)
                await self._take(frame)
        except Exception:  # closed, in whatever way
            self.closed.set()

    async def _take(self, frame: Frame) -> None:
        async with self._changed:
            if frame.method == DATA:
                self.acks.append((trio.current_time(), frame))
            elif frame.header(b"type") == b"ping":
                self.pings.append(trio.current_time())
            else:
                self.pongs.append(trio.current_time())
            self._changed.notify_all()
        if frame.header(b"type") == b"ping" and self.answer_pings:
            await self.send(pong(frame.service, self.pong_payload))

    async def send(self, frame: Frame) -> None:
        await self.ws.send_message(encode(frame))

    async def send_event(self, payload: bytes, message_id: str = "m", **headers: str) -> Frame:
        frame = event_frame(payload, message_id, **headers)
        await self.send(frame)
        return frame

    async def send_ping(self) -> None:
        await self.send(Frame(service=SERVICE_ID, method=CONTROL, headers=((b"type", b"ping"),)))

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            while not condition():
                await self._changed.wait()

    async def ack(self, message_id: str = "m") -> Frame:
        """The first acknowledgement of this transport id, waited for."""
        await self.wait_until(lambda: message_id in self.acked)
        return next(frame for _, frame in self.acks if frame.header(b"message_id") == message_id.encode())

    @property
    def acked(self) -> list[str]:
        return [(frame.header(b"message_id") or b"").decode() for _, frame in self.acks]


def event_frame(payload: bytes, message_id: str = "m", *, type: str = "event", **headers: str) -> Frame:
    fields = {"type": type, "message_id": message_id, "sum": "1", "seq": "0", "trace_id": "t", **headers}
    pairs = tuple((key.encode(), value.encode()) for key, value in fields.items())
    return Frame(seq_id=11, log_id=2**63 + 1, service=SERVICE_ID, method=DATA, headers=pairs, payload=payload)


def code_of(ack: Frame) -> int:
    return int(msgspec.json.decode(ack.payload or b"null")["code"])


Script = Callable[[Peer], Awaitable[None]]


async def play(stream: trio.abc.Stream, script: Script, **reject: object) -> None:
    """Accept one WebSocket on `stream` and run `script`, then close."""
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream, max_message_size=2**24)
        if reject:
            await request.reject(**reject)  # type: ignore[arg-type]
            return
        peer = Peer(await request.accept())
        nursery.start_soon(peer.run)
        await script(peer)
        await peer.ws.aclose()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def loopback(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[Endpoint]:
    """Serve raw streams on a loopback socket; yields where to dial. A stream that breaks is the test's business."""

    async def quietly(stream: trio.SocketStream) -> None:
        try:
            await serve(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, quietly, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield endpoint(port)
        nursery.cancel_scope.cancel()


def endpoint(port: int = 80, ping_interval_seconds: float | None = None) -> Endpoint:
    url = f"ws://127.0.0.1:{port}/ws?service_id={SERVICE_ID}&ticket={TICKET}"
    return Endpoint(url, SERVICE_ID, ClientConfig(ping_interval_seconds))


@dataclass
class Client:
    """What a test gives to and sees of `run_connection`."""

    fence: Fence = field(default_factory=Fence)
    health: LinkHealth = field(default_factory=LinkHealth)
    settings: ConnectionSettings = field(default_factory=ConnectionSettings)
    on_event: Callable[[bytes], Awaitable[int]] | None = None
    order_key: Callable[[bytes], str] = lambda payload: payload.decode("latin-1")
    endpoint: Endpoint = field(default_factory=endpoint)
    events: list[bytes] = field(default_factory=list)
    recorder: Recording = field(default_factory=Recording)

    async def run(
        self,
        open_stream: Callable[[Endpoint], Awaitable[RawLink]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        await run_connection(
            fetch_endpoint=self._fetch,
            open_stream=open_stream,
            on_event=self._decide,
            order_key=self.order_key,
            fence=self.fence,
            health=self.health,
            settings=self.settings,
            wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            recorder=self.recorder,
            task_status=task_status,
        )

    async def _fetch(self) -> Endpoint:
        await trio.lowlevel.checkpoint()
        return self.endpoint

    async def _decide(self, payload: bytes) -> int:
        self.events.append(payload)
        return await self.on_event(payload) if self.on_event else 200


def in_memory(
    nursery: trio.Nursery, serve: Callable[[trio.abc.Stream], Awaitable[None]]
) -> Callable[[Endpoint], Awaitable[RawLink]]:
    """An OpenStream whose other end is served in `nursery`, without sockets."""

    async def open_stream(_endpoint: Endpoint) -> RawLink:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, theirs)

        def abort() -> None:
            ours.send_stream.close()
            ours.receive_stream.close()

        return RawLink(ours, abort)

    return open_stream
