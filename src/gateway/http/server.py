"""Serving an application: our own listening socket, hypercorn on top of it."""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config

from gateway.address import Bind, parse_bind, url_of
from gateway.errors import ConfigError

BACKLOG = 1024
GRACEFUL_SECONDS = 10.0
STALLED_READER_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 30.0


async def serve_http(
    app: Any,
    bind: str,
    *,
    stop: trio.Event,
    key: str = "http.bind",
    graceful_seconds: float = GRACEFUL_SECONDS,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until `stop` is set; `started()` is called with its URL once it listens.

    `bind` is `host:port` (port 0: the kernel chooses) or `fd://N`. On `stop` the listener closes, idle connections end
    at once and requests in flight have `graceful_seconds`. A connection that asks for nothing, or does not get its
    request's head across, is closed after `keep_alive_seconds`.

    Resource handling: the socket is this function's own, an inherited one included, and closed on every way out.
    Cancellation drops all requests. A reader that stalls is cut off by the kernel after STALLED_READER_SECONDS,
    because the server's writes cannot be cancelled.

    Error handling: an address that cannot be used is a ConfigError that names `key`. Errors of requests are the
    application's to answer; none of them gets here.
    """
    address = parse_bind(bind)
    listener = await open_listener(address, key=key)
    with listener:
        url = _url(listener)
        config = _config(listener, graceful_seconds, keep_alive_seconds)
        asgi = _undisturbed(app)
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(hypercorn.trio.serve, asgi, config, shutdown_trigger=stop.wait, mode="asgi"))
            # hypercorn has wrapped the descriptor and closes it.
            listener.detach()
            task_status.started(url)


async def open_listener(bind: Bind, *, key: str) -> socket.socket:
    """A listening TCP (or inherited) socket; the caller closes it. Raises ConfigError that names `key`."""
    try:
        if bind.fd is not None:
            return _adopted(bind.fd)
        found = await trio.socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _bound(socket.AddressFamily(family), address)
    except OSError as error:
        place = f"fd://{bind.fd}" if bind.fd is not None else f"{bind.host}:{bind.port}"
        raise ConfigError(f"{key}: cannot listen on {place}: {error.strerror or error}") from error


def _bound(family: socket.AddressFamily, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        _prepare(listener)
    except BaseException:
        listener.close()
        raise
    return listener


def _adopted(fd: int) -> socket.socket:
    listener = socket.socket(fileno=fd)
    if listener.type != socket.SOCK_STREAM:
        listener.detach()
        raise OSError(f"descriptor {fd} is not a stream socket")
    _prepare(listener)
    return listener


def _prepare(listener: socket.socket) -> None:
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        # Connections inherit these from their listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_READER_SECONDS * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(BACKLOG)


def _url(listener: socket.socket) -> str:
    name = listener.getsockname()
    return url_of(name[0], name[1]) if isinstance(name, tuple) else f"unix:{name}"


def _undisturbed(app: Any) -> Any:
    """The application, told of a client that leaves only while its answer is unfinished.

    hypercorn says so at the end of every answer too, and Quart then cancels the task in which hypercorn is arming the
    connection's idle timer. Such a connection would never time out, and each would cost a stop its whole grace period.
    """

    async def call(scope: Any, receive: Any, send: Any) -> None:
        answered = False

        async def watched_send(message: Any) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def quiet_receive() -> Any:
            message = await receive()
            if answered and message["type"] == "http.disconnect":
                await trio.sleep_forever()
            return message

        if scope["type"] == "http":
            await app(scope, quiet_receive, watched_send)
        else:
            await app(scope, receive, send)

    return call


def _config(listener: socket.socket, graceful_seconds: float, keep_alive_seconds: float) -> Config:
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.backlog = BACKLOG
    config.graceful_timeout = graceful_seconds
    config.keep_alive_timeout = keep_alive_seconds
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
