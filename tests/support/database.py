"""One Postgres server for the whole test run, and a fresh migrated database for each test that asks."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from queue import Queue

import psycopg
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.postgres.driver import TrioConnection
from gateway.postgres.embedded import open_embedded
from gateway.postgres.migrate import migrate_up

TEMPLATE = "gateway_template"
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
                await _make_template(conninfo)
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


async def _make_template(conninfo: str) -> None:
    await _execute(conninfo, sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    await migrate_up(_on(conninfo, TEMPLATE))


@asynccontextmanager
async def fresh_database(server: str, *, template: str = TEMPLATE) -> AsyncIterator[str]:
    """The conninfo of a database cloned from `template` (`template0` is an empty one), dropped afterwards."""
    name = f"test_{next(_numbers)}"
    identifier = sql.Identifier(name)
    await _execute(server, sql.SQL("create database {} template {}").format(identifier, sql.Identifier(template)))
    try:
        yield _on(server, name)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await _execute(server, sql.SQL("drop database {} with (force)").format(identifier))


def _on(conninfo: str, dbname: str) -> str:
    return make_conninfo(**{**conninfo_to_dict(conninfo), "dbname": dbname})


async def _execute(conninfo: str, statement: sql.Composed) -> None:
    async with await TrioConnection.connect(conninfo) as connection:
        await connection.execute(statement)


def execute_blocking(conninfo: str, statement: str) -> list[tuple[object, ...]]:
    """One statement over psycopg's blocking connection, for tests and processes without trio."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
