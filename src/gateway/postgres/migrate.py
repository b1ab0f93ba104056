"""Numbered SQL migrations, applied by yoyo inside an advisory lock of this module.

yoyo is synchronous and runs in a worker thread. A cancellation therefore takes effect after the step under way. The
advisory lock is polled, because a session that blocks on it would stall CREATE INDEX CONCURRENTLY in the session that
holds it. yoyo's own lock is a row, which a killed process leaves behind. Under the advisory lock no other process can
rightfully hold that row, so it is removed.

Every daemon holds a second advisory lock, in shared mode, on the connection on which it listens. Taking migrations back
needs that lock in exclusive mode. So it does not begin while a daemon runs, and no daemon can start until it is done.

Behind a connection pooler a lock of a session may end up with another client. There the lock belongs to a transaction,
which stays open and touches nothing else, and a daemon holds no second lock: the leases of its bots have to tell of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.assets import asset_dir
from gateway.errors import StoreConflict, StoreError, StoreUnavailable
from gateway.postgres.binaries import bundled
from gateway.postgres.driver import CONNECT_TIMEOUT_SECONDS, TrioConnection
from gateway.postgres.inspection import inspect_database, refuse_unusable
from gateway.postgres.pool import translating
from gateway.postgres.session import open_session, session_script

# The values are arbitrary, but every version of this program must use the same ones.
_LOCK_KEY = 0x6761_7465_7761_79
_DAEMON_KEY = 0x6761_7465_7761_7A
_LOCK_POLL_SECONDS = 0.2
LOCK_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the chain. `applied_at` is None while it is pending."""

    id: str
    applied_at: datetime | None


async def migrate_up(conninfo: str, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> list[str]:
    """Apply the pending migrations and return their ids.

    Raises ConfigError when the database cannot be used, StoreUnavailable, or StoreError that names the failed step.
    """
    async with _locked(conninfo, lock_timeout_seconds):
        return await _in_thread(_apply, conninfo)


async def migrate_down(
    conninfo: str,
    *,
    steps: int | None = None,
    to: str | None = None,
    agreed: Sequence[str] | None = None,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> list[str]:
    """Take back the last `steps` (default 1), or everything after the step `to`. Returns the ids, newest first.

    `agreed` lists the ids that were confirmed. Raises StoreConflict if other ones would be taken back by now, if a
    daemon runs, or if a bot's lease is held. Raises StoreError for steps that do not exist. Both are raised before
    anything has changed.
    """
    async with _locked(conninfo, lock_timeout_seconds) as connection:
        await _refuse_under_daemons(connection)
        await _refuse_held_bots(conninfo)
        chosen = await steps_back(conninfo, steps=steps, to=to)
        if agreed is not None and chosen != list(agreed):
            raise StoreConflict(f"this would take back {', '.join(chosen) or 'nothing'} by now: ask again")
        return await _in_thread(_roll_back, conninfo, chosen)


async def steps_back(conninfo: str, *, steps: int | None = None, to: str | None = None) -> list[str]:
    """Return the ids that `migrate_down` would take back, newest first. Changes nothing. Raises StoreError."""
    known, applied = _ids(), sorted(await _applied(conninfo, writing=True), reverse=True)
    if newer := [each for each in applied if each not in known]:
        raise StoreError(f"{', '.join(newer)} came from another version of this program: take it back with that one")
    if to is not None:
        if to not in known:
            raise StoreError(f"there is no migration {to}; the last one is {known[-1]}")
        return [each for each in applied if each > to]
    if steps is None:
        return applied[:1]
    if not 1 <= steps <= len(applied):
        raise StoreError(f"{steps} steps cannot be taken back, because {len(applied)} are applied")
    return applied[:steps]


async def announce_daemon(connection: TrioConnection[Any]) -> None:
    """Keep `migrate_down` from starting as long as `connection` is open. Raises StoreUnavailable while one runs."""
    cursor = await connection.execute("select pg_try_advisory_lock_shared(%s)", (_DAEMON_KEY,))
    if await cursor.fetchone() != (True,):
        raise StoreUnavailable("migrations of this database are being taken back")


async def status(conninfo: str) -> list[Migration]:
    """Return every step of the chain in order. Changes nothing, and needs no lock.

    Raises ConfigError when the database could not be used even for reading.
    """
    return _chain(await _applied(conninfo, writing=False))


async def pending(conninfo: str) -> list[str]:
    """Return the ids that are still to be applied. Changes nothing, and needs no lock.

    Raises ConfigError when the database, its settings or the rights of the role do not allow this program to run, and
    StoreUnavailable for a standby.
    """
    return _unapplied(await _applied(conninfo, writing=True))


async def pending_by_now(conninfo: str) -> list[str]:
    """Return what `pending` returns, for a program that runs: whether it can is told by others."""
    return _unapplied(await _applied(conninfo))


def _chain(applied: dict[str, datetime]) -> list[Migration]:
    return [Migration(each, applied.get(each)) for each in _ids()]


def _unapplied(applied: dict[str, datetime]) -> list[str]:
    return [each.id for each in _chain(applied) if each.applied_at is None]


async def dump_schema(conninfo: str) -> str:
    """Return the schema as SQL, without yoyo's tables and without anything that differs from run to run."""
    params = conninfo_to_dict(conninfo)
    password = params.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    command = [
        str(bundled() / "pg_dump"),
        "--schema-only",
        "--no-owner",
        "--no-privileges",
        "--restrict-key=gateway",
        "--exclude-table=*yoyo*",
        f"--dbname={make_conninfo('', **params)}",
    ]
    result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment)
    if result.returncode != 0:
        raise StoreError(f"pg_dump failed: {result.stderr.decode(errors='replace').strip()}")
    lines = [line for line in result.stdout.decode().splitlines() if not line.startswith("-- Dumped ")]
    return "\n".join(lines).strip() + "\n"


@asynccontextmanager
async def _locked(conninfo: str, timeout: float) -> AsyncIterator[TrioConnection[Any]]:
    with translating():
        connection = await open_session(conninfo)
    try:
        with translating():
            refuse_unusable(await inspect_database(connection), migrating=True, pooled=connection.pooled)
            if connection.pooled:
                await connection.execute("begin; set local idle_in_transaction_session_timeout = 0")
            await _acquire(connection, timeout)
        yield connection
    finally:
        # The advisory lock belongs to the session or to its transaction, so closing the connection releases it.
        connection.abort()


async def _acquire(connection: TrioConnection[Any], timeout: float) -> None:
    with trio.move_on_after(timeout):
        while True:
            if await _try_lock(connection, _LOCK_KEY):
                return
            await trio.sleep(_LOCK_POLL_SECONDS)
    raise StoreUnavailable(f"another process has been migrating this database for more than {timeout:g} s")


async def _try_lock(connection: TrioConnection[Any], key: int) -> bool:
    statement = "select pg_try_advisory_xact_lock(%s)" if connection.pooled else "select pg_try_advisory_lock(%s)"
    cursor = await connection.execute(statement, (key,))
    return await cursor.fetchone() == (True,)


async def _refuse_under_daemons(connection: TrioConnection[Any]) -> None:
    """Keep daemons from starting until `connection` is closed. Raises StoreConflict if a daemon runs."""
    with translating():
        if not await _try_lock(connection, _DAEMON_KEY):
            raise StoreConflict(await _name_daemons(connection))


async def _refuse_held_bots(conninfo: str) -> None:
    """Raise StoreConflict if a daemon holds leases of bots.

    This recognises a daemon of an older version, one behind a pooler, and one whose connection broke just now: they do
    not hold the daemons' lock. It reads on a connection of its own, because a lock on the table that lasts as long as a
    transaction would stop the migrations.
    """
    with translating():
        async with await open_session(conninfo) as connection:
            cursor = await connection.execute("select to_regclass('channel_installation')::text")
            if await cursor.fetchone() == (None,):
                return
            cursor = await connection.execute(
                "select count(*), coalesce(ceil(extract(epoch from max(ws_lease_expires_at) - now())), 0)::int"
                " from channel_installation where ws_lease_token is not null and ws_lease_expires_at > now()"
            )
            bots, seconds = await cursor.fetchone() or (0, 0)
    if bots:
        raise StoreConflict(
            f"a daemon holds {bots} bots of this database: stop every daemon first; the leases of one that crashed end"
            f" in {seconds} s"
        )


async def _name_daemons(connection: TrioConnection[Any]) -> str:
    cursor = await connection.execute(
        "select distinct pid from pg_locks where locktype = 'advisory' and granted and objsubid = 1"
        " and ((classid::bigint << 32) | objid::bigint) = %s"
        " and database = (select oid from pg_database where datname = current_database()) order by pid",
        (_DAEMON_KEY,),
    )
    pids = ", ".join(str(row[0]) for row in await cursor.fetchall())
    return (
        "a daemon runs on this database: stop every daemon first; one whose machine is gone leaves a session behind,"
        f" which pg_terminate_backend ends (sessions: {pids or 'none any more'})"
    )


async def _in_thread(function: Callable[..., list[str]], *arguments: Any) -> list[str]:
    with translating():
        return await trio.to_thread.run_sync(function, *arguments)


def _ids() -> list[str]:
    return sorted(path.stem for path in asset_dir("migrations").glob("*.sql") if not path.stem.endswith(".rollback"))


async def _applied(conninfo: str, *, writing: bool | None = None) -> dict[str, datetime]:
    """Return when each step was applied. If `writing` is given, refuse a database that cannot be used so."""
    with translating():
        async with await open_session(conninfo) as connection:
            found = None if writing is None else await inspect_database(connection)
            applied = await _recorded(connection)
            if found is not None:
                migrating = bool(writing and _unapplied(applied))
                refuse_unusable(found, writing=bool(writing), migrating=migrating, pooled=connection.pooled)
            return applied


async def _recorded(connection: TrioConnection[Any]) -> dict[str, datetime]:
    cursor = await connection.execute("select to_regclass('_yoyo_migration')::text")
    if await cursor.fetchone() == (None,):
        return {}
    cursor = await connection.execute("select migration_id, applied_at_utc from _yoyo_migration")
    return {row[0]: row[1].replace(tzinfo=UTC) for row in await cursor.fetchall()}


def _apply(conninfo: str) -> list[str]:
    def apply(backend: Any, steps: Any) -> list[str]:
        done = []
        for step in backend.to_apply(steps):
            _step(backend.apply_one, step)
            done.append(step.id)
        return done

    return _with_yoyo(conninfo, apply)


def _roll_back(conninfo: str, chosen: list[str]) -> list[str]:
    def roll_back(backend: Any, steps: Any) -> list[str]:
        applied = {step.id: step for step in backend.to_rollback(steps)}
        for each in chosen:
            if not (asset_dir("migrations") / f"{each}.rollback.sql").is_file():
                raise StoreError(f"migration {each} has no rollback file")
        for each in chosen:
            _step(backend.rollback_one, applied[each])
        return chosen

    return _with_yoyo(conninfo, roll_back)


def _step(function: Callable[[Any], None], step: Any) -> None:
    try:
        function(step)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise StoreError(f"migration {step.id} failed: {error.diag.message_primary or error}") from error


def _with_yoyo(conninfo: str, work: Callable[[Any, Any], list[str]]) -> list[str]:
    from yoyo import read_migrations

    with _open_backend(conninfo) as backend:
        backend.init_database()
        backend.break_lock()
        with backend.lock():
            return work(backend, read_migrations(str(asset_dir("migrations"))))


def _open_backend(conninfo: str) -> Any:
    """Open yoyo's psycopg backend with connection parameters, because yoyo's URL parser knows only one host."""
    from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
    from yoyo.connections import DatabaseURI

    class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
        def connect(self, dburi: Any) -> Any:
            connection = super().connect(dburi)
            # Behind a pooler the next transaction may run in a session that knows nothing of a prepared statement.
            connection.prepare_threshold = None
            try:
                script = session_script(connection.info.server_version, connection.info.backend_pid)
                connection.execute(script.encode())
            except BaseException:
                connection.close()
                raise
            return connection

        def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
            # yoyo's own method asks the resolver for the full host name and the user database for the user name. In a
            # container the first can take many seconds and the second can fail.
            return {
                "id": os.urandom(16).hex(),
                "migration_id": migration.id if migration else None,
                "migration_hash": migration.hash if migration else None,
                "username": str(os.getuid()),
                "hostname": socket.gethostname(),
                "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
                "operation": operation,
            }

    parameters = {"connect_timeout": str(CONNECT_TIMEOUT_SECONDS), **conninfo_to_dict(conninfo)}
    uri = DatabaseURI("postgresql+psycopg", None, None, None, None, parameters.pop("dbname", None), parameters)
    return Backend(uri, "_yoyo_migration")
