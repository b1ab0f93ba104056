"""psycopg 3 on trio.

psycopg runs every operation as a generator over libpq that yields whenever it would block. Only the code that waits for
the socket is written for asyncio, and this module replaces that code. The overridden methods are not public API, so
psycopg is pinned to one version, and tests/integration/postgres/test_driver.py is the contract.

Cancellation leaves behind: a cancelled statement is cancelled on the server and its answer is read, within
`CANCEL_SECONDS`. If that takes longer, the connection is closed. A transaction whose block is cancelled is rolled back.
A COMMIT that is under way when the cancellation arrives may finish, within `FINISH_SECONDS`. Nothing is shielded for
longer.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import psycopg
import trio
from psycopg import conninfo as conninfo_text
from psycopg import errors as e
from psycopg._conninfo_utils import get_param, is_ip_address, split_attempts
from psycopg.adapt import AdaptersMap
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import AsyncRowFactory, Row, tuple_row
from psycopg.waiting import Ready, Wait

from gateway.concurrency import finishing

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, ConnDict, ConnParam, PQGen, PQGenConn
    from psycopg.pq.abc import PGconn

# Both shields may run under a lease. Together they must stay below its expiry margin.
CANCEL_SECONDS = 0.5
FINISH_SECONDS = 0.5

CONNECT_TIMEOUT_SECONDS = 10
# With these a dead peer is noticed in about 15 s even when nothing is being sent. libpq ignores them on Unix sockets.
DEFAULT_PARAMETERS: dict[str, str] = {
    "application_name": "gateway",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
}
# The time that a generator which never blocks may run before the other tasks get a turn.
_BUSY_SECONDS = 0.005

_INTERRUPTIONS = (trio.Cancelled, KeyboardInterrupt, SystemExit)
_DEFAULT_ROWS: AsyncRowFactory[Any] = tuple_row
T = TypeVar("T")


class TrioTransaction(psycopg.AsyncTransaction):
    """A transaction block whose end survives cancellation for a bounded time."""

    async def __aenter__(self) -> Self:
        async with self._conn.lock:
            self._check_enter()
            try:
                await self._conn.wait(self._enter_gen())
            except BaseException as error:
                # The BEGIN may have succeeded before the cancellation: the transaction must not stay open.
                if self.status == self.Status.ACTIVE:
                    await self._end(type(error), error, None)
                raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool:
        connection = cast("TrioConnection[Any]", self._conn)
        try:
            await connection.lock.acquire()
        except trio.Cancelled:
            # The lock was not taken: another task may be using the connection, and this task's scope is cancelled. The
            # transaction must still be ended, because the connection goes on to be used. So the lock is awaited once
            # more behind a shield, and if even that takes too long, the connection is closed.
            with finishing(FINISH_SECONDS) as scope:
                await connection.lock.acquire()
            if scope.cancelled_caught:
                connection.abort()
                raise
        try:
            return await self._end(exc_type, exc_val, exc_tb)
        finally:
            connection.lock.release()

    async def _end(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool:
        if self.pgconn.status != ConnStatus.OK:
            # The connection is gone and the server rolls back by itself. False lets the block's exception propagate.
            self.status = self.Status.FAILED
            return False
        connection = cast("TrioConnection[Any]", self._conn)
        return await connection.finish(self._exit_gen(exc_type, exc_val, exc_tb))


class TrioConnection(psycopg.AsyncConnection[Row]):
    """An AsyncConnection that waits with trio. Several tasks may use it, and their statements take turns."""

    lock: trio.Lock  # type: ignore[assignment]
    pooled = False
    """True if a connection pooler is in between, so that two transactions may run in two sessions of the server."""
    statement_seconds: float | None = None
    """The limit of one statement where the server does not know it. Beyond it the statement is cancelled."""

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[Row] = _DEFAULT_ROWS) -> None:
        # Skips AsyncConnection's own __init__, because that would create an asyncio.Lock.
        super(psycopg.AsyncConnection, self).__init__(pgconn)
        self.row_factory = row_factory
        self.lock = trio.Lock()
        self.cursor_factory = psycopg.AsyncCursor
        self.server_cursor_factory = psycopg.AsyncServerCursor
        self._yielded_at = 0.0

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = True,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Try the hosts of the conninfo in turn, and use the first that also satisfies target_session_attrs.

        Each host has `connect_timeout` seconds (of the conninfo, else CONNECT_TIMEOUT_SECONDS) to resolve its name, and
        as long again for each of its addresses. Raises psycopg.OperationalError that lists every failure. Cancellation
        closes everything that was opened so far.
        """
        given = conninfo_text.conninfo_to_dict(conninfo, **kwargs)
        params: ConnDict = {**DEFAULT_PARAMETERS, "connect_timeout": CONNECT_TIMEOUT_SECONDS, **given}
        connection = await cls._connect_first(params, conninfo_text.timeout_from_conninfo(params))
        connection._autocommit = autocommit
        connection.prepare_threshold = prepare_threshold
        if row_factory:
            connection.row_factory = row_factory
        if cursor_factory:
            connection.cursor_factory = cursor_factory
        if context:
            connection._adapters = AdaptersMap(context.adapters)
        return connection

    @classmethod
    async def _connect_first(cls, params: ConnDict, timeout: float) -> Self:
        failures: list[e.Error] = []
        for attempt in await _attempts(params, timeout, failures):
            try:
                return await _drive_connecting(cls._connect_gen(conninfo_text.make_conninfo("", **attempt)), timeout)
            except e._WaitTimeout:
                failures.append(e.ConnectionTimeout(f"{_where(attempt)}: no answer within {timeout:g} s"))
            except e.Error as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0].with_traceback(None)
        summary = "no host accepted the connection: " + "; ".join(str(failure).strip() for failure in failures)
        raise type(failures[-1])(summary)

    async def wait(self, gen: PQGen[T], interval: float = 0, timeout: float | None = None) -> T:
        """Drive a generator to its result. psycopg calls this for every operation of a connection.

        `interval` is part of the overridden signature and is ignored, because trio wakes on cancellation at once.
        Raises psycopg's _WaitTimeout when `timeout` seconds have passed. The generator may then be driven again.
        Raises QueryCanceled after `statement_seconds`, if no `timeout` is given.
        """
        try:
            if timeout is None and self.statement_seconds is not None:
                return await self._drive_within(gen, self.statement_seconds)
            return await self._drive(gen, timeout)
        except _INTERRUPTIONS:
            # A statement that still runs would make the connection unusable for the next caller.
            if self._pending():
                await self._give_up(gen)
            raise

    async def _drive_within(self, gen: PQGen[T], seconds: float) -> T:
        """Drive a generator for at most `seconds`. Then cancel its statement on the server and raise QueryCanceled."""
        try:
            return await self._drive(gen, seconds)
        except e._WaitTimeout:
            await self._give_up(gen)
            raise e.QueryCanceled(f"the statement was cancelled, because it took more than {seconds:g} s") from None

    async def finish(self, gen: PQGen[T]) -> T:
        """Drive a generator that ends a transaction. After a cancellation it has FINISH_SECONDS more.

        If it ends in that time, its result is returned, and the cancellation is delivered at the next checkpoint.
        Otherwise the connection is closed and the cancellation is raised.
        """
        try:
            return await self._drive(gen, None)
        except trio.Cancelled:
            # The generator was interrupted between two steps, so it can be driven on where it stopped.
            with finishing(FINISH_SECONDS) as scope:
                result = await self._drive(gen, None)
            if scope.cancelled_caught:
                self.abort()
                raise
            return result
        except (KeyboardInterrupt, SystemExit):
            self.abort()
            raise

    async def _drive(self, gen: PQGen[T], timeout: float | None) -> T:
        await self._yield_sometimes()
        deadline = trio.current_time() + timeout if timeout is not None else None
        try:
            wanted = next(gen)
            while True:
                ready = await self._ready(wanted, deadline)
                wanted = gen.send(cast("Ready", ready))
                if deadline is not None and trio.current_time() >= deadline:
                    raise e._WaitTimeout("wait timeout expired")
        except StopIteration as stop:
            return cast("T", stop.value)

    async def _ready(self, wanted: Wait, deadline: float | None) -> int:
        """Wait until the socket is ready as wanted. Returns 0 when the deadline came first."""
        fd = self.pgconn.socket
        # The kernel is asked first, without waiting. A socket is nearly always writable, and data is often there when a
        # time-out is set. That poll is far cheaper than a pass through the scheduler, which COPY and executemany would
        # pay for every buffer.
        if wanted != Wait.R or deadline is not None:
            await self._yield_sometimes()
            ready = _poll(fd, wanted)
            if ready:
                return ready
        if deadline is None:
            ready = await _wait_fd(fd, wanted)
        else:
            ready = 0
            with trio.move_on_at(deadline):
                ready = await _wait_fd(fd, wanted)
        self._yielded_at = trio.current_time()
        return ready

    async def _yield_sometimes(self) -> None:
        # The checkpoint is also where a cancellation reaches a generator that never has to wait.
        if trio.current_time() - self._yielded_at >= _BUSY_SECONDS:
            await trio.lowlevel.checkpoint()
            self._yielded_at = trio.current_time()

    def _pending(self) -> bool:
        return not self.closed and self.pgconn.transaction_status == TransactionStatus.ACTIVE

    async def _give_up(self, gen: PQGen[Any]) -> None:
        """Cancel the running statement on the server and read its answer, within CANCEL_SECONDS. Else close."""
        with finishing(CANCEL_SECONDS):
            try:
                await self.cancel_safe(timeout=CANCEL_SECONDS)
                await self._drive(gen, None)
            except e.Error:
                # Usually QueryCanceled. No caller is left to receive it, so only the state of the connection matters.
                pass
        # Without the server's answer the connection is out of step with the protocol and cannot be used again.
        if self._pending():
            self.abort()

    async def cancel_safe(self, *, timeout: float = CANCEL_SECONDS) -> None:
        """Ask the server, over a separate connection, to cancel the running statement.

        Returns when the server has accepted the request, which does not mean that the statement has ended. Raises
        psycopg.errors.CancellationTimeout after `timeout` seconds.
        """
        if not self._should_cancel():
            return
        try:
            await _drive_connecting(self._cancel_gen(), timeout)
        except e._WaitTimeout:
            raise e.CancellationTimeout(f"the server did not take the cancel request within {timeout:g} s") from None

    async def close(self) -> None:
        """Close at once. A task that waits on this connection gets OperationalError."""
        self.abort()

    def abort(self) -> None:
        """Close at once like `close`, without an await, for code that must not be a checkpoint."""
        if self.closed:
            return
        self._closed = True
        if self.pgconn.status == ConnStatus.OK:
            # trio must forget the descriptor before the kernel reuses its number for another file. This also wakes the
            # tasks that wait on it, with ClosedResourceError.
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc_val, exc_tb)
        finally:
            self.abort()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Run the block in BEGIN … COMMIT, or in SAVEPOINT … RELEASE inside another one. An exception rolls back."""
        transaction = TrioTransaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), transaction, self.pipeline():
                yield transaction
        else:
            async with transaction:
                yield transaction


async def _drive_connecting(gen: PQGenConn[T], timeout: float) -> T:
    """Drive a generator whose descriptor may change between steps. Raises _WaitTimeout after `timeout` seconds."""
    try:
        with trio.move_on_after(timeout):
            fd, wanted = next(gen)
            while True:
                fd, wanted = gen.send(cast("Ready", await _wait_fd(fd, wanted)))
    except StopIteration as stop:
        return cast("T", stop.value)
    finally:
        gen.close()
    raise e._WaitTimeout("wait timeout expired")


def _poll(fd: int, wanted: Wait) -> int:
    events = (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0)
    poller = select.poll()
    poller.register(fd, events)
    ready = 0
    for _, event in poller.poll(0):
        # An error or a hang-up counts as ready: the next libpq call then detects it and reports what happened.
        if event & ~select.POLLOUT and wanted & Wait.R:
            ready |= Ready.R
        if event & ~select.POLLIN and wanted & Wait.W:
            ready |= Ready.W
    return ready


async def _wait_fd(fd: int, wanted: Wait) -> int:
    try:
        if wanted == Wait.R:
            await trio.lowlevel.wait_readable(fd)
            return Ready.R
        if wanted == Wait.W:
            await trio.lowlevel.wait_writable(fd)
            return Ready.W
        return await _wait_either(fd)
    except (trio.ClosedResourceError, OSError) as error:
        raise e.OperationalError("the connection was closed while it was in use") from error


async def _wait_either(fd: int) -> int:
    """Wait for both directions at once.

    The server may be blocked on sending to this process while this process is blocked on sending to it.
    """
    ready = 0
    closed = False

    async def watch(wait: Callable[[int], Coroutine[Any, Any, None]], flag: Ready, scope: trio.CancelScope) -> None:
        nonlocal ready, closed
        try:
            await wait(fd)
            ready |= flag
        except (trio.ClosedResourceError, OSError):
            # The error is raised below, since an exception of a child task would reach the caller in an ExceptionGroup.
            closed = True
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, trio.lowlevel.wait_readable, Ready.R, nursery.cancel_scope)
        nursery.start_soon(watch, trio.lowlevel.wait_writable, Ready.W, nursery.cancel_scope)
    if closed:
        raise trio.ClosedResourceError
    return ready


async def _attempts(params: ConnDict, timeout: float, failures: list[e.Error]) -> list[ConnDict]:
    """Return one set of parameters per address, with names resolved by trio.

    A name that does not resolve is added to `failures`.
    """
    prefer_standby = get_param(params, "target_session_attrs") == "prefer-standby"
    if prefer_standby:
        params = {key: value for key, value in params.items() if key != "target_session_attrs"}
    attempts = [resolved for each in split_attempts(params) for resolved in await _resolve(each, timeout, failures)]
    if get_param(params, "load_balance_hosts") == "random":
        random.shuffle(attempts)
    if prefer_standby:
        # Two rounds, as libpq does: first only standbys are accepted, then any server.
        attempts = [{**attempt, "target_session_attrs": "standby"} for attempt in attempts] + attempts
    return attempts


async def _resolve(attempt: ConnDict, timeout: float, failures: list[e.Error]) -> list[ConnDict]:
    host = get_param(attempt, "host")
    if not host or host.startswith(("/", "@")) or get_param(attempt, "hostaddr"):
        return [attempt]
    if is_ip_address(host):
        return [{**attempt, "hostaddr": host}]
    try:
        with trio.fail_after(timeout):
            found = await trio.socket.getaddrinfo(
                host, get_param(attempt, "port") or "5432", type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
    except (OSError, trio.TooSlowError) as error:
        failures.append(e.OperationalError(f"{host}: the name did not resolve: {error or 'too slow'}"))
        return []
    return [{**attempt, "hostaddr": str(entry[4][0])} for entry in found]


def _where(attempt: ConnDict) -> str:
    return f"{attempt.get('host') or attempt.get('hostaddr') or 'local socket'} port {attempt.get('port') or 5432}"
