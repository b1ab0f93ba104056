"""A platform that nobody foresaw, served beside Lark: everything of the gateway is there for it without a line changed.

The daemon is the real one, as a task of the test, on a real database and over real HTTP. The town is in memory.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import trio

from gateway.core.replies import WORDS, Reply
from gateway.keyring import KeyRing, generate_key, open_config
from gateway.postgres.pool import Pool
from gateway.postgres.secret_store import secret_tables
from gateway.simulator.server import open_simulator
from gateway.work.secrets import rotate_secrets
from support.processes import free_address
from support.toy_platform import FULL, keyless_toy
from support.toy_town import Town, open_town
from support.toy_world import InnerDaemon, ToyBot, add_toy_bot, inner_daemon
from support.world import Runtime, World, open_runtime

PASSWORD = "not-a-real-password"
TWENTY_MINUTES = 1200.0


@pytest.fixture
async def world(database: str, pool: Pool, tmp_path: Path) -> AsyncIterator[World]:
    async with open_simulator(redelivery_scale=1000.0) as simulator:
        world = World(database, pool, simulator, tmp_path)
        await world.settle()
        yield world


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    with trio.fail_after(100):
        async with open_town() as town:
            yield town


@pytest.fixture
async def bot(world: World, town: Town) -> ToyBot:
    bot = await add_toy_bot(world, town)
    await bot.bind("ada")
    return bot


@pytest.fixture
async def daemon(world: World, town: Town, bot: ToyBot) -> AsyncIterator[InnerDaemon]:
    async with inner_daemon(world, town) as daemon:
        await town.until_visited(bot.handle)
        yield daemon


@pytest.fixture
async def runtime(world: World, daemon: InnerDaemon) -> AsyncIterator[Runtime]:
    async with open_runtime(world, daemon) as runtime:
        await runtime.post("/api/runtimes/register", {"name": "machine"})
        yield runtime


async def test_message_becomes_a_run_and_the_run_one_answer(town: Town, bot: ToyBot, runtime: Runtime) -> None:
    said = town.whisper("ada", bot.handle, "good morning")
    task = await runtime.answer("good morning to you")
    (answer,) = await town.until_answered("~ada")
    assert (answer.text, answer.author, answer.looks) == ("good morning to you", bot.handle, "plain")
    assert [message["text"] for message in task["messages"]] == ["good morning"]
    await town.until_settled(said, bot.handle)
    town.repeat(said, bot.handle)
    await town.until_settled(said, bot.handle, 2)
    await bot.world.until("select count(*) = 1 from outbound_message where status = 'sent'")
    assert len(town.answers("~ada")) == 1
    assert await bot.world.contents() == ["good morning"]


async def test_lark_and_the_town_answer_side_by_side_also_where_all_ids_are_the_same(
    world: World, town: Town, daemon: InnerDaemon, runtime: Runtime
) -> None:
    lark = await world.add_bot("Lark Echo")
    ada = await lark.bind("Ada")
    await lark.connected()
    twin = await add_toy_bot(world, town, handle=lark.app.app_id)
    await twin.bind("ada")
    await town.until_visited(twin.handle)
    said = world.sim.say(ada, lark.app, "over lark")
    await runtime.answer("to lark")
    await world.answers(said.message.chat_id)
    town.whisper("ada", twin.handle, "over the town", number=said.message.message_id)
    await runtime.answer("to the town")
    (answer,) = await town.until_answered("~ada")
    assert answer.text == "to the town"
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
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon, runtime: Runtime
) -> None:
    said = town.whisper("eve", bot.handle, "zanzibar let me in")
    await town.until_settled(said, bot.handle)
    (question,) = await town.until_answered("~eve")
    token, page, bound = await redeem(world, daemon, question.text)
    assert "Toy Town" in page
    assert (bound.status_code, bound.json()["installation_id"]) == (200, str(bot.id))
    town.whisper("eve", bot.handle, "it is me")
    await runtime.answer("welcome")
    assert [answer.text for answer in await town.until_answered("~eve", 2)][1] == "welcome"
    kept = await world.everything_stored()
    assert "it is me" in kept
    assert "zanzibar" not in kept
    assert token not in kept


async def test_room_that_does_not_address_the_bot_is_left_alone(town: Town, bot: ToyBot, runtime: Runtime) -> None:
    said = town.shout("ada", "#garden", "zanzibar among us", heard_by=bot.handle)
    await town.until_settled(said, bot.handle)
    assert await bot.count("channel_inbound_audit", "drop_reason = 'not_addressed_in_group'") == 1
    assert "zanzibar" not in await bot.world.everything_stored()
    town.shout("ada", "#garden", "you there", heard_by=bot.handle, to=bot.handle)
    await runtime.answer("here")
    (answer,) = await town.until_answered("#garden")
    assert answer.text == "here"


async def test_issue_is_filed_and_confirmed_in_the_room_it_came_from(town: Town, bot: ToyBot, runtime: Runtime) -> None:
    town.whisper("ada", bot.handle, "/issue Water the roses\nevery evening")
    (told,) = await town.until_answered("~ada")
    assert told.text.startswith("Created ACM-1: Water the roses")
    rows = "select title, description, assignee_id from issue"
    assert await bot.world.rows(rows) == [("Water the roses", "every evening", bot.agent.id)]
    task = await runtime.claim()
    assert task["kind"] == "issue"


async def test_new_begins_a_conversation_anew(town: Town, bot: ToyBot, runtime: Runtime) -> None:
    town.whisper("ada", bot.handle, "one")
    await runtime.answer("first")
    town.whisper("ada", bot.handle, "/new two")
    task = await runtime.answer("second")
    assert [message["text"] for message in task["messages"]] == ["two"]
    assert await bot.world.value("select max(context_generation) from agent_task") == 1
    assert [answer.text for answer in await town.until_answered("~ada", 2)] == ["first", "second"]


async def test_command_that_came_late_waits_for_confirmation(town: Town, bot: ToyBot, daemon: InnerDaemon) -> None:
    town.say_late("ada", bot.handle, "/issue Old roses", seconds=TWENTY_MINUTES)
    (asked,) = await town.until_answered("~ada")
    assert "/confirm" in asked.text
    assert await bot.world.value("select count(*) from issue") == 0
    town.whisper("ada", bot.handle, "/confirm")
    assert (await town.until_answered("~ada", 2))[1].text.startswith("Created ACM-1: Old roses")


async def test_agent_that_nobody_runs_says_so_once(town: Town, bot: ToyBot, daemon: InnerDaemon) -> None:
    await bot.world.rows("update agent set runtime_id = null where id = %s", bot.agent.id)
    town.whisper("ada", bot.handle, "anybody home?")
    (told,) = await town.until_answered("~ada")
    assert told.text.startswith("I kept your message")


async def test_run_that_fails_for_good_is_one_visible_failure(town: Town, bot: ToyBot, runtime: Runtime) -> None:
    town.whisper("ada", bot.handle, "try this")
    task = await runtime.claim()
    await runtime.report(task, "start")
    await runtime.report(task, "fail", error="secret detail", failure_reason="agent_blocked")
    (told,) = await town.until_answered("~ada")
    assert "secret detail" not in told.text
    await bot.world.until("select kind = 'error' and status = 'sent' from outbound_message")


async def test_long_answer_is_one_message_where_nobody_registered_how_to_divide(
    town: Town, bot: ToyBot, runtime: Runtime
) -> None:
    words = "roses\n\n" * 40_000
    town.whisper("ada", bot.handle, "tell me everything")
    await runtime.answer(words)
    (answer,) = await town.until_answered("~ada")
    assert answer.text.strip() == words.strip()


async def test_refused_message_is_recorded_and_told_and_a_lost_one_is_said_once(
    town: Town, bot: ToyBot, runtime: Runtime
) -> None:
    town.trouble["never"].append("muted")
    town.trouble["surely"].append("lost")
    town.whisper("ada", bot.handle, "first")
    await runtime.answer("never")
    await bot.world.until("select count(*) = 1 from outbound_message where status = 'failed'")
    town.whisper("ada", bot.handle, "second")
    await runtime.answer("surely")
    await bot.world.until("select count(*) = 2 from outbound_message where status = 'sent'")
    assert await bot.world.value("select attempts from outbound_message where content = 'surely'") > 1
    refused = WORDS["en"][Reply.ANSWER_UNDELIVERED]
    assert [answer.text for answer in town.answers("~ada")] == [refused, "surely"]


async def test_stopped_daemon_hands_the_bot_over_and_nothing_is_lost(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon
) -> None:
    async with inner_daemon(world, town) as heir:
        town.whisper("ada", bot.handle, "before")
        await world.until("select count(*) = 1 from chat_message")
        daemon.stop.set()
        said = town.whisper("ada", bot.handle, "meanwhile")
        await town.until_visited(bot.handle, visits=2)
        town.whisper("ada", bot.handle, "after")
        await town.until_settled(said, bot.handle)
        await world.until("select count(*) = 3 from chat_message where role = 'user'")
        assert await world.contents() == ["before", "meanwhile", "after"]
        async with open_runtime(world, heir) as runtime:
            await runtime.answer("all of it")
            await town.until_answered("~ada")
        assert len(town.answers("~ada")) == 1
    assert [visit.open for visit in town.visits].count(True) == 0


async def test_daemon_that_is_cut_off_is_replaced(world: World, town: Town, bot: ToyBot) -> None:
    async with inner_daemon(world, town):
        await town.until_visited(bot.handle)
    said = town.whisper("ada", bot.handle, "anybody?")
    async with inner_daemon(world, town):
        await town.until_settled(said, bot.handle)


async def test_wrong_secret_is_shown_and_the_right_one_connects(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon
) -> None:
    town.doors[bot.handle] = "another"
    await bot.configure(gate="south")
    shown = "select count(*) = 1 from channel_connection where installation_id = %s and state = 'refused' and code = 7"
    await world.until(shown, bot.id)
    await bot.rotate("rotated")
    visit = await town.until_visited(bot.handle, visits=2)
    assert visit.door_key == "rotated"


async def test_key_rotation_finds_the_secrets_of_every_platform_and_restarts_nothing(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon
) -> None:
    newest = generate_key()
    ring = KeyRing.parse(f"{newest},{world.key}")
    rotation = await rotate_secrets(secret_tables(world.pool), ring, lambda *_: None)
    assert rotation.troubles == []
    (config,) = (await world.rows("select config from channel_installation"))[0]
    assert open_config(config, KeyRing.parse(newest), bot.id)["door_key"] == "fake"
    assert len(town.visits) == 1


async def test_link_is_made_anew_for_what_the_platform_calls_identity_and_for_nothing_else(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon
) -> None:
    await bot.configure(region="elsewhere", bot_open_id="ou_1", colour="green")
    await add_toy_bot(world, town, handle="@late")
    first = await town.until_visited(bot.handle)
    await town.until_visited("@late")  # By then the change has been seen, too.
    assert first.open
    await bot.configure(gate="south")
    visit = await town.until_visited(bot.handle, visits=2)
    assert (visit.gate, len(town.visits)) == ("south", 3)


async def test_platform_without_signs_lookups_or_files_leaves_no_trace_of_them(
    town: Town, bot: ToyBot, runtime: Runtime
) -> None:
    earlier = town.whisper("ada", bot.handle, "the first")
    await runtime.answer("yes")
    town.whisper("ada", bot.handle, "as I said", answers=earlier.number)
    task = await runtime.answer("indeed")
    assert "[unable to fetch]" in task["prompt"]
    town.whisper("ada", bot.handle, "see file", parcels={"roses.txt": b"red"})
    task = await runtime.answer("no file")
    assert await bot.count("channel_typing") == 0
    assert await bot.world.rows("select status, error from chat_attachment") == [("failed", "bot_unavailable")]
    assert town.waves == 0
    assert len(await town.until_answered("~ada", 3)) == 3


async def test_platform_that_can_do_everything_does_it(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon, runtime: Runtime
) -> None:
    full = await add_toy_bot(world, town, slug=FULL, handle="@bee")
    await full.bind("ada")
    await town.until_visited("@bee")
    aside = town.shout("cy", "#garden", "the roses are blue", heard_by="@bee")
    said = town.shout(
        "ada", "#garden", "is that so", heard_by="@bee", to="@bee", answers=aside.number, parcels={"a.txt": b"proof"}
    )
    task = await runtime.claim()
    assert "the roses are blue" in task["prompt"]
    assert "Cy" in task["prompt"]
    assert [each["bytes"] for each in task["messages"][0]["attachments"]] == [5]
    while not said.waving:
        await trio.sleep(0.01)
    await runtime.report(task, "start")
    await runtime.report(task, "complete", output="x" * 2500)
    answers = await town.until_answered("#garden", 3)
    assert [len(answer.text) for answer in answers] == [1000, 1000, 500]
    assert {answer.looks for answer in answers} == {"card:answer"}
    assert said.waving == set()
    assert "the roses are blue" not in await world.everything_stored()


async def test_answer_in_doubt_for_too_long_is_looked_for_where_the_platform_can_be_read(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon, runtime: Runtime
) -> None:
    full = await add_toy_bot(world, town, slug=FULL, handle="@bee")
    await full.bind("ada")
    await town.until_visited("@bee")
    town.trouble["surely"] += ["lost"]
    town.whisper("ada", "@bee", "say it")
    await runtime.answer("surely")
    await town.until_answered("~ada")
    await world.rows(
        "update outbound_message set first_attempt_at = now() - interval '1 hour',"
        " last_attempt_at = now() - interval '2 minutes', available_at = now()"
    )
    await world.until("select status = 'sent' from outbound_message", seconds=20)
    assert [answer.text for answer in town.answers("~ada")] == ["surely"]


@pytest.mark.parametrize("delivered", [True, False])
async def test_platform_without_keys_is_read_before_anything_is_said_again(
    world: World, town: Town, delivered: bool
) -> None:
    bot = await add_toy_bot(world, town, slug=FULL, handle="@bee")
    await bot.bind("ada")
    town.trouble["surely"] += ["lost" if delivered else "unheard"]
    async with inner_daemon(world, town, platforms=[keyless_toy(town)]) as daemon:
        await town.until_visited("@bee")
        async with open_runtime(world, daemon) as runtime:
            await runtime.post("/api/runtimes/register", {"name": "machine"})
            town.whisper("ada", "@bee", "say it")
            await runtime.answer("surely")
            in_doubt = "select count(*) = 1 from outbound_message where error like '%%result of the last attempt%%'"
            await world.until(in_doubt, seconds=20)
            assert len(town.answers("~ada")) == int(delivered)
            await world.rows(
                "update outbound_message set last_attempt_at = now() - interval '2 minutes', available_at = now()"
            )
            await world.rows("select pg_notify('gateway_outbound', %s)", str(bot.id))
            await world.until("select status = 'sent' from outbound_message", seconds=20)
    assert [answer.text for answer in town.answers("~ada")] == ["surely"]


async def test_metrics_name_every_platform(world: World, town: Town, bot: ToyBot) -> None:
    async with inner_daemon(world, town, **{"metrics.bind": free_address()}) as daemon:
        said = town.whisper("ada", bot.handle, "count me")
        await town.until_settled(said, bot.handle)
        async with httpx2.AsyncClient(trust_env=False) as http:
            text = (await http.get(str(daemon.ready.metrics))).text
    assert 'gateway_channel_events_total{channel="toy",outcome="ingested"} 1.0' in text
    assert 'gateway_channel_connections{channel="toy",state="live"}' in text
    assert 'gateway_channel_connections{channel="feishu",state="live"}' in text


async def test_town_is_served_where_lark_is_off(world: World, town: Town) -> None:
    await add_toy_bot(world, town, handle="@open", door_key="")
    await add_toy_bot(world, town, handle="@locked")
    async with inner_daemon(world, town, secret_key=None) as daemon:
        await town.until_visited("@open")
        await world.until("select count(*) = 1 from channel_connection where state = 'unreadable_secret'")
        town.whisper("eve", "@open", "let me in")
        (question,) = await town.until_answered("~eve")
        _, page, bound = await redeem(world, daemon, question.text)
        assert "Lark" not in page
        assert bound.status_code == 200
        town.whisper("eve", "@open", "it is me")
        async with open_runtime(world, daemon) as runtime:
            await runtime.answer("welcome")
            await town.until_answered("~eve", 2)


async def test_lark_commands_and_pages_do_not_list_bots_of_the_town(
    world: World, town: Town, bot: ToyBot, daemon: InnerDaemon
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
