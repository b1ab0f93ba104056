"""What a lease store promises, whichever is behind it. Run from tests/simulation and tests/integration."""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest
import trio

from gateway.channel.channel import ConnectionState, LinkHealth
from gateway.supervisor.ports import HeldElsewhere, LeaseStore, NotServed, Tenure
from support.lease_memory import ConnectionRow

TTL = 15.0
LIVE = LinkHealth(ConnectionState.LIVE)
STANDBY = LinkHealth(ConnectionState.STANDBY)


class LeaseRows(Protocol):
    """A store, and a hand in what is behind it."""

    store: LeaseStore

    async def add(self, channel_type: str = "feishu", config: dict[str, Any] | None = None) -> UUID: ...

    async def activate(self, installation_id: UUID, active: bool) -> None: ...

    async def orphan(self, installation_id: UUID) -> None: ...

    async def expire(self, installation_id: UUID) -> None:
        """Move the recorded expiry into the past."""

    async def lease(self, installation_id: UUID) -> tuple[str | None, int]: ...

    async def connection(self, installation_id: UUID) -> ConnectionRow | None: ...


async def granted(leases: LeaseRows, installation_id: UUID, token: str = "a-g1") -> Tenure:
    answer = await leases.store.acquire(installation_id, token, TTL)
    assert isinstance(answer, Tenure)
    return answer


class LeaseStoreSuite:
    # listing

    async def test_list_active_gives_rows_of_the_types_asked_for(self, leases: LeaseRows) -> None:
        wanted = await leases.add(config={"app_id": "cli_1", "region": "lark"})
        await leases.add("carrier-pigeon")
        listed = await leases.store.list_active(["feishu", "slack"])
        assert [(each.id, each.channel_type, each.config) for each in listed] == [
            (wanted, "feishu", {"app_id": "cli_1", "region": "lark"})
        ]
        assert await leases.store.list_active([]) == []

    async def test_list_active_leaves_out_revoked_rows_and_orphans(self, leases: LeaseRows) -> None:
        await leases.activate(await leases.add(), False)
        await leases.orphan(await leases.add())
        assert await leases.store.list_active(["feishu"]) == []

    async def test_list_active_tells_how_long_a_lease_still_runs(self, leases: LeaseRows) -> None:
        free, held, expired = await leases.add(), await leases.add(), await leases.add()
        await granted(leases, held)
        await granted(leases, expired)
        await leases.expire(expired)
        left = {each.id: each.lease_seconds for each in await leases.store.list_active(["feishu"])}
        assert (left[free], left[expired]) == (None, None)
        assert left[held] == pytest.approx(TTL, abs=2)

    # acquire

    async def test_acquire_of_a_free_lease_raises_the_epoch(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        assert (tenure.installation_id, tenure.token, tenure.epoch) == (bot, "a-g1", 1)
        assert await leases.lease(bot) == ("a-g1", 1)

    async def test_acquire_of_a_held_lease_tells_the_seconds_left(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        await granted(leases, bot)
        answer = await leases.store.acquire(bot, "b-g1", TTL)
        assert isinstance(answer, HeldElsewhere)
        assert answer.seconds == pytest.approx(TTL, abs=2)
        assert await leases.lease(bot) == ("a-g1", 1)

    async def test_acquire_of_an_expired_lease_succeeds(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        first = await granted(leases, bot)
        await leases.expire(bot)
        assert (await granted(leases, bot, "b-g1")).epoch > first.epoch

    async def test_acquire_by_the_same_token_succeeds_with_a_new_epoch(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        first = await granted(leases, bot)
        assert (await granted(leases, bot)).epoch > first.epoch

    async def test_acquire_of_a_revoked_or_missing_row_is_not_served(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        await leases.activate(bot, False)
        assert await leases.store.acquire(bot, "a-g1", TTL) == NotServed()
        assert await leases.store.acquire(uuid4(), "a-g1", TTL) == NotServed()

    async def test_acquire_by_many_at_once_is_granted_to_one(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        answers = []

        async def ask(number: int) -> None:
            answers.append(await leases.store.acquire(bot, f"n{number}-g1", TTL))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ask, number)
        assert [type(answer) for answer in answers].count(Tenure) == 1
        assert [type(answer) for answer in answers].count(HeldElsewhere) == 7

    # renew

    async def test_renew_confirms_what_is_held_and_names_what_is_lost(self, leases: LeaseRows) -> None:
        kept, taken, revoked, released = [await leases.add() for _ in range(4)]
        tenures = [await granted(leases, bot) for bot in (kept, taken, revoked, released)]
        await leases.expire(taken)
        await granted(leases, taken, "b-g1")
        await leases.activate(revoked, False)
        await leases.store.release(released, "a-g1", tenures[3].epoch, STANDBY)
        renewal = await leases.store.renew(tenures, TTL)
        assert renewal.confirmed == {kept}
        assert renewal.lost == {taken, revoked, released}

    async def test_renew_of_a_missing_row_is_lost(self, leases: LeaseRows) -> None:
        missing = Tenure(uuid4(), "a-g1", 1)
        renewal = await leases.store.renew([missing], TTL)
        assert (set(renewal.confirmed), set(renewal.lost)) == (set(), {missing.installation_id})

    async def test_renew_extends_the_recorded_expiry(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        await leases.store.renew([tenure], 100)
        [listed] = await leases.store.list_active(["feishu"])
        assert listed.lease_seconds == pytest.approx(100, abs=2)

    async def test_renew_revives_an_expired_lease_that_nobody_took(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        await leases.expire(bot)
        assert (await leases.store.renew([tenure], TTL)).confirmed == {bot}
        assert isinstance(await leases.store.acquire(bot, "b-g1", TTL), HeldElsewhere)

    async def test_renew_of_an_earlier_epoch_of_the_same_token_is_lost(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        early = await granted(leases, bot)
        await granted(leases, bot)
        assert (await leases.store.renew([early], TTL)).lost == {bot}

    # release

    async def test_release_frees_the_lease_and_keeps_the_last_word(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        refused = LinkHealth(ConnectionState.REFUSED, 514, "forbidden")
        assert await leases.store.release(bot, "a-g1", tenure.epoch, refused) is True
        token, epoch = await leases.lease(bot)
        assert token is None
        assert epoch > tenure.epoch
        said = await leases.connection(bot)
        assert said is not None
        assert (said.state, said.code, said.detail, said.node) == ("refused", 514, "forbidden", "")
        await granted(leases, bot, "b-g1")

    async def test_release_that_comes_late_changes_nothing_for_the_successor(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        old = await granted(leases, bot)
        await leases.expire(bot)
        await granted(leases, bot, "b-g2")
        before = await leases.lease(bot)
        assert await leases.store.release(bot, "a-g1", old.epoch, STANDBY) is False
        assert await leases.store.release(bot, "a-g1", None, STANDBY) is False
        assert await leases.lease(bot) == before
        assert await leases.connection(bot) is None

    async def test_release_of_an_earlier_epoch_of_the_same_token_changes_nothing(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        early = await granted(leases, bot)
        late = await granted(leases, bot)
        assert await leases.store.release(bot, "a-g1", early.epoch, STANDBY) is False
        assert await leases.lease(bot) == ("a-g1", late.epoch)

    async def test_release_without_an_epoch_ends_whatever_the_token_has(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        await granted(leases, bot)
        assert await leases.store.release(bot, "a-g1", None, STANDBY) is True
        assert (await leases.lease(bot))[0] is None

    async def test_release_twice_is_releasing_once(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        assert await leases.store.release(bot, "a-g1", tenure.epoch, STANDBY) is True
        assert await leases.store.release(bot, "a-g1", tenure.epoch, STANDBY) is False

    async def test_release_of_a_revoked_row_says_revoked(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        await leases.activate(bot, False)
        assert await leases.store.release(bot, "a-g1", tenure.epoch, STANDBY) is True
        said = await leases.connection(bot)
        assert said is not None
        assert said.state == "revoked"

    # connection state

    async def test_record_stores_what_holders_report(self, leases: LeaseRows) -> None:
        bots = [await leases.add() for _ in range(3)]
        tenures = [await granted(leases, bot) for bot in bots]
        deaf = LinkHealth(ConnectionState.DEAF, 0, "no frame for 100 s", pong_ms=1.5)
        await leases.store.record("node", [(tenures[0], LIVE), (tenures[1], deaf), (tenures[2], LIVE)])
        said = [await leases.connection(bot) for bot in bots]
        assert [(row.state, row.detail, row.node, row.epoch) for row in said if row is not None] == [
            ("live", "", "node", 1),
            ("deaf", "no frame for 100 s", "node", 1),
            ("live", "", "node", 1),
        ]

    async def test_record_of_a_tenure_that_ended_changes_nothing(self, leases: LeaseRows) -> None:
        lost, released = await leases.add(), await leases.add()
        stale = [await granted(leases, lost), await granted(leases, released)]
        await leases.expire(lost)
        current = await granted(leases, lost, "b-g1")
        await leases.store.record("b", [(current, LIVE)])
        await leases.store.release(released, "a-g1", stale[1].epoch, STANDBY)
        await leases.store.record("a", [(tenure, LinkHealth(ConnectionState.DEAF)) for tenure in stale])
        kept = [await leases.connection(bot) for bot in (lost, released)]
        assert [(row.state, row.node) for row in kept if row is not None] == [("live", "b"), ("standby", "")]

    async def test_mark_speaks_for_a_bot_that_nobody_holds(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        assert await leases.store.mark(bot, ConnectionState.UNREADABLE_SECRET, "no key") is True
        said = await leases.connection(bot)
        assert said is not None
        assert (said.state, said.detail) == ("unreadable_secret", "no key")
        tenure = await granted(leases, bot)
        await leases.store.record("node", [(tenure, LIVE)])
        said = await leases.connection(bot)
        assert said is not None
        assert said.state == "live"

    async def test_mark_never_overwrites_a_holder(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        tenure = await granted(leases, bot)
        await leases.store.record("node", [(tenure, LIVE)])
        assert await leases.store.mark(bot, ConnectionState.STANDBY, "") is False
        said = await leases.connection(bot)
        assert said is not None
        assert said.state == "live"
        await leases.expire(bot)
        assert await leases.store.mark(bot, ConnectionState.STANDBY, "") is True

    async def test_mark_as_revoked_is_for_revoked_rows_alone(self, leases: LeaseRows) -> None:
        bot = await leases.add()
        assert await leases.store.mark(bot, ConnectionState.REVOKED, "") is False
        await leases.activate(bot, False)
        assert await leases.store.mark(bot, ConnectionState.UNREADABLE_SECRET, "") is False
        assert await leases.store.mark(bot, ConnectionState.REVOKED, "") is True
