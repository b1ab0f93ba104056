"""The server on real sockets: binding, stopping, and clients that misbehave."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import pytest
import trio
from quart import Response

from gateway.errors import ConfigError
from gateway.http import server
from gateway.http.app import JsonApp
from gateway.http.body import json_response, read_json
from gateway.http.metrics import KEEP_ALIVE_SECONDS, create_metrics_app
from gateway.http.server import serve_http
from gateway.observe.metrics import Metrics

OUTER_SECONDS = 20


class Gate:
    """An application with one route that waits, to have a request in flight."""

    def __init__(self) -> None:
        self.app = JsonApp("test", recorder=Metrics(), body_bytes_max=10_000)
        self.entered = trio.Event()
        self.open = trio.Event()
        self.cancelled = trio.Event()
        self.app.get("/quick")(self.quick)
        self.app.get("/slow")(self.slow)
        self.app.get("/huge")(self.huge)
        self.app.post("/echo")(self.echo)

    async def quick(self) -> Response:
        return json_response({"quick": True})

    async def slow(self) -> Response:
        self.entered.set()
        try:
            await self.open.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return json_response({"slow": True})

    async def huge(self) -> Response:
        self.entered.set()
        return Response(b"x" * 50_000_000)

    async def echo(self) -> Response:
        return json_response(await read_json(dict))  # type: ignore[type-var]


@asynccontextmanager
async def serving(app: Any, bind: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[tuple[str, trio.Event]]:
    """The URL of a running server, and its stop event."""
    stop = trio.Event()
    with trio.fail_after(OUTER_SECONDS):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve_http, app, bind, stop=stop, **options))
            try:
                yield url, stop
            finally:
                stop.set()


async def connect(url: str) -> trio.SocketStream:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def within(seconds: float, work: Callable[[], Awaitable[object]]) -> float:
    start = trio.current_time()
    with trio.fail_after(seconds):
        await work()
    return trio.current_time() - start


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
async def test_server_on_port_zero_reports_where_it_listens(bind: str) -> None:
    async with serving(Gate().app, bind) as (url, _), httpx2.AsyncClient() as client:
        answer = await client.get(f"{url}/quick")
        assert answer.json() == {"quick": True}
        assert "server" not in answer.headers


async def test_server_takes_over_an_inherited_socket() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with serving(Gate().app, f"fd://{listener.detach()}") as (url, _), httpx2.AsyncClient() as client:
        assert url == f"http://127.0.0.1:{port}"
        assert (await client.get(f"{url}/quick")).status_code == 200
    with pytest.raises(OSError, match=r"refused|connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


@pytest.mark.parametrize("bind", ["fd://999", "203.0.113.1:0", "no-such-host.invalid:0"])
async def test_address_that_cannot_be_used_is_a_config_error_naming_the_key(bind: str) -> None:
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as caught:
        async with serving(Gate().app, bind, key="metrics.bind"):
            pytest.fail("it must not start")
    (error,) = caught.value.exceptions
    assert str(error).startswith("metrics.bind: cannot listen on ")


async def test_port_in_use_is_a_config_error_naming_the_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.RaisesGroup(ConfigError, flatten_subgroups=True) as caught:
            async with serving(Gate().app, f"127.0.0.1:{port}"):
                pytest.fail("it must not start")
    (error,) = caught.value.exceptions
    assert str(error) == f"http.bind: cannot listen on 127.0.0.1:{port}: Address already in use"


async def test_datagram_descriptor_is_refused_and_stays_the_callers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.RaisesGroup(ConfigError, flatten_subgroups=True):
            async with serving(Gate().app, f"fd://{datagrams.fileno()}"):
                pytest.fail("it must not start")
        assert datagrams.getsockname()


async def test_stop_lets_a_request_in_flight_finish_and_takes_no_new_one() -> None:
    gate = Gate()
    answers: list[Any] = []
    async with serving(gate.app) as (url, stop), httpx2.AsyncClient() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append((await client.get(f"{url}/slow")).json())

        nursery.start_soon(ask)
        await gate.entered.wait()
        stop.set()
        await refused(url)
        gate.open.set()
    assert answers == [{"slow": True}]


async def refused(url: str) -> None:
    """Until nobody listens there any more."""
    while True:
        try:
            stream = await connect(url)
        except OSError:
            return
        await stream.aclose()


async def test_stop_cuts_a_request_that_outlives_the_grace() -> None:
    gate = Gate()
    async with httpx2.AsyncClient() as client:
        start = 0.0
        async with trio.open_nursery() as nursery:
            async with serving(gate.app, graceful_seconds=0.2) as (url, stop):

                async def ask() -> None:
                    with pytest.raises(httpx2.HTTPError):
                        await client.get(f"{url}/slow")

                nursery.start_soon(ask)
                await gate.entered.wait()
                start = trio.current_time()
                stop.set()
            assert 0.2 <= trio.current_time() - start < 2
    assert gate.cancelled.is_set()


async def test_stop_does_not_wait_for_idle_connections() -> None:
    async with httpx2.AsyncClient() as client:
        async with serving(Gate().app, graceful_seconds=10) as (url, stop):
            await client.get(f"{url}/quick")
            start = trio.current_time()
            stop.set()
        assert trio.current_time() - start < 1


async def test_reader_that_stalls_cannot_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STALLED_READER_SECONDS", 1.0)
    gate = Gate()
    async with trio.open_nursery() as nursery:
        del nursery
        async with serving(gate.app, graceful_seconds=0.1) as (url, stop):
            stream = await connect(url)
            await stream.send_all(b"GET /huge HTTP/1.1\r\nHost: x\r\n\r\n")
            await gate.entered.wait()
            start = trio.current_time()
            stop.set()
        assert trio.current_time() - start < 8
        await stream.aclose()


async def test_client_that_leaves_cancels_its_request() -> None:
    gate = Gate()
    async with serving(gate.app) as (url, _):
        stream = await connect(url)
        await stream.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await gate.entered.wait()
        await stream.aclose()
        assert await within(5, gate.cancelled.wait) < 1


async def test_body_without_length_above_the_bound_is_413() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    async with serving(Gate().app) as (url, _), httpx2.AsyncClient() as client:
        answer = await client.post(f"{url}/echo", content=chunks())
        assert answer.status_code == 413
        assert answer.json()["code"] == "body_too_large"


async def test_request_that_is_no_http_harms_nobody_else() -> None:
    async with serving(Gate().app) as (url, _), httpx2.AsyncClient() as client:
        stream = await connect(url)
        await stream.send_all(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 400")
        assert (await client.get(f"{url}/quick")).status_code == 200
        await stream.aclose()


async def test_metrics_listener_is_a_server_of_its_own() -> None:
    metrics = Metrics()
    options = {"key": "metrics.bind", "keep_alive_seconds": KEEP_ALIVE_SECONDS}
    async with serving(create_metrics_app(metrics), **options) as (url, _), httpx2.AsyncClient() as client:
        scraped = await client.get(f"{url}/metrics")
        assert "gateway_build_info" in scraped.text
        assert (await client.get(f"{url}/health")).status_code == 404


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /quick HTTP/1.1\r\nHost", b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["nothing", "half", "one"],
)
async def test_client_that_asks_for_nothing_more_is_disconnected(said: bytes) -> None:
    async with serving(Gate().app, keep_alive_seconds=0.5) as (url, _):
        stream = await connect(url)
        if said:
            await stream.send_all(said)
        start = trio.current_time()
        while await stream.receive_some(4096):
            pass
        assert 0.4 <= trio.current_time() - start < 3
        await stream.aclose()


async def test_long_poll_outlives_the_keep_alive_time() -> None:
    gate = Gate()
    async with serving(gate.app, keep_alive_seconds=0.2) as (url, _):
        stream = await connect(url)
        await stream.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await gate.entered.wait()
        with trio.move_on_after(0.6) as waiting:
            await stream.receive_some(1)
        assert waiting.cancelled_caught
        gate.open.set()
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
        await stream.aclose()
