"""A bounded pool of TrioConnections, and the one place that translates psycopg's errors to `gateway.errors`."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import structlog
import trio
from psycopg import errors as e
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

from gateway.errors import ConfigError, StoreConflict, StoreError, StoreUnavailable
from gateway.postgres.driver import CONNECT_TIMEOUT_SECONDS, TrioConnection
from gateway.postgres.session import open_session

log = structlog.get_logger()

ACQUIRE_TIMEOUT_SECONDS = 30.0
STATEMENT_TIMEOUT_SECONDS = 30.0

# Some of these are OperationalErrors to psycopg, but the server is healthy: a constraint or a concurrent writer is in
# the way.
_CONFLICTS = (e.IntegrityError, e.SerializationFailure, e.DeadlockDetected, e.LockNotAvailable)
# A connection pooler gave the statement to a session that was never told of it, or that was told by another client.
_STRAY_STATEMENTS = (e.DuplicatePreparedStatement, e.InvalidSqlStatementName)
_OUTAGES = (e.OperationalError, e.InterfaceError, e.ReadOnlySqlTransaction, *_STRAY_STATEMENTS)
# The SQLSTATE class of errors that are OperationalErrors to psycopg but concern one statement, such as a key too long
# for its index. A retry would fail again, and as an outage it would fail every piece that shares the statement.
_LIMIT_EXCEEDED = "54"


@contextmanager
def translating() -> Iterator[None]:
    """Turn psycopg's errors into StoreConflict, StoreUnavailable or, for a mistake in this program, StoreError."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error) from error


def translated(error: psycopg.Error) -> StoreError:
    """Return the error as a StoreError. Its message, and the original's, name constraints and tables but no values.

    The server's detail lines repeat the offending row. They are dropped from the original error too, because it is
    printed with every traceback.
    """
    message = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, psycopg.DataError):
        # The primary message of this class of errors quotes the value.
        message = f"a value was not acceptable: {type(error).__name__}"
    error.args = (message,)
    if isinstance(error, _CONFLICTS):
        return StoreConflict(message, constraint=error.diag.constraint_name or "")
    if isinstance(error, _OUTAGES) and not (error.sqlstate or "").startswith(_LIMIT_EXCEEDED):
        return StoreUnavailable(message)
    return StoreError(message)


OpenConnection = Callable[[bool], Awaitable[TrioConnection[Any]]]
"""Opens a connection. The argument is true if it is known that a connection pooler is in between."""


class Pool:
    """A pool of at most `size_max` connections, opened when needed and kept while they are usable. Use `open_pool`.

    The attributes and properties are for metrics: the numbers of open connections (`size`), `idle` ones, those `in_use`
    and `waiting` tasks, and the counters `connects`, `connect_failures` and `discards` (connections that were not kept)
    since the start.
    """

    def __init__(self, connect: OpenConnection, *, size_max: int, acquire_timeout_seconds: float) -> None:
        self._connect = connect
        self._pooled = False
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
        """Yield an autocommit connection for this task alone, until the block ends.

        Raises StoreUnavailable when no connection came free in time, and translates psycopg's errors of the block.
        Raises RuntimeError for a task that already holds a connection: it must pass that one on, because a second one
        could deadlock the pool. Cancellation gives the place in the pool back. A connection that is not idle after the
        block is closed.
        """
        with translating():
            connection = await self._acquire()
            try:
                yield connection
            except e.ReadOnlySqlTransaction:
                # A demoted primary still answers, but no write will succeed there. So the connection is not kept, and
                # the next one is opened anew.
                connection.abort()
                raise
            except _STRAY_STATEMENTS:
                connection.abort()
                self._expect_pooler()
                raise
            finally:
                self._release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[TrioConnection[Any]]:
        """Yield a connection inside BEGIN … COMMIT. An exception rolls back. See TrioConnection.transaction."""
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
            connection = await self._connect(self._pooled)
        except psycopg.Error:
            self.connect_failures += 1
            raise
        self._opened += 1
        return connection

    def _release(self, connection: TrioConnection[Any]) -> None:
        if is_reusable(connection) and not self._closed and connection.pooled >= self._pooled:
            self._idle.append(connection)
        else:
            self._discard(connection)
        self._limiter.release()

    def _discard(self, connection: TrioConnection[Any]) -> None:
        connection.abort()
        self._opened -= 1
        self.discards += 1

    def _expect_pooler(self) -> None:
        """Prepare no statement on new connections, and keep none of the others: they go through a hidden pooler."""
        if not self._pooled:
            log.warning("connection_pooler_noticed", advice="set database_direct_url")
        self._pooled = True
        while self._idle:
            self._discard(self._idle.pop())

    def close(self) -> None:
        """Close the idle connections now, and the others when they are given back."""
        self._closed = True
        while self._idle:
            self._discard(self._idle.pop())


def is_reusable(connection: TrioConnection[Any]) -> bool:
    """True if the next task can use the connection: it is open, with no statement, transaction, COPY or pipeline."""
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
    """True if an idle connection is still usable, judged without a round trip.

    No statement is under way, so readable data means that the server has closed or is closing the connection. (It could
    also be the notice of a changed server setting. Then the connection is replaced, and a new one has that setting.)
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
    pooled: bool = False,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    acquire_timeout_seconds: float = ACQUIRE_TIMEOUT_SECONDS,
    statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
) -> AsyncIterator[Pool]:
    """Open a pool that lives as long as the block. It connects on first use, so an absent database raises nothing here.

    `connect_timeout_seconds` is per host (at least 2, libpq's minimum). A connect_timeout in the conninfo overrides it.
    `pooled` says that the conninfo leads to a connection pooler. One that shows itself is also noticed without it.
    Raises ConfigError when libpq cannot read the conninfo.
    """
    parameters = _parse(conninfo, round(connect_timeout_seconds))
    settings = {
        # Every statement here looks rows up by key, so planning it anew for each set of values would cost more than
        # running it.
        "plan_cache_mode": "force_generic_plan",
        "statement_timeout": str(round(statement_timeout_seconds * 1000)),
        "idle_in_transaction_session_timeout": str(round(statement_timeout_seconds * 2000)),
    }

    async def connect(found_pooled: bool) -> TrioConnection[Any]:
        connection = await open_session(parameters, pooled=pooled or found_pooled, settings=settings)
        if connection.pooled:
            # The session is shared, so its own limit cannot be set.
            connection.statement_seconds = statement_timeout_seconds
        return connection

    pool = Pool(connect, size_max=size_max, acquire_timeout_seconds=acquire_timeout_seconds)
    try:
        yield pool
    finally:
        pool.close()


def checked_conninfo(conninfo: str, *, named: str = "database_url") -> str:
    """Return the conninfo unchanged. Raises ConfigError when libpq cannot read it, or when its port is invalid.

    `named` is the name of the setting, for the message.
    """
    try:
        ports = str(conninfo_to_dict(conninfo).get("port") or "").split(",")
    except psycopg.ProgrammingError:
        # `from None`: libpq's own message repeats parts of the text, which may contain the password.
        raise ConfigError(f"{named}: not a connection URI or a list of key=value that libpq can read") from None
    if not all(not port or (port.isdecimal() and 0 < int(port) <= 65535) for port in ports):
        raise ConfigError(f"{named}: the port is not a number from 1 to 65535")
    return conninfo


def _parse(conninfo: str, connect_timeout: int) -> str:
    given = conninfo_to_dict(checked_conninfo(conninfo))
    return make_conninfo(f"connect_timeout={max(2, connect_timeout)}", **given)
