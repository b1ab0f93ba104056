"""Numbered SQL migrations, applied by yoyo inside an advisory lock of ours.

yoyo is synchronous: it runs in a worker thread, so a cancellation takes effect after the step under way. Our lock is
polled, because a session blocked on an advisory lock would stall CREATE INDEX CONCURRENTLY in the one that holds it.
yoyo's own lock is a row that a killed process leaves behind; inside ours nobody can hold it by right, so it is broken.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.assets import asset_dir
from gateway.errors import StoreError, StoreUnavailable
from gateway.postgres.binaries import bundled
from gateway.postgres.driver import CONNECT_TIMEOUT_SECONDS, TrioConnection
from gateway.postgres.pool import translating

# Any constant will do, as long as every version of this program uses the same one.
_LOCK_KEY = 0x6761_7465_7761_79
_LOCK_POLL_SECONDS = 0.2
LOCK_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the chain; `applied_at` is None while it is pending."""

    id: str
    applied_at: datetime | None


async def migrate_up(conninfo: str, *, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> list[str]:
    """Apply what is pending and return the ids. Raises StoreUnavailable, or StoreError naming the step that failed."""
    async with _locked(conninfo, lock_timeout_seconds):
        return await _in_thread(_apply, conninfo)


async def migrate_down(
    conninfo: str,
    *,
    steps: int | None = None,
    to: str | None = None,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> list[str]:
    """Take back the last `steps` (default 1), or everything after the step `to`; returns the ids, newest first."""
    known = _ids()
    if to is not None and to not in known:
        raise StoreError(f"there is no migration {to}; the last one is {known[-1]}")

    def choose(applied: list[str]) -> list[str]:
        if to is not None:
            return [each for each in applied if each > to]
        return applied[: 1 if steps is None else steps]

    async with _locked(conninfo, lock_timeout_seconds):
        return await _in_thread(_roll_back, conninfo, choose)


async def status(conninfo: str) -> list[Migration]:
    """Every step of the chain in order; changes nothing, and needs no lock."""
    applied = await _applied(conninfo)
    return [Migration(each, applied.get(each)) for each in _ids()]


async def pending(conninfo: str) -> list[str]:
    """The ids still to be applied; changes nothing, and needs no lock."""
    return [each.id for each in await status(conninfo) if each.applied_at is None]


async def dump_schema(conninfo: str) -> str:
    """The schema as SQL, without yoyo's tables and without anything that differs from one run to the next."""
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
async def _locked(conninfo: str, timeout: float) -> AsyncIterator[None]:
    with translating():
        connection = await TrioConnection.connect(conninfo)
    try:
        with translating():
            await _acquire(connection, timeout)
        yield
    finally:
        # The lock belongs to the session.
        connection.abort()


async def _acquire(connection: TrioConnection[Any], timeout: float) -> None:
    with trio.move_on_after(timeout):
        while True:
            cursor = await connection.execute("select pg_try_advisory_lock(%s)", (_LOCK_KEY,))
            if await cursor.fetchone() == (True,):
                return
            await trio.sleep(_LOCK_POLL_SECONDS)
    raise StoreUnavailable(f"another process has been migrating this database for more than {timeout:g} s")


async def _in_thread(function: Callable[..., list[str]], *arguments: Any) -> list[str]:
    with translating():
        return await trio.to_thread.run_sync(function, *arguments)


def _ids() -> list[str]:
    return sorted(path.stem for path in asset_dir("migrations").glob("*.sql") if not path.stem.endswith(".rollback"))


async def _applied(conninfo: str) -> dict[str, datetime]:
    with translating():
        async with await TrioConnection.connect(conninfo) as connection:
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


def _roll_back(conninfo: str, choose: Callable[[list[str]], list[str]]) -> list[str]:
    def roll_back(backend: Any, steps: Any) -> list[str]:
        applied = {step.id: step for step in backend.to_rollback(steps)}
        chosen = choose(list(applied))
        for each in chosen:
            if not (asset_dir("migrations") / f"{each}.rollback.sql").is_file():
                raise StoreError(f"migration {each} has no rollback file")
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
    """Yoyo's psycopg backend, given connection parameters instead of a URL: its URL parser knows only one host."""
    from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
    from yoyo.connections import DatabaseURI

    class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
        def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
            # yoyo's own asks the resolver for this host's full name and the user database for ours; in a container
            # the first can take many seconds and the second fail.
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
