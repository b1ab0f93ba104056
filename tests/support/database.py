"""A Postgres server, and for each test that asks a migrated database that holds what a new one holds.

A new database is a clone of the template, which costs some 35 ms of CPU. Most tests leave nothing but rows behind, and
to delete those costs a fifth of that: so the database of one test becomes that of the next, if it can be made equal to
the template again. `ReusedDatabase` decides that by looking, not by trust.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from queue import Queue
from typing import Any

import psycopg
import trio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from gateway.postgres.driver import TrioConnection
from gateway.postgres.embedded import open_embedded
from gateway.postgres.migrate import migrate_up

TEMPLATE = "gateway_template"
TERMINATE_SECONDS = 10.0
# Up to ten pages the planner takes a table that was never analysed for one of ten pages, so plans are those of a new
# database as long as no table has grown beyond.
TABLE_BYTES_MAX = 10 * 8192
_numbers = count(1)


@contextmanager
def running_server() -> Iterator[str]:
    """A server for the run, without fsync; yields its conninfo.

    It lives in a trio run of its own in another thread, because the tests' trio runs come and go.
    """
    answers: Queue[str | BaseException] = Queue()
    stop = trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with tempfile.TemporaryDirectory(prefix="gateway-test-", ignore_cleanup_errors=True) as directory:
            await trio.Path(directory).chmod(0o711)
            async with open_embedded(directory, durable=False, connections_max=200) as conninfo:
                await make_template(conninfo)
                answers.put(conninfo)
                await stop.wait()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            answers.put(error)

    thread = threading.Thread(target=run, name="test-postgres")
    thread.start()
    answer = answers.get(timeout=120)
    if isinstance(answer, BaseException):
        raise answer
    try:
        yield answer
    finally:
        token[0].run_sync_soon(stop.set)
        thread.join(timeout=30)


async def make_template(conninfo: str) -> None:
    """Create the migrated database that others are cloned from."""
    await _execute(conninfo, sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    await migrate_up(_on(conninfo, TEMPLATE))


@asynccontextmanager
async def fresh_database(server: str, *, template: str = TEMPLATE) -> AsyncIterator[str]:
    """The conninfo of a database cloned from `template` (`template0` is an empty one), dropped afterwards."""
    name = f"test_{next(_numbers)}"
    await _execute(server, _clone(name, template))
    try:
        yield _on(server, name)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await _execute(server, _drop(name))


def _clone(name: str, template: str) -> sql.Composed:
    # Copying files costs half of what writing every page to the log does; the server need not survive the machine.
    statement = sql.SQL("create database {} template {} strategy file_copy")
    return statement.format(sql.Identifier(name), sql.Identifier(template))


def _drop(name: str) -> sql.Composed:
    return sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))


def _on(conninfo: str, dbname: str) -> str:
    return make_conninfo(conninfo, dbname=dbname)


async def _execute(conninfo: str, statement: sql.Composed) -> None:
    async with await TrioConnection.connect(conninfo) as connection:
        await connection.execute(statement)


def execute_blocking(conninfo: str, statement: str) -> list[tuple[object, ...]]:
    """One statement over psycopg's blocking connection, for tests and processes without trio."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


# Nearly all DDL shows in these: it writes rows of a later transaction, or removes some. Beside each its column of
# numbers, which for objects that are not the server's own begin at 16384.
_CATALOGS = {
    "pg_attrdef": "oid", "pg_attribute": "attrelid", "pg_class": "oid", "pg_constraint": "oid", "pg_namespace": "oid",
    "pg_proc": "oid", "pg_rewrite": "oid", "pg_statistic": "starelid", "pg_trigger": "oid", "pg_type": "oid",
}  # fmt: skip
_SCHEMA = " union all ".join(
    [
        *(
            f"select '{name}', count(*), max(xmin::text::bigint) from {name} where {number} >= 16384"
            for name, number in _CATALOGS.items()
        ),
        # VACUUM and ANALYZE write these in place, and change plans.
        "select 'statistics', sum(relpages), sum(reltuples) from pg_class where oid >= 16384",
        "select 'settings', count(*), 0 from pg_db_role_setting"
        " where setdatabase in (0, (select oid from pg_database where datname = current_database()))",
    ]
)
_TABLES = """
    select oid::regclass::text, pg_relation_size(oid) from pg_class
    where relkind in ('r', 'm') and oid >= 16384 and relnamespace <> 'pg_toast'::regnamespace
    order by 1
"""
_SEQUENCES = "select seqrelid::regclass::text, seqstart from pg_sequence order by 1"


class _Mismatch(Exception):
    """The database cannot be made equal to the template; the message says in which respect."""


@dataclass(frozen=True)
class _Contents:
    """Everything in a database that a test could change: its schema, and the rows of its tables."""

    schema: list[tuple[Any, ...]]
    tables: dict[str, int]
    sequences: dict[str, int]

    @property
    def filled(self) -> list[str]:
        """Tables that may hold rows; one without a single page holds none."""
        return [name for name, size in self.tables.items() if size]


def _contents(connection: psycopg.Connection[Any]) -> _Contents:
    return _Contents(
        sorted(connection.execute(_SCHEMA).fetchall()),
        dict(connection.execute(_TABLES).fetchall()),
        dict(connection.execute(_SEQUENCES).fetchall()),
    )


def _rows(connection: psycopg.Connection[Any], tables: list[str]) -> list[tuple[Any, ...]]:
    """The rows of some tables, as text."""
    queries = [f"select '{table}', t::text from {table} t" for table in tables]
    return sorted(connection.execute(" union all ".join(queries).encode()).fetchall()) if queries else []


class ReusedDatabase:
    """One database of a server at a time, for tests that run one after the other.

    `take` ends the sessions that are left in it, gives it a name it never had (a process that was left behind finds
    nothing), and deletes all rows. If the schema, a setting or a row of the template's own has changed, or a table has
    grown so that plans would differ, a new clone takes its place. `reused` and `cloned` count the outcomes.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._admin = psycopg.connect(server, autocommit=True)
        self._name: str | None = None
        self.reused = 0
        self.cloned = 0
        with psycopg.connect(_on(server, TEMPLATE), autocommit=True) as connection:
            self._template = _contents(connection)
            self._template_rows = _rows(connection, self._template.filled)

    def take(self) -> str:
        """The conninfo of a database that is equal to the template."""
        name = f"test_{next(_numbers)}"
        if self._name is not None and self._reuse(self._name, name):
            self.reused += 1
        else:
            self._execute(_clone(name, TEMPLATE))
            self.cloned += 1
        self._name = name
        return _on(self._server, name)

    def close(self) -> None:
        if self._name is not None:
            self._execute(_drop(self._name))
        self._admin.close()

    def _execute(self, statement: sql.Composed) -> psycopg.Cursor[Any]:
        try:
            return self._admin.execute(statement)
        except psycopg.OperationalError:
            if not self._admin.closed:
                raise
        # A test ended every session of the server.
        self._admin = psycopg.connect(self._server, autocommit=True)
        return self._admin.execute(statement)

    def _reuse(self, old: str, new: str) -> bool:
        try:
            self._rename(old, new)
            with psycopg.connect(_on(self._server, new), autocommit=True) as connection:
                self._empty(connection)
        except (psycopg.Error, _Mismatch):
            self._execute(_drop(old))
            self._execute(_drop(new))
            return False
        return True

    def _rename(self, old: str, new: str) -> None:
        sessions = sql.SQL("select pg_terminate_backend(pid) from pg_stat_activity where datname = {}").format(old)
        # Polled here, because the server's own waits are in steps of 100 ms.
        deadline = time.monotonic() + TERMINATE_SECONDS
        while self._execute(sessions).rowcount and time.monotonic() < deadline:
            time.sleep(0.001)
        self._execute(sql.SQL("alter database {} rename to {}").format(sql.Identifier(old), sql.Identifier(new)))

    def _empty(self, connection: psycopg.Connection[Any]) -> None:
        found = _contents(connection)
        if found.schema != self._template.schema:
            raise _Mismatch("schema")
        if max(found.tables.values()) > TABLE_BYTES_MAX:
            raise _Mismatch("size")
        filled = [table for table in found.filled if table not in self._template.filled]
        # Triggers and foreign keys are for the product's deletes.
        statements = ["set session_replication_role = replica", *(f"delete from {table}" for table in filled)]
        statements += [f"select setval('{name}', {start}, false)" for name, start in found.sequences.items()]
        connection.execute("; ".join(statements).encode())
        if _rows(connection, [*self._template.filled, *filled]) != self._template_rows:
            raise _Mismatch("rows")
