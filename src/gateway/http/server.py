"""Serving an application: our own listening socket, and what comes in through it."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from contextlib import suppress
from typing import Any, NoReturn

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from gateway.address import Bind, parse_bind, url_of
from gateway.errors import ConfigError
from gateway.http.connections import Connection, Connections

_log = structlog.get_logger(__name__)

BACKLOG = 1024
GRACEFUL_SECONDS = 10.0
UNSENT_SECONDS = 0.3
"""After a stop, how long a client has to send the rest of its request."""
STALLED_READER_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 30.0
CONNECTIONS_MAX = 8_192
FULL_LOG_SECONDS = 60.0
"""How often a server that turns connections away says so."""
ACCEPT_AGAIN_SECONDS = 0.1
DESCRIPTORS_MAX = 65_536
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def serve_http(
    app: Any,
    bind: str,
    *,
    stop: trio.Event,
    key: str = "http.bind",
    graceful_seconds: float = GRACEFUL_SECONDS,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    connections_max: int | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until `stop` is set; `started()` is called with its URL once it listens.

    `bind` is `host:port` (port 0: the kernel chooses) or `fd://N`. On `stop` the listener closes, idle connections end
    at once, a request that is still being sent has UNSENT_SECONDS and one that is being answered `graceful_seconds`. A
    connection that asks for nothing, or does not get its request's head across, is closed after `keep_alive_seconds`.
    Of `connections_max` (half of the descriptors that the process may open, at most CONNECTIONS_MAX) the one that idles
    longest makes room for the next. The application hears of requests alone: no lifespan, no WebSocket.

    Resource handling: the socket is this function's own, an inherited one included, and closed on every way out, and so
    are all connections. A reader that stalls is cut off by the kernel after STALLED_READER_SECONDS, and by the end.

    Error handling: an address that cannot be used is a ConfigError that names `key`. Errors of requests are the
    application's to answer; none of them gets here, and none of a connection. Without a free descriptor new connections
    are closed, which is logged once in FULL_LOG_SECONDS.
    """
    address = parse_bind(bind)
    listening = await open_listener(address, key=key)
    context = WorkerContext(None)
    connections = Connections(connections_max or _room())
    with listening:
        url = _url(listening)
        asgi = ASGIWrapper(_undisturbed(app))
        acceptor = _Acceptor(listening, asgi, _config(keep_alive_seconds), context, connections)
        async with trio.open_nursery() as clients:
            try:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(acceptor.accept_all, clients)
                    task_status.started(url)
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                acceptor.close()
                await context.terminated.set()
                await _drain(connections, graceful_seconds)
            finally:
                acceptor.close()
                connections.close_all()
                clients.cancel_scope.cancel()


async def _drain(connections: Connections, seconds: float) -> None:
    """Wait until all requests are answered, at most `seconds`."""
    with trio.move_on_after(seconds):
        with trio.move_on_after(UNSENT_SECONDS):
            await connections.wait_gone()
        connections.close_unsent()
        await connections.wait_gone()


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


class _Acceptor:
    """What accepts connections, until it is closed."""

    def __init__(
        self, listening: socket.socket, app: Any, config: Config, context: WorkerContext, connections: Connections
    ) -> None:
        self._listening = listening
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        self._app = app
        self._config = config
        self._context = context
        self._connections = connections
        self._reserve: int | None = None
        self._turned_away = 0
        self._logged_at = -FULL_LOG_SECONDS

    async def accept_all(self, clients: trio.Nursery) -> NoReturn:
        """Begin the connection of each client in `clients`."""
        self._take_reserve()
        while True:
            # Without a free descriptor the kernel refuses to accept even where nobody waits: that must not spin.
            await trio.lowlevel.wait_readable(self._listening)
            try:
                stream = await self._listener.accept()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                await self._turn_away(errno.errorcode[error.errno])
                continue
            if self._connections.make_room():
                connection = Connection(self._app, self._config, self._context, stream, self._connections.moved)
                clients.start_soon(self._connections.run, connection)
            else:
                stream.socket.close()
                self._note_full("connections_max")

    def close(self) -> None:
        """Take no more connections; what the kernel holds ready is refused."""
        self._listener.socket.close()
        self._give_reserve()

    async def _turn_away(self, reason: str) -> None:
        """Close a connection that there is no descriptor for, by means of the one that is kept for this."""
        self._note_full(reason)
        if self._reserve is None:
            # The rest of the process was quicker, and took the place of the last connection that was turned away.
            await trio.sleep(ACCEPT_AGAIN_SECONDS)
        else:
            self._give_reserve()
            with suppress(OSError):
                refused, _ = self._listening.accept()
                refused.close()
        self._take_reserve()

    def _take_reserve(self) -> None:
        with suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_reserve(self) -> None:
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _note_full(self, reason: str) -> None:
        self._turned_away += 1
        if trio.current_time() < self._logged_at + FULL_LOG_SECONDS:
            return
        self._logged_at = trio.current_time()
        _log.warning(
            "http_connections_turned_away",
            turned_away=self._turned_away,
            because=reason,
            open=len(self._connections),
            connections_max=self._connections.room_max,
        )
        self._turned_away = 0


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may, at most DESCRIPTORS_MAX.

    Shells give 1,024, which is for programs that use select(2). Nothing here does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _room() -> int:
    """Half of the descriptors: the other half is for bots, the database and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, soft // 2)


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

        await app(scope, quiet_receive, watched_send)

    return call


def _config(keep_alive_seconds: float) -> Config:
    config = Config()
    config.keep_alive_timeout = keep_alive_seconds
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
