"""Two platforms that have nothing in common but the contract, each served by the real daemon.

One pushes over a socket and keeps idempotency keys. Its sibling is polled, keeps no keys, and has edits in place of
cards.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
import trio

from gateway.channel.errors import PlatformUnavailable
from gateway.postgres.pool import Pool
from support.toy.channels import POLL_SECONDS
from support.toy.daemon import InnerDaemon, ToyBot, add_toy_bot, inner_daemon
from support.toy.kinds import PLAIN, POLLED, ToyKind
from support.toy.platform import EDIT, PLACEHOLDER, ToyPlatform, never_answering, open_toy_platform, raising
from support.world import Runtime, World, open_runtime, open_world

PASSWORD = "not-a-real-password"


@dataclass
class Served:
    """A platform of one kind with one bot, and what daemons of a test serve."""

    world: World
    platform: ToyPlatform
    kind: ToyKind
    bot: ToyBot

    @property
    def is_polled(self) -> bool:
        return self.kind is POLLED

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[InnerDaemon]:
        async with inner_daemon(self.world, self.platform, kinds=[self.kind], besides=[]) as daemon:
            yield daemon

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[Runtime]:
        """A daemon that hears, and a runtime for its agent."""
        async with self.daemon() as daemon:
            await self.until_heard()
            async with open_runtime(self.world, daemon) as runtime:
                await runtime.post("/api/runtimes/register", {"name": "machine"})
                yield runtime

    async def until_heard(self, *, by: int = 1) -> None:
        """Wait until the bot's updates are being received, in all by so many processes."""
        if self.is_polled:
            await self.platform.until_polled(self.bot.handle, nodes=by)
        else:
            await self.platform.until_linked(self.bot.handle, links=by)

    async def until_state(self, state: str) -> None:
        await self.world.until(
            "select count(*) = 1 from channel_connection where installation_id = %s and state = %s", self.bot.id, state
        )

    async def age_doubt(self) -> None:
        """By now the chat shows what was sent, if it was."""
        await self.world.rows(
            "update outbound_message set last_attempt_at = now() - interval '2 minutes', available_at = now()"
        )
        await self.world.rows("select pg_notify('gateway_outbound', %s)", str(self.bot.id))


@asynccontextmanager
async def open_served(world: World, kind: ToyKind) -> AsyncIterator[Served]:
    with trio.fail_after(100):
        async with open_toy_platform(key_seconds=kind.traits.key_seconds, limits=kind.traits.limits) as platform:
            bot = await add_toy_bot(world, platform, kind)
            await bot.bind("ada")
            yield Served(world, platform, kind, bot)


@pytest.fixture
async def world(database: str, pool: Pool, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(database, pool, tmp_path) as world:
        yield world


@pytest.fixture(params=[PLAIN, POLLED], ids=lambda kind: kind.slug)
async def served(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with open_served(world, request.param) as served:
        yield served


@pytest.fixture
async def polled(world: World) -> AsyncIterator[Served]:
    async with open_served(world, POLLED) as served:
        yield served


# both


async def test_message_is_one_run_and_one_answer_however_often_it_is_delivered(served: Served) -> None:
    platform, bot = served.platform, served.bot
    async with served.runtime() as runtime:
        said = platform.write("ada", bot.handle, "good morning")
        task = await runtime.answer("good morning to you")
        await platform.until_settled(said, bot.handle)
        platform.redeliver(said, bot.handle)
        await platform.until_settled(said, bot.handle, 2)
        await platform.until_answered("~ada")
        await served.world.until("select count(*) = 1 from outbound_message where status = 'sent'")
    assert [message["text"] for message in task["messages"]] == ["good morning"]
    assert [(each.text, each.author, each.look) for each in platform.answers("~ada")] == [
        ("good morning to you", bot.handle, "plain")
    ]
    assert await served.world.contents() == ["good morning"]


async def test_stranger_is_asked_to_bind_binds_and_is_answered(served: Served) -> None:
    world, platform, bot = served.world, served.platform, served.bot
    async with served.runtime() as runtime, httpx2.AsyncClient(trust_env=False) as browser:
        platform.write("eve", bot.handle, "zanzibar let me in")
        (question,) = await platform.until_answered("~eve")
        found = re.search(r"(http://\S+)/lark/bind\?token=([\w-]{43})", question.text)
        assert found
        browser.base_url, browser.headers["Origin"] = httpx2.URL(found[1]), found[1]
        await world.directory.add_member(
            world.workspace, await world.directory.add_user("eve@example.invalid", "Eve", PASSWORD)
        )
        page = await browser.get("/lark/bind", params={"token": found[2]})
        assert served.kind.traits.titles["en"] in page.text
        await browser.post("/api/auth/login", json={"email": "eve@example.invalid", "password": PASSWORD})
        bound = await browser.post("/api/lark/binding/redeem", json={"token": found[2]})
        assert (bound.status_code, bound.json()["installation_id"]) == (200, str(bot.id))
        platform.write("eve", bot.handle, "it is me")
        await runtime.answer("welcome")
        assert [answer.text for answer in await platform.until_answered("~eve", 2)][1] == "welcome"
    assert "zanzibar" not in await world.everything_stored()


async def test_message_that_another_process_works_on_comes_again(served: Served) -> None:
    world, platform, bot = served.world, served.platform, served.bot
    await world.rows(
        "insert into channel_inbound_message_dedup (installation_id, message_id, claim_token) values (%s, 'om_x', %s)",
        bot.id,
        uuid4(),
    )
    async with served.daemon():
        said = platform.write("ada", bot.handle, "first", id="om_x")
        await platform.until(lambda: platform.deliveries[bot.handle, said.id] >= 2)
        assert platform.settled[bot.handle, said.id] == 0
        await world.until("select count(*) = 1 from channel_connection where degraded_until > now()")
        await world.rows("delete from channel_inbound_message_dedup where message_id = 'om_x'")
        await platform.until_settled(said, bot.handle)
    assert await world.contents() == ["first"]


@pytest.mark.parametrize("delivered", [True, False])
async def test_lost_answer_is_said_once(served: Served, delivered: bool) -> None:
    """By its key, or where no keys are kept by a look into the chat."""
    world, platform = served.world, served.platform
    (platform.after if delivered else platform.before)["surely"].append(never_answering)
    async with served.runtime() as runtime:
        platform.write("ada", served.bot.handle, "say it")
        await runtime.answer("surely")
        if served.is_polled:
            in_doubt = "select count(*) = 1 from outbound_message where error like '%%result of the last attempt%%'"
            await world.until(in_doubt, seconds=20)
            assert (len(platform.answers("~ada")), len(platform.calls)) == (int(delivered), 1)
            await served.age_doubt()
        await world.until("select status = 'sent' from outbound_message", seconds=20)
    assert [answer.text for answer in platform.answers("~ada")] == ["surely"]
    assert len(platform.reads) == int(served.is_polled)


async def test_stopped_daemon_hands_over_at_once_and_nothing_is_lost_or_said_twice(served: Served) -> None:
    world, platform, bot = served.world, served.platform, served.bot
    async with served.daemon() as daemon:
        await served.until_heard()
        async with served.daemon() as heir, open_runtime(world, heir) as runtime:
            await world.until("select count(*) > 0 from channel_connection where state = 'live'")
            platform.write("ada", bot.handle, "before")
            await world.until("select count(*) = 1 from chat_message")
            stopped_at = trio.current_time()
            daemon.stop.set()
            said = platform.write("ada", bot.handle, "meanwhile")
            await served.until_heard(by=2)
            assert trio.current_time() - stopped_at < POLL_SECONDS / 5
            platform.write("ada", bot.handle, "after")
            await platform.until_settled(said, bot.handle)
            await world.until("select count(*) = 3 from chat_message where role = 'user'")
            await runtime.answer("all of it")
            await platform.until_answered("~ada")
            await world.until("select status = 'sent' from outbound_message")
    assert await world.contents() == ["before", "meanwhile", "after"]
    assert [answer.text for answer in platform.answers("~ada")] == ["all of it"]


async def test_daemon_that_is_cut_off_is_replaced(served: Served) -> None:
    async with served.daemon():
        await served.until_heard()
    said = served.platform.write("ada", served.bot.handle, "anybody?")
    async with served.daemon():
        await served.platform.until_settled(said, served.bot.handle)
    assert await served.world.contents() == ["anybody?"]


async def test_platform_that_goes_offline_is_shown_and_what_waited_is_said_and_heard_afterwards(served: Served) -> None:
    world, platform, bot = served.world, served.platform, served.bot
    async with served.runtime() as runtime:
        platform.write("ada", bot.handle, "say it")
        task = await runtime.claim()
        await runtime.report(task, "start")
        platform.go_offline()
        await served.until_state("connecting")
        shown = "select detail like '%%offline%%' from channel_connection where installation_id = %s"
        assert await world.value(shown, bot.id)
        await runtime.report(task, "complete", output="at last")
        said = platform.write("ada", bot.handle, "still there?")
        assert platform.answers("~ada") == []
        platform.come_back()
        await platform.until_answered("~ada", seconds=40)
        await platform.until_settled(said, bot.handle)
        await served.until_state("live")
    assert [answer.text for answer in platform.answers("~ada")] == ["at last"]


async def test_platform_that_is_offline_from_the_start_is_served_when_it_comes(served: Served) -> None:
    served.platform.go_offline()
    said = served.platform.write("ada", served.bot.handle, "hello")
    async with served.daemon():
        await served.world.until("select count(*) = 1 from channel_connection where detail like '%%offline%%'")
        served.platform.come_back()
        await served.platform.until_settled(said, served.bot.handle, seconds=40)


async def test_wrong_secret_is_shown_and_the_right_one_connects(served: Served) -> None:
    served.platform.secrets[served.bot.handle] = "another"
    async with served.daemon():
        await served.until_state("refused")
        await served.bot.rotate("rotated")
        await served.until_heard()
        await served.until_state("live")


# what only the sibling is


async def test_lost_answer_where_nothing_can_be_read_is_unknown_and_never_said_again(polled: Served) -> None:
    world, platform = polled.world, polled.platform
    platform.readable = False
    platform.before["surely"].append(never_answering)
    async with polled.runtime() as runtime:
        platform.write("ada", polled.bot.handle, "say it")
        await runtime.answer("surely")
        await world.until("select count(*) = 1 from outbound_message where error like '%%result of the last%%'")
        await polled.age_doubt()
        await world.until("select status = 'unknown' from outbound_message", seconds=20)
        platform.write("ada", polled.bot.handle, "and now?")
        await runtime.answer("now")
        await platform.until_answered("~ada")
    assert [call.text for call in platform.calls] == ["surely", "now"]


async def test_long_poll_is_ended_by_the_hand_over_and_never_runs_beside_another(polled: Served) -> None:
    async with polled.daemon() as daemon:
        first = await polled.platform.until_polled(polled.bot.handle)
        async with polled.daemon():
            daemon.stop.set()
            await polled.until_heard(by=2)
            assert first.outcome == "cancelled"
    assert polled.platform.breaches == []  # Two polls at a time would be one.
    assert {poll.outcome for poll in polled.platform.polls} == {"cancelled"}


async def test_sign_is_a_placeholder_that_becomes_the_answer_by_an_edit(polled: Served) -> None:
    platform = polled.platform
    async with polled.runtime() as runtime:
        said = platform.write("ada", polled.bot.handle, "think")
        task = await runtime.claim()
        await platform.until(lambda: platform.texts("~ada") == [PLACEHOLDER])
        await runtime.report(task, "start")
        await runtime.report(task, "complete", output="thought")
        await platform.until_answered("~ada")
        await polled.world.until("select status = 'sent' from outbound_message")
    assert platform.texts("~ada") == ["thought"]
    (answer,) = platform.answers("~ada")
    assert (answer.reply_to, answer.edits) == (said.id, [PLACEHOLDER, ""])
    sent = "select channel_message_id from outbound_message"
    assert await polled.world.value(sent) == answer.id


async def test_sign_that_does_not_go_in_time_leaves_the_answer_a_message_of_its_own(polled: Served) -> None:
    platform = polled.platform
    async with polled.runtime() as runtime:
        platform.write("ada", polled.bot.handle, "think")
        task = await runtime.claim()
        await platform.until(lambda: platform.texts("~ada") == [PLACEHOLDER])
        platform.before[EDIT].append(raising(PlatformUnavailable("away")))
        await runtime.report(task, "start")
        await runtime.report(task, "complete", output="thought")
        await platform.until_answered("~ada")
        await platform.until(lambda: platform.texts("~ada") == ["thought"])
    assert [answer.edits for answer in platform.answers("~ada")] == [[]]


async def test_declared_limits_are_kept(polled: Served) -> None:
    platform = polled.platform
    async with polled.runtime() as runtime:
        platform.write("ada", polled.bot.handle, "tell me everything")
        await runtime.answer("x" * 7500)
        await platform.until_answered("~ada", 8, seconds=30)
    assert [len(answer.text) for answer in platform.answers("~ada")] == [1000] * 7 + [500]
    assert platform.throttled == 0
    assert platform.call_times[-1] - platform.call_times[0] > 2
