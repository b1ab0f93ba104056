"""Long connections over real sockets: the door, and every way to lose one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from gateway.lark.wire.frame import Frame, acknowledge, decode, encode, ping
from gateway.simulator import Simulator, open_simulator
from gateway.simulator.exchange import Request
from gateway.simulator.platform import App


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with open_simulator(redelivery_scale=0.01) as simulator:
        yield simulator


@pytest.fixture
async def app(simulator: Simulator) -> App:
    return simulator.create_app("Echo")


async def endpoint(simulator: Simulator, app: App) -> str:
    body = msgspec.json.encode({"AppID": app.app_id, "AppSecret": app.secret})
    answer = await simulator.respond(Request("POST", "/callback/ws/endpoint", body=body))
    return str(msgspec.json.decode(answer.body)["data"]["URL"])


@asynccontextmanager
async def dialled(url: str) -> AsyncIterator[WebSocketConnection]:
    """A client that ends its TCP connection on the way out, without a WebSocket goodbye. Raises ConnectionRejected."""
    parts = urlsplit(url)
    rejections: list[ConnectionRejected] = []
    with trio.fail_after(20):
        async with await trio.open_tcp_stream(parts.hostname or "", parts.port or 0) as stream:
            try:
                async with trio.open_nursery() as nursery:
                    target = f"{parts.path}?{parts.query}"
                    yield await wrap_client_stream(nursery, stream, parts.netloc, target)
                    nursery.cancel_scope.cancel()
            except* ConnectionRejected as group:
                rejections.extend(error for error in group.exceptions if isinstance(error, ConnectionRejected))
    for rejection in rejections:
        raise rejection


async def receive(client: WebSocketConnection) -> Frame:
    message = await client.get_message()
    assert isinstance(message, bytes)
    return decode(message)


async def refused(url: str) -> ConnectionRejected:
    with pytest.raises(ConnectionRejected) as caught:
        async with dialled(url):
            pass
    return caught.value


def handshake_headers(rejection: ConnectionRejected) -> dict[bytes, bytes]:
    return {name: value for name, value in rejection.headers or () if name.startswith(b"handshake-")}


async def test_ticket_opens_one_connection_only(simulator: Simulator, app: App) -> None:
    url = await endpoint(simulator, app)
    async with dialled(url):
        await simulator.wait_connected(app)
    rejection = await refused(url)

    assert handshake_headers(rejection)[b"handshake-status"] == b"514"
    assert handshake_headers(rejection)[b"handshake-autherrcode"] != b"1000040350"
    assert len(simulator.connection_log.history()) == 1


async def test_connection_above_the_limit_is_refused_at_the_door(simulator: Simulator, app: App) -> None:
    app.connections_max = 1
    first, second = await endpoint(simulator, app), await endpoint(simulator, app)
    async with dialled(first):
        await simulator.wait_connected(app)
        rejection = await refused(second)

    assert handshake_headers(rejection)[b"handshake-status"] == b"514"
    assert handshake_headers(rejection)[b"handshake-autherrcode"] == b"1000040350"


async def test_handshake_planned_refusal_shows_its_headers_once(simulator: Simulator, app: App) -> None:
    simulator.reject_handshakes(1, status="403", msg="forbidden", autherrcode="7")

    rejection = await refused(await endpoint(simulator, app))
    assert handshake_headers(rejection) == {
        b"handshake-status": b"403",
        b"handshake-msg": b"forbidden",
        b"handshake-autherrcode": b"7",
    }
    async with dialled(await endpoint(simulator, app)):
        await simulator.wait_connected(app)


@pytest.mark.parametrize(("how", "code"), [("close", 1001), ("hang_up", 1006), ("reset", 1006), ("tear", 1006)])
async def test_connection_dropped_the_client_sees_it_end(simulator: Simulator, app: App, how: str, code: int) -> None:
    async with dialled(await endpoint(simulator, app)) as client:
        [connection] = await simulator.wait_connected(app)
        connection.drop(how, 1001)

        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == code
        await connection.ended.wait()
    assert connection.closed_at
    assert connection.closing == f"dropped: {how}"
    assert simulator.connections(app) == []


def test_connection_dropped_in_an_unknown_way_is_refused() -> None:
    from gateway.simulator.connections import SocketConnection

    with pytest.raises(ValueError, match="reset"):
        SocketConnection.drop(None, "gently")  # type: ignore[arg-type]


async def test_connection_frozen_is_silent_and_alive_until_thawed(simulator: Simulator, app: App) -> None:
    simulator.delivery.ack_seconds, simulator.delivery.redelivery_scale = 0.2, 1
    ada = simulator.create_person("Ada")
    async with dialled(await endpoint(simulator, app)) as client:
        [connection] = await simulator.wait_connected(app)
        connection.valve.freeze()
        await client.send_message(encode(ping(1)))
        event = simulator.say(ada, app, "hello").event

        assert (await event.answered()).outcome == "timeout"
        assert (connection.pings, connection.live) == (0, True)

        connection.valve.thaw()
        kinds = [(await receive(client)).header(b"type") for _ in range(2)]
        assert sorted(kind or b"" for kind in kinds) == [b"event", b"pong"]


async def test_connection_frozen_and_left_by_the_client_is_not_live(simulator: Simulator, app: App) -> None:
    async with dialled(await endpoint(simulator, app)):
        [connection] = await simulator.wait_connected(app)
        connection.valve.freeze()
    await simulator.wait_connected(app, 0)

    async with dialled(await endpoint(simulator, app)):
        await simulator.wait_connected(app, 1)
        assert simulator.most_live(app) == 1


async def test_connection_closed_by_the_client_is_recorded(simulator: Simulator, app: App) -> None:
    async with dialled(await endpoint(simulator, app)) as client:
        [connection] = await simulator.wait_connected(app)
        await client.aclose()
        await connection.ended.wait()

    assert connection.opened_at <= connection.closed_at
    assert connection.closing.startswith("closed by the client: 1000")


async def test_two_connections_at_once_are_counted(simulator: Simulator, app: App) -> None:
    async with dialled(await endpoint(simulator, app)):
        async with dialled(await endpoint(simulator, app)):
            await simulator.wait_connected(app, 2)
        await simulator.wait_connected(app, 1)
    assert simulator.most_live(app) == 2


async def test_garbage_from_a_client_ends_nothing(simulator: Simulator, app: App) -> None:
    ada = simulator.create_person("Ada")
    async with dialled(await endpoint(simulator, app)) as client:
        await simulator.wait_connected(app)
        await client.send_message(b"\xff\xff\xff")
        await client.send_message("text")
        event = simulator.say(ada, app, "still there?").event
        await client.send_message(encode(acknowledge(await receive(client), 200, 1)))
        assert (await event.settled()).state == "delivered"


async def test_stranger_at_the_door_that_speaks_no_websocket_ends_alone(simulator: Simulator, app: App) -> None:
    port = int(simulator.world.ws_url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stranger:
        await stranger.send_all(b"GIVE ME EVENTS\r\n\r\n")
        async with dialled(await endpoint(simulator, app)):
            await simulator.wait_connected(app)


async def test_raw_message_arrives_as_it_is(simulator: Simulator, app: App) -> None:
    async with dialled(await endpoint(simulator, app)) as client:
        [connection] = await simulator.wait_connected(app)
        assert simulator.push_raw(connection, b"\x00\x01 no frame")
        assert simulator.push_raw(connection, b"words", text=True)
        assert await client.get_message() == b"\x00\x01 no frame"
        assert await client.get_message() == "words"


async def test_raw_message_too_large_for_the_client_is_refused_by_it(simulator: Simulator, app: App) -> None:
    async with dialled(await endpoint(simulator, app)) as client:
        [connection] = await simulator.wait_connected(app)
        simulator.push_raw(connection, bytes(2 * 1024 * 1024))
        with pytest.raises(ConnectionClosed):
            await client.get_message()
    with trio.fail_after(5):
        await connection.ended.wait()
    assert connection.closing.startswith("closed by the client: 1009")


async def test_simulator_stopped_ends_connections_without_waiting(app: App, simulator: Simulator) -> None:
    async with open_simulator() as other:
        theirs = other.create_app("Echo")
        async with dialled(await endpoint(other, theirs)) as client:
            await other.wait_connected(theirs)
            with trio.fail_after(2):
                async with open_simulator() as third:
                    url = await endpoint(third, third.create_app("Echo"))
                    async with dialled(url):
                        pass
            await client.send_message(encode(ping(1)))
            assert (await receive(client)).header(b"type") == b"pong"
