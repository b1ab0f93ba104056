"""One daemon with bots of both clouds, under the host names that these have, and no host overridden.

Only the proxy knows a way to those names, and only the authority of the test vouches for them. The two clouds share
nothing: an app of one is unknown to the other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from gateway.simulator.platform import App, Person
from gateway.simulator.registration import PATH as REGISTRATION
from gateway.simulator.scans import read_link
from support.clouds import ACCOUNTS, OPEN, SOCKETS, Clouds, open_clouds
from support.scanning import owner
from support.world import LarkBot, World

ECHO = (sys.executable, "-m", "gateway.simulator.echo_agent")


@pytest.fixture
async def clouds(world: World, tmp_path: Path) -> AsyncIterator[Clouds]:
    world.sim.scans.interval = 0.1
    async with open_clouds(world.sim, tmp_path) as clouds:
        world.environment = dict(clouds.environment)
        yield clouds


async def add_bot(world: World, region: str) -> LarkBot:
    """`gateway lark add`, which asks the app's own cloud for its bot."""
    app = world.sim.create_app(f"Bot of {region}", region=region)
    bot = LarkBot(world, app, await world.add_agent(app.name))
    added = json.loads(
        await world.command(
            *("lark", "add", "--agent", str(bot.agent.id), "--app-id", app.app_id),
            *("--app-secret-stdin", "--region", region, "--json"),
            stdin=app.secret,
        )
    )
    assert (added["region"], added["bot_open_id"]) == (region, app.open_id)
    bot.id = UUID(added["id"])
    return bot


async def hears_and_answers(world: World, app: App, person: Person, text: str) -> None:
    said = world.sim.say(person, app, text)
    (answer,) = await world.answers(said.message.chat_id)
    assert text in answer.content
    assert (await said.event.answered(1)).ack_code == 200


def nothing_asked_elsewhere(world: World, apps: Sequence[App]) -> bool:
    """Whether every call in the name of one of these apps arrived at its own cloud, and each of them made some."""
    asked = {app.app_id: {call.region for call in world.sim.calls if call.app_id == app.app_id} for app in apps}
    return asked == {app.app_id: {app.region} for app in apps}


async def listed(world: World) -> dict[str, dict[str, Any]]:
    bots = json.loads(await world.command("lark", "list", "--json"))
    return {bot["app_id"]: bot for bot in bots}


async def test_bots_of_both_clouds_live_in_one_daemon_each_at_its_own(world: World, clouds: Clouds) -> None:
    bots = {region: await add_bot(world, region) for region in OPEN}
    people = {region: await bot.bind(f"Ada of {region}") for region, bot in bots.items()}
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        for bot in bots.values():
            await bot.connected()
        for region, bot in bots.items():
            await hears_and_answers(world, bot.app, people[region], f"good morning from {region}")
        shown = await listed(world)
        told = await (await owner(world)).ask(daemon, "GET", "/installations")
        examined = await world.command("doctor")
    for region, bot in bots.items():
        assert (shown[bot.app.app_id]["region"], shown[bot.app.app_id]["connection"]["state"]) == (region, "live")
        assert f"bot {bot.app.app_id}: live: it hears messages" in examined
        assert clouds.tunnels(SOCKETS[region]) == 1
        assert clouds.tunnels(ACCOUNTS[region]) == 0
    consoles = {bot.app.app_id: f"https://{OPEN[region]}/app/{bot.app.app_id}" for region, bot in bots.items()}
    assert {app_id: bot["console_url"] for app_id, bot in shown.items()} == consoles
    assert {bot["app_id"]: bot["console_url"] for bot in told["installations"]} == consoles
    assert nothing_asked_elsewhere(world, [bot.app for bot in bots.values()])


@pytest.mark.parametrize(("begun", "brand"), [("feishu", "lark"), ("lark", "feishu")])
async def test_scan_is_followed_to_the_cloud_of_who_scans_and_its_bot_lives_there(
    world: World, clouds: Clouds, begun: str, brand: str
) -> None:
    scans, scanner, ada = world.sim.scans, world.sim.create_person("Scanner"), await owner(world)
    agent = await world.add_agent("Helper")
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        path, url = await ada.begin(daemon, agent.id, begun)
        (scan,) = scans.all()
        assert url.startswith(f"https://{ACCOUNTS[begun]}/")
        link = read_link(url, scan.user_code)
        app = scans.authorize(scan, scanner, world.sim.clock.now(), brand=brand, link=link, options={})
        await ada.until_connected(daemon, path)
        with trio.fail_after(20):
            await world.sim.wait_connected(app, 1)
        await hears_and_answers(world, app, scanner, "hello")
        shown = (await listed(world))[app.app_id]
        told = await ada.ask(daemon, "GET", "/installations")
    assert (shown["region"], shown["connection"]["state"]) == (brand, "live")
    assert told["installations"][0]["console_url"] == f"https://{OPEN[brand]}/app/{app.app_id}"
    asked = [call.region for call in world.sim.calls if call.path == REGISTRATION]
    elsewhere = asked.index(brand) if begun != brand else len(asked)
    assert set(asked[:elsewhere]) == {begun}
    assert asked[elsewhere:] == [brand] * (begun != brand)  # once, and there it was granted
    assert nothing_asked_elsewhere(world, [app])
    other = next(region for region in OPEN if region != brand)
    assert clouds.tunnels(OPEN[other]) == clouds.tunnels(SOCKETS[other]) == 0


async def test_back_fills_label_no_row_without_an_override_and_ask_each_cloud_for_its_own(
    world: World, clouds: Clouds
) -> None:
    """The union ids are learnt after the regions: once they are there, the rows were looked at."""
    bots = {region: await add_bot(world, region) for region in OPEN}
    await world.rows("update channel_installation set config = config - 'bot_union_id'")
    old = "config - 'region' where config ->> 'region' = 'feishu'"  # as rows are that are older than regions
    await world.rows(f"update channel_installation set config = {old}")
    world.sim.calls.clear()
    async with world.daemon():
        for region, bot in bots.items():
            await bot.connected()
            await world.until(
                "select config ->> 'bot_union_id' = %s from channel_installation where id = %s",
                bot.app.union_id,
                bot.id,
            )
            assert clouds.tunnels(SOCKETS[region]) == 1
    regions = dict(await world.rows("select config ->> 'app_id', config ->> 'region' from channel_installation"))
    assert regions == {bots["feishu"].app.app_id: None, bots["lark"].app.app_id: "lark"}
    assert nothing_asked_elsewhere(world, [bot.app for bot in bots.values()])
