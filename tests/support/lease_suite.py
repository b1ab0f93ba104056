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


class LeaseDesk(Protocol):
    """A store, and a hand in what is behind it."""

    store: LeaseStore

    async def add(self, channel_type: str = "feishu", config: dict[str, Any] | None = None) -> UUID: ...

    async def activate(self, installation_id: UUID, active: bool) -> None: ...

    async def orphan(self, installation_id: UUID) -> None: ...

    async def expire(self, installation_id: UUID) -> None:
        """Move the recorded expiry into the past."""

    async def lease(self, installation_id: UUID) -> tuple[str | None, int]: ...

    async def connection(self, installation_id: UUID) -> ConnectionRow | None: ...


async def granted(desk: LeaseDesk, installation_id: UUID, token: str = "a-g1") -> Tenure:
    answer = await desk.store.acquire(installation_id, token, TTL)
    assert isinstance(answer, Tenure)
    return answer


class LeaseStoreSuite:
    # listing

    async def test_list_active_gives_rows_of_the_types_asked_for(self, desk: LeaseDesk) -> None:
        wanted = await desk.add(config={"app_id": "cli_1", "region": "lark"})
        await desk.add("carrier-pigeon")
        listed = await desk.store.list_active(["feishu", "slack"])
        assert [(each.id, each.channel_type, each.config) for each in listed] == [
            (wanted, "feishu", {"app_id": "cli_1", "region": "lark"})
        ]
        assert await desk.store.list_active([]) == []

    async def test_list_active_leaves_out_revoked_rows_and_orphans(self, desk: LeaseDesk) -> None:
        await desk.activate(await desk.add(), False)
        await desk.orphan(await desk.add())
        assert await desk.store.list_active(["feishu"]) == []

    async def test_list_active_tells_how_long_a_lease_still_runs(self, desk: LeaseDesk) -> None:
        free, held, expired = await desk.add(), await desk.add(), await desk.add()
        await granted(desk, held)
        await granted(desk, expired)
        await desk.expire(expired)
        left = {each.id: each.lease_seconds for each in await desk.store.list_active(["feishu"])}
        assert (left[free], left[expired]) == (None, None)
        assert left[held] == pytest.approx(TTL, abs=2)

    # acquire

    async def test_acquire_of_a_free_lease_raises_the_epoch(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        assert (tenure.installation_id, tenure.token, tenure.epoch) == (bot, "a-g1", 1)
        assert await desk.lease(bot) == ("a-g1", 1)

    async def test_acquire_of_a_held_lease_tells_the_seconds_left(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        await granted(desk, bot)
        answer = await desk.store.acquire(bot, "b-g1", TTL)
        assert isinstance(answer, HeldElsewhere)
        assert answer.seconds == pytest.approx(TTL, abs=2)
        assert await desk.lease(bot) == ("a-g1", 1)

    async def test_acquire_of_an_expired_lease_succeeds(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        first = await granted(desk, bot)
        await desk.expire(bot)
        assert (await granted(desk, bot, "b-g1")).epoch > first.epoch

    async def test_acquire_by_the_same_token_succeeds_with_a_new_epoch(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        first = await granted(desk, bot)
        assert (await granted(desk, bot)).epoch > first.epoch

    async def test_acquire_of_a_revoked_or_missing_row_is_not_served(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        await desk.activate(bot, False)
        assert await desk.store.acquire(bot, "a-g1", TTL) == NotServed()
        assert await desk.store.acquire(uuid4(), "a-g1", TTL) == NotServed()

    async def test_acquire_by_many_at_once_is_granted_to_one(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        answers = []

        async def ask(number: int) -> None:
            answers.append(await desk.store.acquire(bot, f"n{number}-g1", TTL))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(ask, number)
        assert [type(answer) for answer in answers].count(Tenure) == 1
        assert [type(answer) for answer in answers].count(HeldElsewhere) == 7

    # renew

    async def test_renew_confirms_what_is_held_and_names_what_is_lost(self, desk: LeaseDesk) -> None:
        kept, taken, revoked, released = [await desk.add() for _ in range(4)]
        tenures = [await granted(desk, bot) for bot in (kept, taken, revoked, released)]
        await desk.expire(taken)
        await granted(desk, taken, "b-g1")
        await desk.activate(revoked, False)
        await desk.store.release(released, "a-g1", tenures[3].epoch, STANDBY)
        renewal = await desk.store.renew(tenures, TTL)
        assert renewal.confirmed == {kept}
        assert renewal.lost == {taken, revoked, released}

    async def test_renew_of_a_missing_row_is_lost(self, desk: LeaseDesk) -> None:
        missing = Tenure(uuid4(), "a-g1", 1)
        renewal = await desk.store.renew([missing], TTL)
        assert (set(renewal.confirmed), set(renewal.lost)) == (set(), {missing.installation_id})

    async def test_renew_extends_the_recorded_expiry(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        await desk.store.renew([tenure], 100)
        [listed] = await desk.store.list_active(["feishu"])
        assert listed.lease_seconds == pytest.approx(100, abs=2)

    async def test_renew_revives_an_expired_lease_that_nobody_took(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        await desk.expire(bot)
        assert (await desk.store.renew([tenure], TTL)).confirmed == {bot}
        assert isinstance(await desk.store.acquire(bot, "b-g1", TTL), HeldElsewhere)

    async def test_renew_of_an_earlier_epoch_of_the_same_token_is_lost(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        early = await granted(desk, bot)
        await granted(desk, bot)
        assert (await desk.store.renew([early], TTL)).lost == {bot}

    # release

    async def test_release_frees_the_lease_and_keeps_the_last_word(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        refused = LinkHealth(ConnectionState.REFUSED, 514, "forbidden")
        assert await desk.store.release(bot, "a-g1", tenure.epoch, refused) is True
        token, epoch = await desk.lease(bot)
        assert token is None
        assert epoch > tenure.epoch
        said = await desk.connection(bot)
        assert said is not None
        assert (said.state, said.code, said.detail, said.node) == ("refused", 514, "forbidden", "")
        await granted(desk, bot, "b-g1")

    async def test_release_that_comes_late_changes_nothing_for_the_successor(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        old = await granted(desk, bot)
        await desk.expire(bot)
        await granted(desk, bot, "b-g2")
        before = await desk.lease(bot)
        assert await desk.store.release(bot, "a-g1", old.epoch, STANDBY) is False
        assert await desk.store.release(bot, "a-g1", None, STANDBY) is False
        assert await desk.lease(bot) == before
        assert await desk.connection(bot) is None

    async def test_release_of_an_earlier_epoch_of_the_same_token_changes_nothing(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        early = await granted(desk, bot)
        late = await granted(desk, bot)
        assert await desk.store.release(bot, "a-g1", early.epoch, STANDBY) is False
        assert await desk.lease(bot) == ("a-g1", late.epoch)

    async def test_release_without_an_epoch_ends_whatever_the_token_has(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        await granted(desk, bot)
        assert await desk.store.release(bot, "a-g1", None, STANDBY) is True
        assert (await desk.lease(bot))[0] is None

    async def test_release_twice_is_releasing_once(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        assert await desk.store.release(bot, "a-g1", tenure.epoch, STANDBY) is True
        assert await desk.store.release(bot, "a-g1", tenure.epoch, STANDBY) is False

    async def test_release_of_a_revoked_row_says_revoked(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        await desk.activate(bot, False)
        assert await desk.store.release(bot, "a-g1", tenure.epoch, STANDBY) is True
        said = await desk.connection(bot)
        assert said is not None
        assert said.state == "revoked"

    # connection state

    async def test_record_stores_what_holders_report(self, desk: LeaseDesk) -> None:
        bots = [await desk.add() for _ in range(3)]
        tenures = [await granted(desk, bot) for bot in bots]
        deaf = LinkHealth(ConnectionState.DEAF, 0, "no frame for 100 s", pong_ms=1.5)
        await desk.store.record("node", [(tenures[0], LIVE), (tenures[1], deaf), (tenures[2], LIVE)])
        said = [await desk.connection(bot) for bot in bots]
        assert [(row.state, row.detail, row.node, row.epoch) for row in said if row is not None] == [
            ("live", "", "node", 1),
            ("deaf", "no frame for 100 s", "node", 1),
            ("live", "", "node", 1),
        ]

    async def test_record_of_a_tenure_that_ended_changes_nothing(self, desk: LeaseDesk) -> None:
        lost, released = await desk.add(), await desk.add()
        stale = [await granted(desk, lost), await granted(desk, released)]
        await desk.expire(lost)
        current = await granted(desk, lost, "b-g1")
        await desk.store.record("b", [(current, LIVE)])
        await desk.store.release(released, "a-g1", stale[1].epoch, STANDBY)
        await desk.store.record("a", [(tenure, LinkHealth(ConnectionState.DEAF)) for tenure in stale])
        kept = [await desk.connection(bot) for bot in (lost, released)]
        assert [(row.state, row.node) for row in kept if row is not None] == [("live", "b"), ("standby", "")]

    async def test_mark_speaks_for_a_bot_that_nobody_holds(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        assert await desk.store.mark(bot, ConnectionState.UNREADABLE_SECRET, "no key") is True
        said = await desk.connection(bot)
        assert said is not None
        assert (said.state, said.detail) == ("unreadable_secret", "no key")
        tenure = await granted(desk, bot)
        await desk.store.record("node", [(tenure, LIVE)])
        said = await desk.connection(bot)
        assert said is not None
        assert said.state == "live"

    async def test_mark_never_overwrites_a_holder(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        tenure = await granted(desk, bot)
        await desk.store.record("node", [(tenure, LIVE)])
        assert await desk.store.mark(bot, ConnectionState.STANDBY, "") is False
        said = await desk.connection(bot)
        assert said is not None
        assert said.state == "live"
        await desk.expire(bot)
        assert await desk.store.mark(bot, ConnectionState.STANDBY, "") is True

    async def test_mark_as_revoked_is_for_revoked_rows_alone(self, desk: LeaseDesk) -> None:
        bot = await desk.add()
        assert await desk.store.mark(bot, ConnectionState.REVOKED, "") is False
        await desk.activate(bot, False)
        assert await desk.store.mark(bot, ConnectionState.UNREADABLE_SECRET, "") is False
        assert await desk.store.mark(bot, ConnectionState.REVOKED, "") is True
