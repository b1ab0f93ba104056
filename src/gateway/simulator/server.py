"""Serves the simulator on three loopback ports: HTTP for each of its two clouds (calls, control, pages), WebSocket."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from gateway.errors import ConfigError
from gateway.simulator import control, page
from gateway.simulator.exchange import Answer, ConnectionLost, Refusal, Request, json_answer, read_query
from gateway.simulator.simulator import Simulator
from gateway.simulator.valve import Valve

BODY_BYTES_MAX = 32 * 1024 * 1024
BACKLOG = 512

log = structlog.get_logger()

Receive = Callable[[], Awaitable[dict[str, Any]]]
AsgiSend = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def open_simulator(
    *, host: str = "127.0.0.1", port: int = 0, lark_port: int = 0, ws_port: int = 0, **settings: Any
) -> AsyncIterator[Simulator]:
    """Serve a simulator for the duration of the block, and yield it. The arguments are those of `run_simulator`."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(
            partial(run_simulator, host=host, port=port, lark_port=lark_port, ws_port=ws_port, **settings),
            name="simulator",
        )
        nursery.cancel_scope.cancel()


async def run_simulator(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    lark_port: int = 0,
    ws_port: int = 0,
    task_status: trio.TaskStatus[Simulator] = trio.TASK_STATUS_IGNORED,
    **settings: Any,
) -> None:
    """Serve a simulator until cancelled. `settings` go to `Simulator`. `started()` gets it once all ports accept.

    `port` is the Feishu cloud (open platform and accounts in one), `lark_port` the Lark cloud. Both serve the control
    API and the pages. Port 0 lets the kernel choose. Raises ConfigError for a host that is not loopback, or a port that
    is taken. Cancellation closes every connection at once.
    """
    listeners = {"feishu": _bind(host, port), "lark": _bind(host, lark_port)}
    ws_listener = _bind(host, ws_port)
    simulator = Simulator(**settings)
    simulator.base_urls = {region: f"http://{_address(listener)}" for region, listener in listeners.items()}
    simulator.world.ws_url = f"ws://{_address(ws_listener)}"
    control.add_routes(simulator)
    page.add_routes(simulator)
    async with listeners["feishu"], listeners["lark"], ws_listener, trio.open_nursery() as nursery:
        await nursery.start(simulator.delivery.run)
        for region, listener in listeners.items():
            await nursery.start(trio.serve_listeners, HttpDoor(simulator, region).serve, [listener])
        await nursery.start(trio.serve_listeners, simulator.door.serve, [ws_listener])
        task_status.started(simulator)


def _bind(host: str, port: int) -> trio.SocketListener:
    if not _is_loopback(host):
        raise ConfigError(f"the simulator listens on loopback only, not on {host!r}; use 127.0.0.1 or ::1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f"the simulator cannot listen on {host} port {port}: {error.strerror}") from error
    listening.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(listener: trio.SocketListener) -> str:
    host, port, *_ = listener.socket.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class HttpDoor:
    """Serves the HTTP of one cloud on byte streams that can be reset in the middle of a call."""

    def __init__(self, simulator: Simulator, region: str) -> None:
        self._simulator = simulator
        self._region = region
        self._config = Config()
        self._config.errorlog = None
        self._context = WorkerContext(None)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. An exception inside is logged, and ends this connection only."""
        valve = Valve(stream)
        app = wrap_app(partial(self._answer, valve), self._config.wsgi_max_body_size, "asgi")
        try:
            # TCPServer is typed for a TLS stream. Of a plain stream it uses only the members that a Valve has.
            await TCPServer(app, self._config, self._context, ConnectionState({}), cast("Any", valve))
        except* Exception:
            log.exception("simulated_http_connection_failed")
        finally:
            valve.hang_up()

    async def _answer(self, valve: Valve, scope: dict[str, Any], receive: Receive, send: AsgiSend) -> None:
        if scope["type"] != "http":
            return
        try:
            await _send_answer(await self._respond(await _read_request(scope, receive)), send)
        except ConnectionLost:
            valve.reset()

    async def _respond(self, request: Request) -> Answer:
        try:
            region = self._region
            return await self._simulator.respond(
                replace(request, region=region, base_url=self._simulator.base_urls[region])
            )
        except ConnectionLost:
            raise
        except Refusal as refusal:
            return json_answer({"code": refusal.code, "msg": refusal.msg}, status=refusal.status)
        except Exception:
            log.exception("simulated_call_failed", method=request.method, path=request.path)
            return json_answer({"code": 1, "msg": "the simulator failed, see its log"}, status=500)


async def _send_answer(answer: Answer, send: AsgiSend) -> None:
    length = len(answer.body) if answer.stream is None else answer.length
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.stream is not None:
        async with aclosing(answer.stream()) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": answer.body})


async def _read_request(scope: dict[str, Any], receive: Receive) -> Request:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionLost
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_BYTES_MAX:
            raise ConnectionLost
    return Request(
        method=scope["method"],
        path=scope["path"],
        query=read_query(scope["query_string"].decode("latin-1")),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        body=bytes(body),
    )
