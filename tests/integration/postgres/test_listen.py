from functools import partial

import pytest
import trio

from gateway.postgres import listen
from gateway.postgres.driver import TrioConnection
from gateway.postgres.listen import run_listener


class Heard:
    """Callbacks that put what they hear where a test can wait for it."""

    def __init__(self, *channels):
        self._send, self._receive = trio.open_memory_channel(100)
        self.callbacks = {channel: partial(self._hear, channel) for channel in channels}

    def _hear(self, channel, payload):
        self._send.send_nowait((channel, payload))

    async def next(self):
        with trio.fail_after(5):
            return await self._receive.receive()


async def notify(pool, channel, payload):
    async with pool.connection() as connection:
        await connection.execute("select pg_notify(%s, %s)", (channel, payload))


async def test_listener_delivers_payloads_by_channel(database, pool, nursery):
    heard = Heard("one", "two")
    await nursery.start(partial(run_listener, partial(TrioConnection.connect, database), heard.callbacks))
    assert {await heard.next(), await heard.next()} == {("one", ""), ("two", "")}

    await notify(pool, "two", "a")
    await notify(pool, "one", "b")
    assert [await heard.next(), await heard.next()] == [("two", "a"), ("one", "b")]


async def test_listener_reconnects_and_says_that_anything_may_have_changed(database, pool, nursery):
    heard = Heard("one")
    await nursery.start(partial(run_listener, partial(TrioConnection.connect, database), heard.callbacks))
    assert await heard.next() == ("one", "")

    async with pool.connection() as connection:
        await connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    assert await heard.next() == ("one", "")
    await notify(pool, "one", "again")
    assert await heard.next() == ("one", "again")


async def test_listener_keeps_trying_while_the_server_is_absent(database, pool, nursery, monkeypatch):
    monkeypatch.setattr(listen, "RETRY_FIRST_SECONDS", 0.01)
    heard, failures = Heard("one"), []

    async def connect():
        if len(failures) < 3:
            failures.append(1)
            await TrioConnection.connect("host=/nonexistent user=u dbname=d")
        return await TrioConnection.connect(database)

    with trio.fail_after(5):
        await nursery.start(partial(run_listener, connect, heard.callbacks))
    assert len(failures) == 3


async def test_silent_listener_checks_its_connection_and_goes_on(database, pool, nursery, monkeypatch):
    monkeypatch.setattr(listen, "CHECK_SECONDS", 0.01)
    heard = Heard("one")
    await nursery.start(partial(run_listener, partial(TrioConnection.connect, database), heard.callbacks))
    assert await heard.next() == ("one", "")
    for n in range(50):
        await notify(pool, "one", str(n))
        assert await heard.next() == ("one", str(n))


async def test_cancelled_listener_ends_at_once_and_leaves_no_connection(database, pool, nursery):
    heard = Heard("one")
    with trio.fail_after(1):
        async with trio.open_nursery() as inner:
            await inner.start(partial(run_listener, partial(TrioConnection.connect, database), heard.callbacks))
            inner.cancel_scope.cancel()
    async with pool.connection() as connection:
        with trio.fail_after(2):
            while await listeners(connection):
                await trio.sleep(0.005)


async def listeners(connection):
    query = "select count(*) from pg_stat_activity where query like 'listen%' and datname = current_database()"
    return (await (await connection.execute(query)).fetchone())[0]


async def test_failing_callback_ends_the_listener(database):
    def fail(_payload):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await run_listener(partial(TrioConnection.connect, database), {"one": fail})
