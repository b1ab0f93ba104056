"""Everything that needs a database works behind a real PgBouncer in transaction mode, the oldest that Debian has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import structlog.testing
import trio
from psycopg import errors as e
from psycopg.conninfo import conninfo_to_dict

from gateway.config import Settings
from gateway.daemon.checkup import describe_way
from gateway.daemon.database import DatabaseAddress, open_migrated
from gateway.daemon.services import _connect_listener
from gateway.errors import ConfigError, StoreUnavailable
from gateway.postgres import listen
from gateway.postgres import pool as pools
from gateway.postgres.driver import TrioConnection
from gateway.postgres.listen import run_listener
from gateway.postgres.migrate import migrate_down, migrate_up, pending
from gateway.postgres.pool import Pool, open_pool
from gateway.postgres.session import open_session
from support.database import fresh_database
from support.lease_postgres import PostgresLeaseRows
from support.lease_suite import LeaseStoreSuite
from support.oldest import Pooler, pooler_before


@dataclass(frozen=True)
class Ways:
    """Two ways to one database: through the pooler, and past it."""

    through: str
    past: str

    @property
    def both(self) -> DatabaseAddress:
        return DatabaseAddress(self.through, self.past)


@pytest.fixture
def ways(pooler: Pooler, oldest_database: str) -> Ways:
    return Ways(pooler.to(str(conninfo_to_dict(oldest_database)["dbname"])), oldest_database)


@pytest.fixture
async def through_pool(ways: Ways) -> AsyncIterator[Pool]:
    async with open_pool(ways.through, size_max=20) as pool:
        yield pool


async def test_session_through_the_pooler_is_recognised_and_one_past_it_is_not(ways: Ways) -> None:
    async with await open_session(ways.through) as connection:
        assert (connection.pooled, connection.prepare_threshold) == (True, None)
    async with await open_session(ways.past) as connection:
        assert (connection.pooled, connection.prepare_threshold) == (False, 5)


async def test_statements_under_concurrency_are_right_in_whatever_session_they_run(through_pool: Pool) -> None:
    seen: set[int] = set()

    async def work(number: int) -> None:
        for _ in range(20):
            async with through_pool.connection() as connection:
                query = "select %s::int, current_setting('timezone'), current_setting('datestyle'), pg_backend_pid()"
                row = await (await connection.execute(query, (number,))).fetchone()
                assert row is not None
                assert row[:3] == (number, "UTC", "ISO, MDY")
                seen.add(row[3])

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
    assert len(seen) > 1
    assert through_pool.discards == 0


async def test_settings_of_ours_do_not_reach_other_clients_of_the_pooler(ways: Ways, through_pool: Pool) -> None:
    async with through_pool.connection() as connection:
        await connection.execute("select 1")
    kept = {"application_name", "client_encoding", "DateStyle", "standard_conforming_strings", "TimeZone"}
    async with await TrioConnection.connect(ways.through) as stranger:
        cursor = await stranger.execute("select name from pg_settings where source = 'session' order by 1")
        assert {name for (name,) in await cursor.fetchall()} <= kept


async def test_statement_without_end_is_cancelled_although_the_session_has_no_limit(ways: Ways) -> None:
    async with open_pool(ways.through, size_max=1, statement_timeout_seconds=0.2) as pool:
        with pytest.raises(StoreUnavailable, match=r"cancelled, because it took more than 0\.2 s"):
            async with pool.connection() as connection:
                await connection.execute("select pg_sleep(60)")
        async with pool.connection() as connection:
            await connection.execute("select 1")
    async with await open_session(ways.past) as connection:
        running = (
            "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
            " and state = 'active'"
        )
        with trio.fail_after(5):
            while await (await connection.execute(running)).fetchone() != (0,):
                await trio.sleep(0.02)


async def test_setting_that_the_pooler_does_not_keep_is_named_at_the_start(ways: Ways) -> None:
    name = conninfo_to_dict(ways.past)["dbname"]
    async with await TrioConnection.connect(ways.past) as connection:
        await connection.execute(f"alter database {name} set default_transaction_isolation = 'serializable'".encode())
    words = (
        "default_transaction_isolation = serializable does not work: `alter role gateway set default_transaction_iso"
    )
    with pytest.raises(ConfigError, match=words):
        await pending(ways.through)
    assert await pending(ways.past) == []


async def test_migrations_run_through_the_pooler_under_their_lock(pooler: Pooler, oldest_postgres: str) -> None:
    async with fresh_database(oldest_postgres, template="template0") as past:
        through = pooler.to(str(conninfo_to_dict(past)["dbname"]))
        done: list[str] = []

        async def up() -> None:
            done.extend(await migrate_up(through))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(up)
            nursery.start_soon(up)
        assert len(done) == len(set(done)) == len(await pending(past)) + len(done)
        assert await migrate_down(through) == done[-1:]
        assert await pending(past) == done[-1:]


class TestLeasesBehindThePooler(LeaseStoreSuite):
    @pytest.fixture
    def leases(self, through_pool: Pool) -> PostgresLeaseRows:
        return PostgresLeaseRows(through_pool)


# --- poolers that do not show themselves ------------------------------------------------------------------------------


async def test_pooler_that_looks_like_a_server_is_noticed_by_its_first_stray_statement(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deceived(conninfo: str, *, pooled: bool = False, **_: Any) -> TrioConnection[Any]:
        connection: TrioConnection[Any]
        connection = await TrioConnection.connect(conninfo, prepare_threshold=None if pooled else 0)
        connection.pooled = pooled
        return connection

    monkeypatch.setattr(pools, "open_session", deceived)
    failures: list[StoreUnavailable] = []
    async with open_pool(ways.through, size_max=10) as pool:

        async def work(number: int) -> None:
            for _ in range(20):
                try:
                    async with pool.connection() as connection:
                        await connection.execute("select %s::int", (number,))
                except StoreUnavailable as error:
                    failures.append(error)

        async def work_together() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(work, number)

        await work_together()
        strays = (e.DuplicatePreparedStatement, e.InvalidSqlStatementName)
        assert failures
        assert all(isinstance(each.__cause__, strays) for each in failures)
        failures.clear()
        await work_together()
        assert not failures


# --- notifications ----------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """Callbacks that note what they hear, by channel and payload."""

    calls: list[tuple[str, str]] = field(default_factory=list)

    def callbacks(self, *channels: str) -> dict[str, Callable[[str], None]]:
        return {channel: partial(self._hear, channel) for channel in channels}

    def _hear(self, channel: str, payload: str) -> None:
        self.calls.append((channel, payload))

    async def until(self, channel: str, payload: str, *, times: int = 1) -> None:
        with trio.fail_after(10):
            while self.calls.count((channel, payload)) < times:
                await trio.sleep(0.01)


async def test_notifications_arrive_past_the_pooler(ways: Ways, through_pool: Pool, nursery: trio.Nursery) -> None:
    heard = Heard()
    await nursery.start(partial(run_listener, partial(_connect_listener, ways.both), heard.callbacks("one")))
    assert heard.calls == [("one", "")]
    async with through_pool.connection() as connection:
        await connection.execute("select pg_notify('one', 'told')")
    await heard.until("one", "told")


async def test_without_a_way_past_the_pooler_everything_is_looked_at_again_and_again(
    ways: Ways, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(listen, "RARE_POLL_SECONDS", 0.2)
    monkeypatch.setattr(listen, "POLLING_SECONDS", 0.5)
    heard, connect = Heard(), partial(_connect_listener, DatabaseAddress(ways.through))
    with structlog.testing.capture_logs() as logs:
        await nursery.start(partial(run_listener, connect, heard.callbacks("often", "rare"), rarely={"rare"}))
        await heard.until("rare", "", times=6)
    assert heard.calls.count(("often", "")) > 2 * heard.calls.count(("rare", ""))
    (told,) = [each for each in logs if each["event"] == "notifications_unavailable"]
    assert told["because"] == "database_url leads to a connection pooler: set database_direct_url"


# --- the start, and the doctor's words --------------------------------------------------------------------------------


async def opened(ways: Ways, direct: str | None) -> str:
    given = {"database_url": ways.through, **({"database_direct_url": direct} if direct else {})}
    async with open_migrated(Settings.model_validate(given), attach=True) as address:
        return await describe_way(address, embedded=False)


async def test_doctor_tells_which_way_leads_to_the_database(ways: Ways) -> None:
    assert (await opened(ways, None)).startswith("reachable through a connection pooler, which passes no notifications")
    assert await opened(ways, ways.past) == (
        "reachable through database_url, and through database_direct_url for notifications and migrations"
    )
    assert await describe_way(DatabaseAddress(ways.past), embedded=False) == "reachable"


async def test_direct_url_of_another_database_is_refused(ways: Ways, oldest_postgres: str, database: str) -> None:
    async with fresh_database(oldest_postgres) as elsewhere:
        for other in (elsewhere, database):
            with pytest.raises(ConfigError, match=r"^database_direct_url: leads to schema public of database test_"):
                await opened(ways, other)


async def test_direct_url_through_a_pooler_is_taken_only_if_sessions_last(ways: Ways, oldest_postgres: str) -> None:
    with pytest.raises(ConfigError, match=r"^database_direct_url: leads to a pooler that gives a session to one trans"):
        await opened(ways, ways.through)
    with pooler_before(oldest_postgres, mode="session") as lasting:
        past = lasting.to(str(conninfo_to_dict(ways.past)["dbname"]))
        assert "notifications and migrations" in await opened(ways, past)


async def test_way_past_the_pooler_with_a_typing_error_is_named(ways: Ways) -> None:
    with pytest.raises(ConfigError, match=r"^database_direct_url: the port"):
        await opened(ways, ways.past.replace("port=5432", "port=70000"))
