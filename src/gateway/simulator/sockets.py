"""The WebSocket side: checks tickets, answers pings, sends events, and takes acknowledgements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from gateway.errors import RemoteProtocolError
from gateway.lark.wire.frame import CONTROL, DATA, Frame, decode, encode, pong
from gateway.simulator.clock import SimulatorClock
from gateway.simulator.connections import Bytes, Goodbye, SocketConnection, SocketConnections
from gateway.simulator.delivery import EventDelivery
from gateway.simulator.exchange import read_query
from gateway.simulator.faults import Faults, HandshakeFault
from gateway.simulator.platform import App, SimPlatform, Ticket
from gateway.simulator.valve import Valve

HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 5.0
FRAME_BYTES_MAX = 16 * 1024 * 1024
BAD_TICKET = HandshakeFault(
    http_status=401, status="514", msg="the ticket is unknown, used or too old", autherrcode="0"
)
TOO_MANY = HandshakeFault(http_status=403, status="514", msg="too many connections", autherrcode="1000040350")

log = structlog.get_logger()


class SocketDoor:
    """Takes byte streams that ask to become connections, and serves them.

    `client_config` is the client configuration in bootstraps and pongs, in the platform's own form. With
    `answers_pings` off it acts as a server that stays connected and does not answer.
    """

    def __init__(
        self,
        platform: SimPlatform,
        connections: SocketConnections,
        delivery: EventDelivery,
        *,
        faults: Faults,
        clock: SimulatorClock,
        client_config: dict[str, Any],
    ) -> None:
        self.client_config = client_config
        self.answers_pings = True
        self._platform = platform
        self._connections = connections
        self._delivery = delivery
        self._faults = faults
        self._clock = clock

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one stream until it ends, and close it. An exception inside is logged and ends this connection only."""
        valve = Valve(stream)
        try:
            async with trio.open_nursery() as nursery:
                await self._admit(nursery, valve)
                nursery.cancel_scope.cancel()
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the peer has left, or never sent a handshake: both are no error
        except* Exception:
            log.exception("simulated_connection_failed")
        finally:
            valve.hang_up()
            await trio.aclose_forcefully(stream)

    # -- the door

    async def _admit(self, nursery: trio.Nursery, valve: Valve) -> None:
        with trio.fail_after(HANDSHAKE_SECONDS):
            request = await wrap_server_stream(nursery, valve, max_message_size=FRAME_BYTES_MAX)
        admitted = await self._judge(request)
        if isinstance(admitted, HandshakeFault):
            await _reject(request, admitted)
            return
        app, ticket = admitted
        websocket = await request.accept()
        async with self._entered(app, ticket, valve, request, websocket) as connection:
            await self._read(connection, websocket)

    async def _judge(self, request: WebSocketRequest) -> tuple[App, Ticket] | HandshakeFault:
        query = read_query(urlsplit(request.path).query)
        ticket = self._platform.redeem_ticket(query.get("ticket", ("",))[0], self._clock.now())
        if ticket is None:
            return BAD_TICKET
        fault = self._faults.next_handshake(ticket.app_id)
        if fault is not None:
            await trio.sleep(fault.hang_seconds)
            if fault.http_status:
                return fault
        app = self._platform.apps[ticket.app_id]
        if len(self._connections.live(app.app_id)) >= app.connections_max:
            return TOO_MANY
        return app, ticket

    @asynccontextmanager
    async def _entered(
        self, app: App, ticket: Ticket, valve: Valve, request: WebSocketRequest, websocket: WebSocketConnection
    ) -> AsyncIterator[SocketConnection]:
        agent = dict(request.headers).get(b"user-agent", b"").decode(errors="replace")[:200]
        connection, to_write = self._connections.open(app, ticket, valve, agent)
        log.info("simulated_connection_opened", app_id=app.app_id, connection=connection.connection_id)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_write, to_write, websocket)
                yield connection
                connection.outgoing.close()  # the writer may be closing the WebSocket: let it finish, within a limit
                nursery.cancel_scope.deadline = trio.current_time() + CLOSE_SECONDS
        finally:
            self._connections.close(connection, _how_it_ended(websocket))
            self._delivery.connection_lost(connection)
            log.info("simulated_connection_closed", connection=connection.connection_id, why=connection.closing)

    # -- one connection

    async def _read(self, connection: SocketConnection, websocket: WebSocketConnection) -> None:
        while True:
            try:
                message = await websocket.get_message()
            except ConnectionClosed:
                return
            connection.frames_in += 1
            connection.last_frame_at = self._clock.wall_ms()
            if isinstance(message, bytes):
                self._take(connection, message)

    def _take(self, connection: SocketConnection, message: bytes) -> None:
        try:
            frame = decode(message)
        except RemoteProtocolError as error:
            log.warning("simulated_platform_got_no_frame", connection=connection.connection_id, error=str(error))
            return
        if frame.method == DATA:
            self._delivery.acknowledge(connection, frame)
        elif frame.method == CONTROL and frame.header(b"type") == b"ping":
            self._answer_ping(connection, frame)

    def _answer_ping(self, connection: SocketConnection, ping: Frame) -> None:
        connection.pings += 1
        if self.answers_pings:
            payload = msgspec.json.encode(self.client_config)
            connection.queue(Bytes(encode(pong(ping.service, payload))))


async def _write(to_write: trio.MemoryReceiveChannel[Bytes | Goodbye], websocket: WebSocketConnection) -> None:
    async with to_write:
        async for item in to_write:
            try:
                if isinstance(item, Goodbye):
                    with trio.move_on_after(CLOSE_SECONDS):
                        await websocket.aclose(item.code, item.reason)
                    return
                await websocket.send_message(item.data.decode(errors="replace") if item.text else item.data)
            except ConnectionClosed:
                return


async def _reject(request: WebSocketRequest, fault: HandshakeFault) -> None:
    named = {
        b"Handshake-Status": fault.status,
        b"Handshake-Msg": fault.msg,
        b"Handshake-Autherrcode": fault.autherrcode,
    }
    headers = [(name, value.encode()) for name, value in named.items() if value]
    await request.reject(fault.http_status, extra_headers=headers, body=b"")


def _how_it_ended(websocket: WebSocketConnection) -> str:
    reason = websocket.closed
    return f"closed by the client: {reason.code} {reason.name}" if reason is not None else "simulator stopped"
