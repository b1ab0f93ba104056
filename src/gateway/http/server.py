"""Serving an application: the listening socket, and the connections that it accepts."""

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
"""After a stop, the time that a client has to send the rest of its request."""
STALLED_READER_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 30.0
CONNECTIONS_MAX = 8_192
FULL_LOG_SECONDS = 60.0
"""The shortest time between two log lines about connections that were turned away."""
ACCEPT_AGAIN_SECONDS = 0.1
"""Pause before the next try to accept, where there is no descriptor for it."""
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
    """Serve an ASGI application until `stop` is set. `started()` is called with its URL once it listens.

    `bind` is `host:port` (port 0: the kernel chooses) or `fd://N`. On `stop` the listener closes and idle connections
    end at once. A request that is still being sent has UNSENT_SECONDS, and one that is being answered has
    `graceful_seconds`. A connection without a request, or with an incomplete request head, is closed after
    `keep_alive_seconds`. At most `connections_max` are open (by default half of the descriptors that the process may
    open, at most CONNECTIONS_MAX); beyond that the longest-idle connection is closed for the next one. The application
    is called for requests only: no lifespan, no WebSocket.

    Resource handling: this function owns the listening socket, also an inherited one. It closes the socket and all
    connections on every way out, cancellation included. The kernel cuts off a client that stops reading after
    STALLED_READER_SECONDS; the end of this function does so too.

    Error handling: an unusable address raises a ConfigError that names `key`. The application answers errors of
    requests. No error of a request or of a connection is raised here. Without a free descriptor new connections are
    closed, which is logged at most once in FULL_LOG_SECONDS.
    """
    address = parse_bind(bind)
    listening = await open_listener(address, key=key)
    context = WorkerContext(None)
    connections = Connections(connections_max or _room())
    with listening:
        url = _url(listening)
        asgi = ASGIWrapper(_undisturbed(app))
        acceptor = _Acceptor(listening, asgi, _config(keep_alive_seconds), context, connections)
        # Two nurseries: `accepting` ends at the stop, while the connections in `clients` finish their requests.
        async with trio.open_nursery() as clients:
            try:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(acceptor.accept_all, clients)
                    task_status.started(url)
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                acceptor.close()
                # hypercorn closes idle connections now, and the others after their answer.
                await context.terminated.set()
                await _drain(connections, graceful_seconds)
            finally:
                acceptor.close()
                connections.close_all()
                clients.cancel_scope.cancel()


async def _drain(connections: Connections, seconds: float) -> None:
    """Wait until all requests are answered, at most `seconds`. Requests still being sent get UNSENT_SECONDS of it."""
    with trio.move_on_after(seconds):
        with trio.move_on_after(UNSENT_SECONDS):
            await connections.wait_gone()
        connections.close_unsent()
        await connections.wait_gone()


async def open_listener(bind: Bind, *, key: str) -> socket.socket:
    """Open a listening TCP socket, or adopt an inherited one. The caller closes it.

    Raises ConfigError that names `key` if the address cannot be used.
    """
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
        # Detached, because the socket object would close the descriptor, which is not the one we were promised.
        listener.detach()
        raise OSError(f"descriptor {fd} is not a stream socket")
    _prepare(listener)
    return listener


def _prepare(listener: socket.socket) -> None:
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        # Accepted connections inherit these options from their listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_READER_SECONDS * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(BACKLOG)


def _url(listener: socket.socket) -> str:
    name = listener.getsockname()
    return url_of(name[0], name[1]) if isinstance(name, tuple) else f"unix:{name}"


class _Acceptor:
    """Accepts connections until it is closed.

    It keeps one descriptor in reserve. When the process has none left, it gives the reserve up for a moment, to accept
    a connection and close it. Without that the client would wait in the kernel's queue without an answer.
    """

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
        """Accept connections for ever, and serve each one in a task of `clients`.

        Raises OSError for a failure to accept that is no lack of descriptors or memory.
        """
        self._take_reserve()
        while True:
            # Without a free descriptor accept() fails at once, even when no client waits. Waiting for a client first
            # keeps this loop from spinning.
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
        """Accept no more connections. The kernel refuses the ones that wait in its queue."""
        self._listener.socket.close()
        self._give_reserve()

    async def _turn_away(self, reason: str) -> None:
        """Accept the next connection with the reserved descriptor, and close it."""
        self._note_full(reason)
        if self._reserve is None:
            # Another part of the process took the descriptor that the last refused connection had set free.
            await trio.sleep(ACCEPT_AGAIN_SECONDS)
        else:
            self._give_reserve()
            # trio made this socket non-blocking: if the client has left meanwhile, accept() fails and does not wait.
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
    """Raise this process's soft limit of open descriptors to its hard limit, at most to DESCRIPTORS_MAX.

    Shells set 1,024 for the sake of programs that use select(2). This program does not use it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _room() -> int:
    """Return the default for `connections_max`: half of the descriptors, at most CONNECTIONS_MAX.

    The other half is for bots, the database and files.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, soft // 2)


def _undisturbed(app: Any) -> Any:
    """Wrap the application so that it learns of a client's disconnect only while its answer is unfinished.

    hypercorn sends the disconnect message at the end of every answer too. Quart then cancels the task in which
    hypercorn is arming the connection's idle timer. Such a connection would never time out, and a stop would wait for
    it for the whole grace period.
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
                # The request's task ends by itself once the answer is sent, and cancels this wait.
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
