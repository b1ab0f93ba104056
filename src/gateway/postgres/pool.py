"""A bounded pool of TrioConnections, and the one place where psycopg's errors become ours."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import trio
from psycopg import errors as e
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

from gateway.errors import ConfigError, StoreConflict, StoreError, StoreUnavailable
from gateway.postgres.driver import CONNECT_TIMEOUT_SECONDS, TrioConnection

ACQUIRE_TIMEOUT_SECONDS = 30.0
STATEMENT_TIMEOUT_SECONDS = 30.0

# These are OperationalErrors of a server in good health: a concurrent writer stands in the way, not an outage.
_CONFLICTS = (e.IntegrityError, e.SerializationFailure, e.DeadlockDetected, e.LockNotAvailable)
_OUTAGES = (e.OperationalError, e.InterfaceError, e.ReadOnlySqlTransaction)
# Also OperationalErrors to psycopg, but about this one statement: a key too long for its index, say. Trying again would
# fail again, and to call it an outage would fail whatever shares the statement.
_LIMIT_EXCEEDED = "54"


@contextmanager
def translating() -> Iterator[None]:
    """Turn psycopg's errors into StoreConflict, StoreUnavailable or, for a mistake of our own, StoreError."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error) from error


def translated(error: psycopg.Error) -> StoreError:
    """The error as callers know it. Its message, and the original's, name rules and tables, never the values.

    The server's detail lines repeat the offending row; they are dropped from the original too, because it is printed
    with every traceback.
    """
    message = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, psycopg.DataError):
        # The primary message of this class quotes the value.
        message = f"a value was not acceptable: {type(error).__name__}"
    error.args = (message,)
    if isinstance(error, _CONFLICTS):
        return StoreConflict(message, constraint=error.diag.constraint_name or "")
    if isinstance(error, _OUTAGES) and not (error.sqlstate or "").startswith(_LIMIT_EXCEEDED):
        return StoreUnavailable(message)
    return StoreError(message)


class Pool:
    """At most `size_max` connections, made when needed and kept while they are sound. Use `open_pool`.

    The attributes and properties are for metrics: `size` = open, `idle`, `in_use`, `waiting` tasks, and the counters
    `connects`, `connect_failures`, `discards` (connections not kept) since the start.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[TrioConnection[Any]]], *, size_max: int, acquire_timeout_seconds: float
    ) -> None:
        self._connect = connect
        self._acquire_timeout = acquire_timeout_seconds
        self._limiter = trio.CapacityLimiter(size_max)
        self._idle: list[TrioConnection[Any]] = []
        self._closed = False
        self._opened = 0
        self.size_max = size_max
        self.connects = 0
        self.connect_failures = 0
        self.discards = 0

    @property
    def size(self) -> int:
        return self._opened

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def in_use(self) -> int:
        return int(self._limiter.borrowed_tokens)

    @property
    def waiting(self) -> int:
        return self._limiter.statistics().tasks_waiting

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[TrioConnection[Any]]:
        """An autocommit connection of this task alone, until the block ends.

        Raises StoreUnavailable when none could be had in time, and translates psycopg's errors of the block. A task
        that already holds a connection must pass it on instead of asking for a second one, which could deadlock the
        pool: RuntimeError. Cancellation gives back the place; a connection that is not idle afterwards is closed.
        """
        with translating():
            connection = await self._acquire()
            try:
                yield connection
            except e.ReadOnlySqlTransaction:
                # A demoted primary still answers, but no write will succeed there. The next connection is made anew.
                connection.abort()
                raise
            finally:
                self._release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[TrioConnection[Any]]:
        """A connection inside BEGIN … COMMIT; an exception in the block rolls back. See TrioConnection.transaction."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def _acquire(self) -> TrioConnection[Any]:
        try:
            with trio.fail_after(self._acquire_timeout):
                await self._limiter.acquire()
        except trio.TooSlowError as error:
            raise StoreUnavailable(
                f"none of {self.size_max} database connections came free within {self._acquire_timeout:g} s"
            ) from error
        try:
            return self._take_idle() or await self._open()
        except BaseException:
            self._limiter.release()
            raise

    def _take_idle(self) -> TrioConnection[Any] | None:
        while self._idle:
            connection = self._idle.pop()
            if is_alive(connection):
                return connection
            self._discard(connection)
        return None

    async def _open(self) -> TrioConnection[Any]:
        if self._closed:
            raise StoreUnavailable("the connection pool is closed")
        self.connects += 1
        try:
            connection = await self._connect()
        except psycopg.Error:
            self.connect_failures += 1
            raise
        self._opened += 1
        return connection

    def _release(self, connection: TrioConnection[Any]) -> None:
        if is_reusable(connection) and not self._closed:
            self._idle.append(connection)
        else:
            self._discard(connection)
        self._limiter.release()

    def _discard(self, connection: TrioConnection[Any]) -> None:
        connection.abort()
        self._opened -= 1
        self.discards += 1

    def close(self) -> None:
        """Close the idle connections now and the others as they come back."""
        self._closed = True
        while self._idle:
            self._discard(self._idle.pop())


def is_reusable(connection: TrioConnection[Any]) -> bool:
    """Whether the next task finds it as if new: open, no statement, transaction, COPY or pipeline under way."""
    pgconn = connection.pgconn
    return (
        not connection.closed
        and pgconn.status == ConnStatus.OK
        and pgconn.transaction_status == TransactionStatus.IDLE
        and pgconn.pipeline_status == PipelineStatus.OFF
        and connection._pipeline is None
        and not connection.lock.locked()
    )


def is_alive(connection: TrioConnection[Any]) -> bool:
    """Whether an idle connection is still good, judged without a round trip.

    Nobody asked it anything, so what has arrived is the server's farewell or the end of the stream. (It could be the
    notice of a changed server setting; a new connection knows that one as well.)
    """
    if connection.closed or connection.pgconn.status != ConnStatus.OK:
        return False
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    return not poller.poll(0)


@asynccontextmanager
async def open_pool(
    conninfo: str,
    *,
    size_max: int,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    acquire_timeout_seconds: float = ACQUIRE_TIMEOUT_SECONDS,
    statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
) -> AsyncIterator[Pool]:
    """A pool that lives as long as the block. It connects when first asked, so an absent database fails nothing here.

    `connect_timeout_seconds` is per host (at least 2, as libpq has it) and is overridden by a connect_timeout in the
    conninfo. Raises ConfigError when libpq cannot read the conninfo.
    """
    parameters = _parse(conninfo, round(connect_timeout_seconds))
    session = (
        "set time zone 'UTC';"
        # Every statement of ours is a probe by key: planning it anew for each set of values costs more than running it.
        "set plan_cache_mode = force_generic_plan;"
        f"set statement_timeout = {round(statement_timeout_seconds * 1000)};"
        f"set idle_in_transaction_session_timeout = {round(statement_timeout_seconds * 2000)}"
    )

    async def connect() -> TrioConnection[Any]:
        connection = await TrioConnection.connect(parameters)
        try:
            await connection.execute(session)
        except BaseException:
            connection.abort()
            raise
        return connection

    pool = Pool(connect, size_max=size_max, acquire_timeout_seconds=acquire_timeout_seconds)
    try:
        yield pool
    finally:
        pool.close()


def checked_conninfo(conninfo: str, *, named: str = "database_url") -> str:
    """The conninfo itself. Raises ConfigError when libpq cannot read it, or when its port is not one.

    `named` is where it was given, for the message.
    """
    try:
        ports = str(conninfo_to_dict(conninfo).get("port") or "").split(",")
    except psycopg.ProgrammingError:
        # libpq's own message repeats parts of the text, which may be the password.
        raise ConfigError(f"{named}: not a connection URI or a list of key=value that libpq can read") from None
    if not all(not port or (port.isdecimal() and 0 < int(port) <= 65535) for port in ports):
        raise ConfigError(f"{named}: the port is not a number from 1 to 65535")
    return conninfo


def _parse(conninfo: str, connect_timeout: int) -> str:
    given = conninfo_to_dict(checked_conninfo(conninfo))
    return make_conninfo(f"connect_timeout={max(2, connect_timeout)}", **given)
