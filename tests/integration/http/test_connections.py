"""Connections of clients that leave, speak something else than HTTP/1.1, or come in too large a number."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from quart import Response, redirect
from structlog.testing import capture_logs

from gateway.http.app import JsonApp
from gateway.http.body import json_response, read_json
from gateway.http.connections import Connection
from gateway.http.server import serve_http
from gateway.observe.metrics import Metrics

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def small_app() -> JsonApp:
    app = JsonApp("test", recorder=Metrics(), body_bytes_max=1_000)

    @app.get("/quick")
    async def quick() -> Response:
        return json_response({"quick": True})

    @app.get("/deep/<name>")
    async def deep(name: str) -> Response:
        return json_response(name)

    @app.get("/forever")
    async def forever() -> Response:
        await trio.sleep_forever()
        raise AssertionError

    @app.get("/away")
    async def away() -> Response:
        return redirect("/quick")  # type: ignore[return-value]

    @app.post("/echo")
    async def echo() -> Response:
        return json_response(await read_json(dict))  # type: ignore[type-var]

    return app


@asynccontextmanager
async def serving(app: JsonApp | None = None, **options: object) -> AsyncIterator[int]:
    """The port of a server for the block."""
    stop = trio.Event()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, app or small_app(), "127.0.0.1:0", stop=stop, **options)
            url = await nursery.start(serve)
            yield int(url.rpartition(":")[2])
            stop.set()


async def connect(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def said(port: int, data: bytes) -> bytes:
    """All that the server says until it closes or resets."""
    async with await connect(port) as stream:
        await stream.send_all(data)
        return await rest(stream)


async def rest(stream: trio.SocketStream) -> bytes:
    received = b""
    with suppress(trio.BrokenResourceError):
        async for piece in stream:
            received += piece
    return received


async def quick(stream: trio.SocketStream) -> None:
    """Ask over a connection that stays."""
    await stream.send_all(b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b'{"quick":true}'):
        received += await stream.receive_some()


def open_sockets() -> int:
    return sum(1 for link in Path("/proc/self/fd").iterdir() if is_socket(link))


def is_socket(link: Path) -> bool:
    try:
        return str(link.readlink()).startswith("socket:")
    except OSError:
        return False


async def until_sockets(count: int) -> None:
    with trio.fail_after(2):
        while open_sockets() > count:
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
        b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nhalf",
        b"GET /quick HTTP/1.1\r\nHo",
        b"",
    ],
    ids=["answered", "sent_ahead", "waiting", "half_a_body", "half_a_head", "nothing"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_socket_of_a_client_that_left_is_closed_at_once(request_bytes: bytes, reset: bool) -> None:
    async with serving() as port:
        before = open_sockets()
        async with AsyncExitStack() as clients:
            for _ in range(20):
                stream = await clients.enter_async_context(await connect(port))
                if reset:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await stream.send_all(request_bytes)
                if b"/quick HTTP/1.1\r\nHost" in request_bytes:
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await until_sockets(before)


async def test_answer_before_the_body_says_that_the_connection_ends() -> None:
    async with serving() as port:
        answer = await said(port, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"connection: close" in answer.lower()


async def test_upgrade_to_http2_is_not_heard() -> None:
    async with serving() as port:
        answer = await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\nGET /away HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"101" not in answer.split(b"\r\n\r\n")[0]
    assert b"HTTP/1.1 302" in answer


async def test_preface_of_http2_is_refused() -> None:
    async with serving() as port:
        answer = await said(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    assert answer.startswith(b"HTTP/1.1 505")
    assert b"connection: close" in answer.lower()


async def test_upgrade_to_a_websocket_is_answered_as_any_request() -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    async with serving(keep_alive_seconds=0.2) as port:
        answer = await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
    ],
)
async def test_body_whose_end_is_ambiguous_is_refused_and_nothing_after_it_is_read(framing: bytes) -> None:
    async with serving() as port:
        smuggled = b"0\r\n\r\nGET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await said(port, b"POST /echo HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n" + smuggled)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("target", [b"?x", b"quick", b"x:443", b"http://[", b"http://", b"*a"])
async def test_target_that_is_no_path_is_400(target: bytes) -> None:
    async with serving() as port:
        answer = await said(port, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("target", [b"/quick", b"http://x/quick", b"https://x:1/quick?a=b"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
async def test_target_may_be_a_path_or_a_whole_address(target: bytes, end: bytes) -> None:
    async with serving() as port:
        head = end.join([b"GET " + target + b" HTTP/1.1", b"Host: x", b"Connection: close"])
        assert (await said(port, head + end + end)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("head", [b"a: b\r\n" * 200, b"a: " + b"b" * 20_000 + b"\r\n", b"a:\r\n" * 16_000])
async def test_head_above_the_bound_is_refused(head: bytes) -> None:
    async with serving() as port:
        answer = await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("path", [b"//evil.example/x", b"/quick/", b"//quick", b"/away", b"/deep//a"])
async def test_forged_host_never_becomes_the_place_to_go(path: bytes) -> None:
    async with serving(keep_alive_seconds=0.2) as port:
        answer = await said(port, b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"evil.example" not in head


@pytest.mark.parametrize("host", [b"a..b", b"\xc3\xa9", b"x" * 300, b"[::1", b"a b"])
async def test_host_that_is_no_host_harms_no_answer(host: bytes) -> None:
    async with serving() as port:
        answer = await said(port, b"GET /quick HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))


async def test_body_above_its_bound_is_refused_before_it_is_sent() -> None:
    async with serving() as port, await connect(port) as stream:
        await stream.send_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("path", [b"POST /echo", b"GET /forever"])
async def test_endless_body_is_cut_whether_or_not_its_route_reads_it(path: bytes) -> None:
    async with serving() as port, await connect(port) as stream:
        await stream.send_all(path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(11):
            await stream.send_all(b"64\r\n" + b"x" * 100 + b"\r\n")
        assert (await rest(stream)).startswith(b"HTTP/1.1 413")


async def test_answer_to_a_body_that_is_too_large_survives_the_rest_of_it() -> None:
    async with serving() as port:
        body = b"x" * 500_000
        answer = await said(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer


async def test_connection_that_fails_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_connection: Connection) -> None:
        raise RuntimeError("a bug of the protocol's")

    async with serving() as port:
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(Connection, "_read_data", fail)
            assert await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert [entry["event"] for entry in logs] == ["http_connection_failed"]
        answer = await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")


async def test_connection_that_idles_longest_makes_room_for_the_next() -> None:
    async with serving(connections_max=3) as port, AsyncExitStack() as clients:
        streams = [await clients.enter_async_context(await connect(port)) for _ in range(3)]
        for stream in streams:
            await quick(stream)
        answer = await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert await streams[0].receive_some() == b""
        await quick(streams[1])


async def test_connections_beyond_the_bound_are_closed_and_said_once() -> None:
    async with serving(connections_max=2) as port, AsyncExitStack() as clients:
        for _ in range(2):
            stream = await clients.enter_async_context(await connect(port))
            await stream.send_all(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
        # Their requests have begun when one that comes later was refused for them.
        with capture_logs() as logs:
            while not await said_nothing(port):
                await trio.lowlevel.checkpoint()
            for _ in range(5):
                assert await said_nothing(port)
        assert [entry["event"] for entry in logs] == ["http_connections_turned_away"]


async def said_nothing(port: int) -> bool:
    try:
        return await said(port, b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") == b""
    except trio.BrokenResourceError:
        return True  # closed before the request was sent
