"""The lease store on a real Postgres: the promises of every lease store, and those that only a database can break."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing

from gateway.channel.channel import DEGRADED_SECONDS, ConnectionState, LinkHealth
from gateway.postgres.driver import TrioConnection
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.lease_store import PostgresLeaseStore
from gateway.postgres.listen import run_listener
from gateway.postgres.pool import Pool, open_pool
from gateway.supervisor.ports import HeldElsewhere, Tenure
from support.lease_postgres import PostgresLeaseRows
from support.lease_suite import LIVE, STANDBY, TTL, LeaseStoreSuite, granted


@pytest.fixture
def leases(pool: Pool) -> PostgresLeaseRows:
    return PostgresLeaseRows(pool)


class TestPostgresLeaseStore(LeaseStoreSuite):
    pass


async def test_renew_passes_over_a_row_that_somebody_has_locked(leases: PostgresLeaseRows, database: str) -> None:
    locked, free = await leases.add(), await leases.add()
    tenures = [await granted(leases, locked), await granted(leases, free)]
    async with await TrioConnection.connect(database, autocommit=True) as conn:
        async with conn.transaction():
            await conn.execute("select from channel_installation where id = %s for update", (locked,))
            with trio.fail_after(5):
                renewal = await leases.store.renew(tenures, TTL)
        assert (renewal.confirmed, renewal.lost) == ({free}, frozenset())
    assert (await leases.store.renew(tenures, TTL)).confirmed == {locked, free}


async def test_renew_of_two_thousand_leases_is_one_statement(leases: PostgresLeaseRows) -> None:
    await leases.execute(
        "insert into channel_installation (id, workspace_id, agent_id, channel_type, config, ws_lease_token,"
        " lease_epoch, ws_lease_expires_at) select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'feishu',"
        " jsonb_build_object('app_id', n), 'a-g' || n, n, now() from generate_series(1, 2000) n"
    )
    rows = await leases.execute("select id, ws_lease_token, lease_epoch from channel_installation")
    renewal = await leases.store.renew([Tenure(*row) for row in rows], TTL)
    assert len(renewal.confirmed) == 2000


async def test_leases_that_are_asked_for_together_wait_for_no_locked_row(
    leases: PostgresLeaseRows, database: str
) -> None:
    locked, held, *free = [await leases.add() for _ in range(50)]
    await granted(leases, held, "other-g1")
    answers: dict[UUID, Any] = {}

    async def acquire(bot: UUID) -> None:
        answers[bot] = await leases.store.acquire(bot, f"{bot}-g1", TTL)

    async with await TrioConnection.connect(database, autocommit=True) as conn, trio.open_nursery() as nursery:
        async with conn.transaction():
            await conn.execute("select from channel_installation where id = %s for update", (locked,))
            for bot in (locked, held, *free):
                nursery.start_soon(acquire, bot)
            with trio.fail_after(5):
                while len(answers) < len(free) + 1:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert locked not in answers
    assert isinstance(answers.pop(held), HeldElsewhere)
    assert answers == {bot: Tenure(bot, f"{bot}-g1", 1) for bot in (locked, *free)}


async def test_leases_that_are_released_together_wait_for_no_locked_row(
    leases: PostgresLeaseRows, database: str
) -> None:
    locked, *free = [await leases.add() for _ in range(50)]
    tenures = [await granted(leases, bot) for bot in (locked, *free)]
    done: list[bool] = []

    async def release(tenure: Tenure) -> None:
        done.append(await leases.store.release(tenure.installation_id, tenure.token, tenure.epoch, STANDBY))

    async with await TrioConnection.connect(database, autocommit=True) as conn, trio.open_nursery() as nursery:
        async with conn.transaction():
            await conn.execute("select from channel_installation where id = %s for update", (locked,))
            for tenure in tenures:
                nursery.start_soon(release, tenure)
            with trio.fail_after(5):
                while len(done) < len(free):
                    await trio.testing.wait_all_tasks_blocked(0.01)
            [[held]] = await leases.execute(
                "select count(*) from channel_installation where ws_lease_token is not null"
            )
            assert held == 1
            epochs = await leases.execute(
                "select distinct lease_epoch from channel_installation where id <> %s", locked
            )
            assert epochs == [(tenures[0].epoch + 1,)]
    assert done == [True] * 50


async def test_release_announces_the_installation(leases: PostgresLeaseRows, database: str) -> None:
    bot = await leases.add()
    tenure = await granted(leases, bot)
    heard_send, heard = trio.open_memory_channel[str](10)

    async def connect() -> TrioConnection[Any]:
        return await TrioConnection.connect(database, autocommit=True)

    async with trio.open_nursery() as nursery:
        await nursery.start(run_listener, connect, {"gateway_lease": heard_send.send_nowait})
        with trio.fail_after(10):
            assert await heard.receive() == ""
            await leases.store.release(bot, "late", tenure.epoch, STANDBY)
            await leases.store.release(bot, "a-g1", tenure.epoch, STANDBY)
            assert await heard.receive() == str(bot)
        nursery.cancel_scope.cancel()


async def test_leases_and_connection_states_announce_no_change_of_the_installation(
    leases: PostgresLeaseRows, database: str
) -> None:
    bot = await leases.add()
    heard_send, heard = trio.open_memory_channel[str](10)

    async def connect() -> TrioConnection[Any]:
        return await TrioConnection.connect(database, autocommit=True)

    async with trio.open_nursery() as nursery:
        await nursery.start(run_listener, connect, {"gateway_installation": heard_send.send_nowait})
        with trio.fail_after(10):
            assert await heard.receive() == ""
            tenure = await granted(leases, bot)
            await leases.store.renew([tenure], TTL)
            await leases.store.record("node", [(tenure, LIVE)])
            await leases.store.release(bot, "a-g1", tenure.epoch, STANDBY)
            await leases.activate(bot, False)
            assert await heard.receive() == str(bot)
        assert heard.statistics().current_buffer_used == 0
        nursery.cancel_scope.cancel()


async def test_record_keeps_earlier_times_and_stores_what_a_text_column_can(leases: PostgresLeaseRows) -> None:
    bot = await leases.add()
    tenure = await granted(leases, bot)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    await leases.store.record("n", [(tenure, LinkHealth(ConnectionState.LIVE, last_frame_at=at, pong_ms=2.5))])
    odd = LinkHealth(ConnectionState.CONNECTING, 1 << 40, "nul \x00 and half \ud800 of a pair" + "x" * 1000)
    await leases.store.record("n", [(tenure, odd)])
    [row] = await leases.execute(
        "select last_frame_at, pong_ms, code, left(detail, 23), length(detail) from channel_connection"
    )
    assert row == (at, None, 1 << 40, "nul  and half ? of a pa", 499)


async def test_degraded_is_shown_of_what_hears_and_is_over_by_the_clock_of_the_database(
    leases: PostgresLeaseRows, pool: Pool
) -> None:
    async def shown() -> tuple[str, bool]:
        [view] = await PostgresInstallationStore(pool).list()
        return view.state, view.degraded

    bot = await leases.add()
    tenure = await granted(leases, bot)
    health = LinkHealth(ConnectionState.LIVE)
    await leases.store.record("n", [(tenure, health)])
    assert await shown() == ("live", False)
    health.asked_again_at = trio.current_time() - DEGRADED_SECONDS / 2
    await leases.store.record("n", [(tenure, health)])
    assert await shown() == ("live", True)
    [(left,)] = await leases.execute(
        "select extract(epoch from degraded_until - now())::float8 from channel_connection"
    )
    assert 0 < left <= DEGRADED_SECONDS / 2
    # A holder that has not refused anything itself does not take the word of the one before it back.
    await leases.store.record("n", [(tenure, LinkHealth(ConnectionState.LIVE))])
    assert await shown() == ("live", True)
    await leases.store.record("n", [(tenure, LinkHealth(ConnectionState.CONNECTING))])
    assert await shown() == ("connecting", False)
    await leases.store.record("n", [(tenure, LinkHealth(ConnectionState.LIVE))])
    await leases.execute("update channel_connection set degraded_until = now()")
    assert await shown() == ("live", False)


async def test_renew_does_not_queue_behind_requests_for_leases_that_somebody_has_locked(
    leases: PostgresLeaseRows, database: str
) -> None:
    """The daemon's lease pool has two connections; two locked rows must not cost it all its other leases."""
    locked = [await leases.add() for _ in range(5)]
    held = await granted(leases, await leases.add())
    async with open_pool(database, size_max=2) as small, await TrioConnection.connect(database) as conn:
        store = PostgresLeaseStore(small)
        async with trio.open_nursery() as nursery, conn.transaction():
            await conn.execute("select from channel_installation where id = any(%s) for update", (locked,))
            for installation_id in locked:
                nursery.start_soon(store.acquire, installation_id, "b-g1", TTL)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(3):
                assert (await store.renew([held], TTL)).confirmed == {held.installation_id}


@pytest.mark.parametrize("code", [2**63, -(10**30)])
async def test_record_of_a_code_that_is_no_bigint_fails_for_no_bot(leases: PostgresLeaseRows, code: int) -> None:
    odd, other = await granted(leases, await leases.add()), await granted(leases, await leases.add())
    refused = LinkHealth(ConnectionState.REFUSED, code, "no")
    await leases.store.record("n", [(odd, refused), (other, LIVE)])
    assert await leases.execute("select state, code from channel_connection order by state") == [
        ("live", 0),
        ("refused", 0),
    ]
    assert await leases.store.release(odd.installation_id, odd.token, odd.epoch, refused)
