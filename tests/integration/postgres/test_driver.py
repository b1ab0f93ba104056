"""The contract of the trio driver: it overrides methods of psycopg that are not public."""

import gc
import os
import socket
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.postgres import driver
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import is_reusable


@asynccontextmanager
async def connected(conninfo, **options):
    connection = await TrioConnection.connect(conninfo, **options)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def connection(database):
    async with connected(database) as connection:
        yield connection


@pytest.fixture
async def other(database):
    async with connected(database) as connection:
        yield connection


async def value(connection, query, *parameters):
    return (await (await connection.execute(query, parameters or None)).fetchone())[0]


async def running(other, connection):
    """What the server says that `connection` is doing."""
    query = "select state from pg_stat_activity where pid = %s"
    return await value(other, query, connection.info.backend_pid)


async def until(condition):
    with trio.fail_after(5):
        while not await condition():
            await trio.sleep(0.005)


async def test_cancelled_query_is_cancelled_on_the_server_and_connection_is_usable(connection, other):
    with trio.fail_after(10), trio.move_on_after(0.1) as scope:
        await connection.execute("select pg_sleep(60)")

    assert scope.cancelled_caught
    assert await running(other, connection) == "idle"
    assert is_reusable(connection)
    assert await value(connection, "select 1") == 1


async def test_cancelled_query_whose_server_does_not_answer_closes_the_connection(database, monkeypatch):
    monkeypatch.setattr(driver, "CANCEL_SECONDS", 0.1)
    async with trio.open_nursery() as nursery:
        proxy = await nursery.start(serve_proxy, socket_path(database))
        async with connected(through(database, proxy.port)) as connection:
            with trio.move_on_after(0.2):
                proxy.frozen = True
                await connection.execute("select 1")
            assert connection.closed
        nursery.cancel_scope.cancel()


async def test_cancellation_inside_a_transaction_leaves_no_open_transaction(connection, other):
    await connection.execute("create table kept (n int)")
    with trio.move_on_after(0.1):
        async with connection.transaction():
            await connection.execute("insert into kept values (1)")
            await connection.execute("select pg_sleep(60)")

    assert is_reusable(connection)
    assert await running(other, connection) == "idle"
    await connection.execute("insert into kept values (2)")
    assert await value(other, "select array_agg(n) from kept") == [2]


async def test_cancellation_between_statements_of_a_transaction_rolls_back(connection, other):
    await connection.execute("create table kept (n int)")
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("insert into kept values (1)")
            scope.cancel()
            await trio.lowlevel.checkpoint()

    assert is_reusable(connection)
    assert await value(other, "select count(*) from kept") == 0


async def test_cancellation_that_meets_the_commit_does_not_undo_it(connection, other):
    await connection.execute("create table kept (n int)")
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("insert into kept values (1)")
            scope.cancel()

    assert is_reusable(connection)
    assert await value(other, "select count(*) from kept") == 1


async def test_cancellation_of_begin_leaves_no_open_transaction(connection):
    with trio.CancelScope() as scope:
        scope.cancel()
        async with connection.transaction():
            raise AssertionError("the block must not be entered")

    assert is_reusable(connection)
    async with connection.transaction():
        assert await value(connection, "select 1") == 1


async def insert_and_fail(connection):
    async with connection.transaction():
        await connection.execute("insert into kept values (2)")
        await connection.execute("select 1/0")


async def test_nested_transactions_are_savepoints(connection):
    await connection.execute("create table kept (n int)")
    async with connection.transaction():
        await connection.execute("insert into kept values (1)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await insert_and_fail(connection)
        async with connection.transaction():
            await connection.execute("insert into kept values (3)")

    assert await value(connection, "select array_agg(n order by n) from kept") == [1, 3]


async def test_cancelled_nested_transaction_keeps_the_outer_one(connection):
    await connection.execute("create table kept (n int)")
    async with connection.transaction():
        await connection.execute("insert into kept values (1)")
        with trio.move_on_after(0.1):
            async with connection.transaction():
                await connection.execute("insert into kept values (2)")
                await connection.execute("select pg_sleep(60)")

    assert await value(connection, "select array_agg(n) from kept") == [1]


async def test_two_tasks_on_one_connection_take_turns(connection):
    answers = []

    async def ask(n):
        answers.append(await value(connection, "select %s + 0 * length(pg_sleep(0.02)::text)", n))

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(ask, n)

    assert sorted(answers) == [0, 1, 2, 3, 4]


async def test_cancelling_one_of_two_tasks_on_a_connection_leaves_the_other_alone(connection):
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as waiting:
            nursery.start_soon(value, connection, "select 1 from pg_sleep(0.1)")
            await trio.testing.wait_all_tasks_blocked()
            waiting.cancel()
            await connection.execute("select 2")

    assert waiting.cancelled_caught
    assert await value(connection, "select 3") == 3


async def test_terminated_backend_is_an_operational_error(connection, other):
    async with trio.open_nursery() as nursery:

        async def sleep():
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("select pg_sleep(60)")

        nursery.start_soon(sleep)

        async def asleep():
            return await running(other, connection) == "active"

        await until(asleep)
        await other.execute("select pg_terminate_backend(%s)", (connection.info.backend_pid,))

    assert not is_reusable(connection)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("select 1")


async def test_closing_wakes_the_task_that_waits_on_the_connection(connection):
    async with trio.open_nursery() as nursery:

        async def sleep():
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("select pg_sleep(60)")

        nursery.start_soon(sleep)
        await trio.testing.wait_all_tasks_blocked()
        await connection.close()


async def test_cancelled_connect_to_a_silent_server_hangs_up(silent_server):
    server, port = silent_server
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def connect():
            with scope:
                await TrioConnection.connect(f"host=127.0.0.1 port={port} user=u dbname=d sslmode=disable")

        nursery.start_soon(connect)
        stream, _ = await server.accept()
        assert await stream.recv(1000)
        scope.cancel()
        with trio.fail_after(1):
            while await stream.recv(1000):
                pass
        stream.close()


async def test_connect_to_a_silent_server_times_out(silent_server):
    _, port = silent_server
    start = trio.current_time()
    with pytest.raises(psycopg.errors.ConnectionTimeout, match=str(port)):
        await TrioConnection.connect(f"host=127.0.0.1 port={port} user=u dbname=d connect_timeout=2")
    assert trio.current_time() - start < 3


async def test_connect_skips_a_dead_first_host(database, free_port):
    dead = free_port
    async with trio.open_nursery() as nursery:
        proxy = await nursery.start(serve_proxy, socket_path(database))
        params = {**conninfo_to_dict(database), "host": "127.0.0.1,localhost", "port": f"{dead},{proxy.port}"}
        async with connected(make_conninfo(**params, target_session_attrs="read-write")) as connection:
            assert await value(connection, "select 1") == 1
        nursery.cancel_scope.cancel()


async def test_connect_skips_a_host_that_is_read_only(database):
    params = conninfo_to_dict(database)
    async with connected(database) as admin:
        read_only = psycopg.sql.SQL("alter database {} set default_transaction_read_only = on")
        await admin.execute(read_only.format(psycopg.sql.Identifier(params["dbname"])))

    two_hosts = {**params, "host": f"{params['host']},{params['host']}", "target_session_attrs": "read-write"}
    with pytest.raises(psycopg.OperationalError, match="no host accepted"):
        await TrioConnection.connect(make_conninfo(**two_hosts))


async def test_connect_names_every_host_that_failed(free_port):
    conninfo = f"host=127.0.0.1,nowhere.invalid,127.0.0.1 port={free_port} user=u dbname=d"
    with pytest.raises(psycopg.OperationalError) as caught:
        await TrioConnection.connect(conninfo)
    assert str(caught.value).count("refused") == 2
    assert "nowhere.invalid" in str(caught.value)


async def test_pipeline_mode_answers_in_order(connection):
    async with connection.pipeline() as pipeline:
        first = await connection.execute("select 1")
        second = await connection.execute("select 2")
        await pipeline.sync()
        assert [await first.fetchone(), await second.fetchone()] == [(1,), (2,)]
    assert is_reusable(connection)


async def test_cancelled_pipeline_is_not_reusable_or_is_clean(connection):
    with trio.move_on_after(0.1):
        async with connection.pipeline():
            await connection.execute("select 1")
            cursor = await connection.execute("select pg_sleep(60)")
            await cursor.fetchone()

    if is_reusable(connection):
        assert await value(connection, "select 1") == 1


@pytest.mark.no_cover  # measuring coverage doubles the time of everything
async def test_executemany_of_5000_rows_is_fast(connection):
    await connection.execute("create table kept (n int)")
    start = time.process_time()
    async with connection.cursor() as cursor, connection.transaction():
        await cursor.executemany("insert into kept values (%s)", [(n,) for n in range(5000)])
    # A trip through the scheduler for every row would cost about a second.
    assert time.process_time() - start < 0.5
    assert await value(connection, "select count(*) from kept") == 5000


async def test_copy_in_and_out(connection):
    await connection.execute("create table kept (n int, text text)")
    rows = [(n, "x" * 1000) for n in range(5000)]
    async with connection.cursor() as cursor:
        async with cursor.copy("copy kept from stdin") as copy:
            for row in rows:
                await copy.write_row(row)
        async with cursor.copy("copy kept to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert [row async for row in copy.rows()] == rows
    assert is_reusable(connection)


async def test_cancelled_copy_leaves_nothing_behind(connection, other):
    await connection.execute("create table kept (n int)")
    with trio.CancelScope() as scope:
        async with connection.cursor() as cursor, cursor.copy("copy kept from stdin") as copy:
            await copy.write_row((1,))
            scope.cancel()
            await trio.lowlevel.checkpoint()

    assert await value(other, "select count(*) from kept") == 0
    if is_reusable(connection):
        assert await value(connection, "select 1") == 1


async def test_cancelled_stream_leaves_the_connection_usable(connection):
    with trio.CancelScope() as scope:
        async with connection.cursor() as cursor:
            async with aclosing(cursor.stream("select generate_series(1, 100000)")) as rows:
                async for (n,) in rows:
                    if n == 10:
                        scope.cancel()
                        await trio.lowlevel.checkpoint()

    if is_reusable(connection):
        assert await value(connection, "select 1") == 1


async def test_large_statement_and_large_answer_do_not_block_each_other(connection):
    payload = "x" * 8_000_000
    assert await value(connection, "select %s::text", payload) == payload


async def test_busy_connection_lets_other_tasks_run(connection):
    await connection.execute("create table kept (n int)")
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        async with connection.cursor() as cursor, cursor.copy("copy kept from stdin") as copy:
            for n in range(20_000):
                await copy.write_row((n,))
        nursery.cancel_scope.cancel()
    assert turns > 3


async def test_notifications_during_a_query_are_kept(connection, other):
    await connection.execute("listen news")
    await other.execute("notify news, 'one'")
    await connection.execute("select 1")
    async with aclosing(connection.notifies(timeout=2, stop_after=1)) as notifications:
        assert [each.payload async for each in notifications] == ["one"]


async def test_ten_thousand_queries_leak_nothing(connection, database):
    async def ask(times):
        for n in range(times):
            assert await value(connection, "select %s", n) == n

    await ask(200)
    before = usage()
    await ask(10_000)
    for _ in range(50):
        async with connected(database) as brief:
            with trio.move_on_after(0.001):
                await brief.execute("select pg_sleep(1)")
    after = usage()
    assert after[0] == before[0]
    assert after[1] - before[1] < 8 << 20


def usage():
    """Open descriptors, and resident bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(list(Path("/proc/self/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE")


# A TCP front for the server's Unix socket, which can stop passing anything on.


class Proxy:
    def __init__(self, port):
        self.port = port
        self.frozen = False


async def serve_proxy(path, *, task_status):
    listener = trio.socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    proxy = Proxy(listener.getsockname()[1])
    async with trio.open_nursery() as nursery:
        task_status.started(proxy)
        with listener:
            while True:
                client, _ = await listener.accept()
                nursery.start_soon(forward, proxy, client, path)


async def forward(proxy, client, path):
    server = trio.socket.socket(socket.AF_UNIX)
    with client, server:
        await server.connect(path)
        async with trio.open_nursery() as nursery:

            async def pump(source, sink):
                while data := await source.recv(65536):
                    if proxy.frozen:
                        await trio.sleep_forever()
                    await sink.send(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, client, server)
            nursery.start_soon(pump, server, client)


def socket_path(conninfo):
    params = conninfo_to_dict(conninfo)
    return f"{params['host']}/.s.PGSQL.{params['port']}"


def through(conninfo, port):
    return make_conninfo(**{**conninfo_to_dict(conninfo), "host": "127.0.0.1", "port": port})


@pytest.fixture
async def silent_server():
    server = trio.socket.socket(socket.AF_INET)
    with server:
        await server.bind(("127.0.0.1", 0))
        server.listen()
        yield server, server.getsockname()[1]


@pytest.fixture
def free_port():
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
