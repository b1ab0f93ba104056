"""A platform that nobody foresaw, served beside Lark: everything of the gateway is there for it without a line changed.

The daemon is the real one, as a task of the test, on a real database and over real HTTP. The platform is in memory.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import trio

from gateway.channel.errors import PlatformRefused
from gateway.core.replies import WORDS, Reply
from gateway.keyring import KeyRing, generate_key, open_config
from gateway.postgres.pool import Pool
from gateway.postgres.secret_store import secret_tables
from gateway.work.secrets import rotate_secrets
from support.processes import free_address
from support.toy.daemon import InnerDaemon, ToyBot, add_toy_bot, inner_daemon
from support.toy.kinds import FULL
from support.toy.platform import ToyPlatform, never_answering, open_toy_platform, raising, wall_clock
from support.world import Runtime, World, open_runtime, open_world

PASSWORD = "not-a-real-password"
TWENTY_MINUTES = 1200.0


@pytest.fixture
async def world(database: str, pool: Pool, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(database, pool, tmp_path) as world:
        yield world


@pytest.fixture
async def platform() -> AsyncIterator[ToyPlatform]:
    with trio.fail_after(100):
        async with open_toy_platform() as platform:
            yield platform


@pytest.fixture
async def bot(world: World, platform: ToyPlatform) -> ToyBot:
    bot = await add_toy_bot(world, platform)
    await bot.bind("ada")
    return bot


@pytest.fixture
async def daemon(world: World, platform: ToyPlatform, bot: ToyBot) -> AsyncIterator[InnerDaemon]:
    async with inner_daemon(world, platform) as daemon:
        await platform.until_linked(bot.handle)
        yield daemon


@pytest.fixture
async def runtime(world: World, daemon: InnerDaemon) -> AsyncIterator[Runtime]:
    async with open_runtime(world, daemon) as runtime:
        await runtime.post("/api/runtimes/register", {"name": "machine"})
        yield runtime


async def test_message_becomes_a_run_and_the_run_one_answer(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    said = platform.write("ada", bot.handle, "good morning")
    task = await runtime.answer("good morning to you")
    (answer,) = await platform.until_answered("~ada")
    assert (answer.text, answer.author, answer.look) == ("good morning to you", bot.handle, "plain")
    assert [message["text"] for message in task["messages"]] == ["good morning"]
    await platform.until_settled(said, bot.handle)
    platform.redeliver(said, bot.handle)
    await platform.until_settled(said, bot.handle, 2)
    await bot.world.until("select count(*) = 1 from outbound_message where status = 'sent'")
    assert len(platform.answers("~ada")) == 1
    assert await bot.world.contents() == ["good morning"]


async def test_lark_and_the_other_answer_side_by_side_also_where_all_ids_are_the_same(
    world: World, platform: ToyPlatform, daemon: InnerDaemon, runtime: Runtime
) -> None:
    lark = await world.add_bot("Lark Echo")
    ada = await lark.bind("Ada")
    await lark.connected()
    twin = await add_toy_bot(world, platform, handle=lark.app.app_id)
    await twin.bind("ada")
    await platform.until_linked(twin.handle)
    said = world.sim.say(ada, lark.app, "over lark")
    await runtime.answer("to lark")
    await world.answers(said.message.chat_id)
    platform.write("ada", twin.handle, "over the other", id=said.message.message_id)
    await runtime.answer("to the other")
    (answer,) = await platform.until_answered("~ada")
    assert answer.text == "to the other"
    assert len(world.sim.sent(said.message.chat_id)) == 1
    claims = "select installation_id from channel_inbound_message_dedup where message_id = %s"
    assert {row[0] for row in await world.rows(claims, said.message.message_id)} == {lark.id, twin.id}
    types = "select channel_type from channel_chat_session_binding order by 1"
    assert await world.rows(types) == [("feishu",), ("toy",)]


async def redeem(world: World, daemon: InnerDaemon, question: str) -> tuple[str, str, httpx2.Response]:
    """Eve joins, signs in, opens the link and follows it: its token, the page, and the answer to the redemption."""
    found = re.search(r"/lark/bind\?token=([\w-]{43})", question)
    assert found
    await world.directory.add_member(
        world.workspace, await world.directory.add_user("eve@example.invalid", "Eve", PASSWORD)
    )
    async with httpx2.AsyncClient(base_url=daemon.url, trust_env=False, headers={"Origin": daemon.url}) as browser:
        page = await browser.get("/lark/bind", params={"token": found[1]})
        await browser.post("/api/auth/login", json={"email": "eve@example.invalid", "password": PASSWORD})
        return found[1], page.text, await browser.post("/api/lark/binding/redeem", json={"token": found[1]})


async def test_stranger_is_asked_to_bind_binds_and_is_answered(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon, runtime: Runtime
) -> None:
    said = platform.write("eve", bot.handle, "zanzibar let me in")
    await platform.until_settled(said, bot.handle)
    (question,) = await platform.until_answered("~eve")
    token, page, bound = await redeem(world, daemon, question.text)
    assert "Toy" in page
    assert (bound.status_code, bound.json()["installation_id"]) == (200, str(bot.id))
    platform.write("eve", bot.handle, "it is me")
    await runtime.answer("welcome")
    assert [answer.text for answer in await platform.until_answered("~eve", 2)][1] == "welcome"
    kept = await world.everything_stored()
    assert "it is me" in kept
    assert "zanzibar" not in kept
    assert token not in kept


async def test_room_that_does_not_address_the_bot_is_left_alone(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    said = platform.write_in_group("ada", "#garden", "zanzibar among us", heard_by=bot.handle)
    await platform.until_settled(said, bot.handle)
    assert await bot.count("channel_inbound_audit", "drop_reason = 'not_addressed_in_group'") == 1
    assert "zanzibar" not in await bot.world.everything_stored()
    platform.write_in_group("ada", "#garden", "you there", heard_by=bot.handle, to=bot.handle)
    await runtime.answer("here")
    (answer,) = await platform.until_answered("#garden")
    assert answer.text == "here"


async def test_issue_is_filed_and_confirmed_in_the_room_it_came_from(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    platform.write("ada", bot.handle, "/issue Water the roses\nevery evening")
    (told,) = await platform.until_answered("~ada")
    assert told.text.startswith("Created ACM-1: Water the roses")
    rows = "select title, description, assignee_id from issue"
    assert await bot.world.rows(rows) == [("Water the roses", "every evening", bot.agent.id)]
    task = await runtime.claim()
    assert task["kind"] == "issue"


async def test_new_begins_a_conversation_anew(platform: ToyPlatform, bot: ToyBot, runtime: Runtime) -> None:
    platform.write("ada", bot.handle, "one")
    await runtime.answer("first")
    platform.write("ada", bot.handle, "/new two")
    task = await runtime.answer("second")
    assert [message["text"] for message in task["messages"]] == ["two"]
    assert await bot.world.value("select max(context_generation) from agent_task") == 1
    assert [answer.text for answer in await platform.until_answered("~ada", 2)] == ["first", "second"]


async def test_command_that_came_late_waits_for_confirmation(
    platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon
) -> None:
    platform.write("ada", bot.handle, "/issue Old roses", at=wall_clock() - TWENTY_MINUTES)
    (asked,) = await platform.until_answered("~ada")
    assert "/confirm" in asked.text
    assert await bot.world.value("select count(*) from issue") == 0
    platform.write("ada", bot.handle, "/confirm")
    assert (await platform.until_answered("~ada", 2))[1].text.startswith("Created ACM-1: Old roses")


async def test_agent_that_nobody_runs_says_so_once(platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon) -> None:
    await bot.world.rows("update agent set runtime_id = null where id = %s", bot.agent.id)
    platform.write("ada", bot.handle, "anybody home?")
    (told,) = await platform.until_answered("~ada")
    assert told.text.startswith("I kept your message")


async def test_run_that_fails_for_good_is_one_visible_failure(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    platform.write("ada", bot.handle, "try this")
    task = await runtime.claim()
    await runtime.report(task, "start")
    await runtime.report(task, "fail", error="secret detail", failure_reason="agent_blocked")
    (told,) = await platform.until_answered("~ada")
    assert "secret detail" not in told.text
    await bot.world.until("select kind = 'error' and status = 'sent' from outbound_message")


async def test_long_answer_is_one_message_where_nobody_registered_how_to_divide(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    words = "roses\n\n" * 40_000
    platform.write("ada", bot.handle, "tell me everything")
    await runtime.answer(words)
    (answer,) = await platform.until_answered("~ada")
    assert answer.text.strip() == words.strip()


async def test_refused_message_is_recorded_and_told_and_a_lost_one_is_said_once(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    platform.before["never"].append(raising(PlatformRefused("muted", code=3)))
    platform.after["surely"].append(never_answering)
    platform.write("ada", bot.handle, "first")
    await runtime.answer("never")
    await bot.world.until("select count(*) = 1 from outbound_message where status = 'failed'")
    platform.write("ada", bot.handle, "second")
    await runtime.answer("surely")
    await bot.world.until("select count(*) = 2 from outbound_message where status = 'sent'")
    assert await bot.world.value("select attempts from outbound_message where content = 'surely'") > 1
    refused = WORDS["en"][Reply.ANSWER_UNDELIVERED]
    assert [answer.text for answer in platform.answers("~ada")] == [refused, "surely"]


async def test_stopped_daemon_hands_the_bot_over_and_nothing_is_lost(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon
) -> None:
    async with inner_daemon(world, platform) as heir:
        platform.write("ada", bot.handle, "before")
        await world.until("select count(*) = 1 from chat_message")
        daemon.stop.set()
        said = platform.write("ada", bot.handle, "meanwhile")
        await platform.until_linked(bot.handle, links=2)
        platform.write("ada", bot.handle, "after")
        await platform.until_settled(said, bot.handle)
        await world.until("select count(*) = 3 from chat_message where role = 'user'")
        assert await world.contents() == ["before", "meanwhile", "after"]
        async with open_runtime(world, heir) as runtime:
            await runtime.answer("all of it")
            await platform.until_answered("~ada")
        assert len(platform.answers("~ada")) == 1
    assert [link.open for link in platform.links].count(True) == 0


async def test_daemon_that_is_cut_off_is_replaced(world: World, platform: ToyPlatform, bot: ToyBot) -> None:
    async with inner_daemon(world, platform):
        await platform.until_linked(bot.handle)
    said = platform.write("ada", bot.handle, "anybody?")
    async with inner_daemon(world, platform):
        await platform.until_settled(said, bot.handle)


async def test_wrong_secret_is_shown_and_the_right_one_connects(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon
) -> None:
    platform.secrets[bot.handle] = "another"
    await bot.configure(gate="south")
    shown = "select count(*) = 1 from channel_connection where installation_id = %s and state = 'refused' and code = 7"
    await world.until(shown, bot.id)
    await bot.rotate("rotated")
    link = await platform.until_linked(bot.handle, links=2)
    assert link.secret == "rotated"


async def test_key_rotation_finds_the_secrets_of_every_platform_and_restarts_nothing(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon
) -> None:
    newest = generate_key()
    ring = KeyRing.parse(f"{newest},{world.key}")
    rotation = await rotate_secrets(secret_tables(world.pool), ring, lambda *_: None)
    assert rotation.troubles == []
    (config,) = (await world.rows("select config from channel_installation"))[0]
    assert open_config(config, KeyRing.parse(newest), bot.id)["secret"] == "fake"
    assert len(platform.links) == 1


async def test_link_is_made_anew_for_what_the_platform_calls_identity_and_for_nothing_else(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon
) -> None:
    await bot.configure(region="elsewhere", bot_open_id="ou_1", colour="green")
    await add_toy_bot(world, platform, handle="@late")
    first = await platform.until_linked(bot.handle)
    await platform.until_linked("@late")  # By then the change has been seen, too.
    assert first.open
    await bot.configure(gate="south")
    link = await platform.until_linked(bot.handle, links=2)
    assert (link.raw["gate"], len(platform.links)) == ("south", 3)


async def test_platform_without_signs_lookups_or_files_leaves_no_trace_of_them(
    platform: ToyPlatform, bot: ToyBot, runtime: Runtime
) -> None:
    earlier = platform.write("ada", bot.handle, "the first")
    await runtime.answer("yes")
    platform.write("ada", bot.handle, "as I said", reply_to=earlier.id)
    task = await runtime.answer("indeed")
    assert "[unable to fetch]" in task["prompt"]
    platform.write("ada", bot.handle, "see file", files={"roses.txt": b"red"})
    task = await runtime.answer("no file")
    assert await bot.count("channel_typing") == 0
    assert await bot.world.rows("select status, error from chat_attachment") == [("failed", "bot_unavailable")]
    assert platform.typing_calls == []
    assert len(await platform.until_answered("~ada", 3)) == 3


async def test_platform_that_can_do_everything_does_it(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon, runtime: Runtime
) -> None:
    full = await add_toy_bot(world, platform, FULL, handle="@bee")
    await full.bind("ada")
    await platform.until_linked("@bee")
    aside = platform.write_in_group("cy", "#garden", "the roses are blue", heard_by="@bee")
    said = platform.write_in_group(
        "ada", "#garden", "is that so", heard_by="@bee", to="@bee", reply_to=aside.id, files={"a.txt": b"proof"}
    )
    task = await runtime.claim()
    assert "the roses are blue" in task["prompt"]
    assert "Cy" in task["prompt"]
    assert [each["bytes"] for each in task["messages"][0]["attachments"]] == [5]
    while said.id not in platform.signs:
        await trio.sleep(0.01)
    await runtime.report(task, "start")
    await runtime.report(task, "complete", output="x" * 2500)
    answers = await platform.until_answered("#garden", 3)
    assert [len(answer.text) for answer in answers] == [1000, 1000, 500]
    assert {answer.look for answer in answers} == {"card:answer"}
    assert platform.signs == {}
    assert "the roses are blue" not in await world.everything_stored()


async def test_answer_in_doubt_for_too_long_is_looked_for_where_the_platform_can_be_read(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon, runtime: Runtime
) -> None:
    full = await add_toy_bot(world, platform, FULL, handle="@bee")
    await full.bind("ada")
    await platform.until_linked("@bee")
    platform.after["surely"].append(never_answering)
    platform.write("ada", "@bee", "say it")
    await runtime.answer("surely")
    await platform.until_answered("~ada")
    await world.rows(
        "update outbound_message set first_attempt_at = now() - interval '1 hour',"
        " last_attempt_at = now() - interval '2 minutes', available_at = now()"
    )
    await world.until("select status = 'sent' from outbound_message", seconds=20)
    assert [answer.text for answer in platform.answers("~ada")] == ["surely"]


async def test_metrics_name_every_platform(world: World, platform: ToyPlatform, bot: ToyBot) -> None:
    async with inner_daemon(world, platform, **{"metrics.bind": free_address()}) as daemon:
        said = platform.write("ada", bot.handle, "count me")
        await platform.until_settled(said, bot.handle)
        async with httpx2.AsyncClient(trust_env=False) as http:
            text = (await http.get(str(daemon.ready.metrics))).text
    assert 'gateway_channel_events_total{channel="toy",outcome="ingested"} 1.0' in text
    assert 'gateway_channel_connections{channel="toy",state="live"}' in text
    assert 'gateway_channel_connections{channel="feishu",state="live"}' in text


async def test_it_is_served_where_lark_is_off(world: World, platform: ToyPlatform) -> None:
    await add_toy_bot(world, platform, handle="@open", secret="")
    await add_toy_bot(world, platform, handle="@locked")
    async with inner_daemon(world, platform, secret_key=None) as daemon:
        await platform.until_linked("@open")
        await world.until("select count(*) = 1 from channel_connection where state = 'unreadable_secret'")
        platform.write("eve", "@open", "let me in")
        (question,) = await platform.until_answered("~eve")
        _, page, bound = await redeem(world, daemon, question.text)
        assert "Lark" not in page
        assert bound.status_code == 200
        platform.write("eve", "@open", "it is me")
        async with open_runtime(world, daemon) as runtime:
            await runtime.answer("welcome")
            await platform.until_answered("~eve", 2)


async def test_lark_commands_and_pages_do_not_list_its_bots(
    world: World, platform: ToyPlatform, bot: ToyBot, daemon: InnerDaemon
) -> None:
    await world.directory.add_member(
        world.workspace, await world.directory.add_user("eve@example.invalid", "Eve", PASSWORD), "admin"
    )
    async with httpx2.AsyncClient(base_url=daemon.url, trust_env=False, headers={"Origin": daemon.url}) as browser:
        await browser.post("/api/auth/login", json={"email": "eve@example.invalid", "password": PASSWORD})
        listed = await browser.get(f"/api/workspaces/{world.workspace.slug}/lark/installations")
        assert listed.json()["installations"] == []
        path = f"/api/workspaces/{world.workspace.slug}/lark/installations/{bot.id}"
        assert (await browser.delete(path)).status_code == 404
