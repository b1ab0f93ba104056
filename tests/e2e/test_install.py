"""A bot is connected by scanning a code while daemons come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.simulator.platform import App
from gateway.simulator.scans import read_link
from support.device_flow import PENDING, DeviceFlow
from support.lark_rest import Call, Reply, serving_platform
from support.partition import open_partition
from support.scanning import owner
from support.world import World


@pytest.fixture
async def accounts(world: World) -> AsyncIterator[DeviceFlow]:
    """The accounts server on its own, beside the simulated platform that the new app lives on."""
    async with serving_platform() as platform:
        world.environment["GATEWAY_LARK__ACCOUNTS_BASE_URL"] = platform.base_url
        yield DeviceFlow(platform)


def grant(app: App) -> Reply:
    person = {"open_id": "ou_scanner", "tenant_brand": "feishu"}
    return Reply({"client_id": app.app_id, "client_secret": app.secret, "user_info": person})


@pytest.mark.parametrize("brand", ["feishu", "lark"])
async def test_bot_of_a_scan_hears_who_scanned_whichever_cloud_they_are_of(world: World, brand: str) -> None:
    scans = world.sim.scans
    # Under an override both clouds are one host: who is sent to the other one comes back to the same address.
    scans.interval, scans.regions_apart = 0.1, False
    world.environment["GATEWAY_LARK__ACCOUNTS_BASE_URL"] = world.sim.base_url
    agent, ada, scanner = await world.add_agent("Helper"), await owner(world), world.sim.create_person("Scanner")
    async with world.daemon() as daemon:
        path, url = await ada.begin(daemon, agent.id)
        (scan,) = scans.all()
        link = read_link(url, scan.user_code)
        assert (link.name, link.source) == ("Helper", "agent-gateway")
        assert "im.message.receive_v1" in link.addons["events"]["items"]["tenant"]
        app = scans.authorize(scan, scanner, world.sim.clock.now(), brand=brand, link=link, options={})
        installation_id = await ada.until_connected(daemon, path)
        with trio.fail_after(20):
            await world.sim.wait_connected(app, 1)
        (bot,) = (await ada.ask(daemon, "GET", "/installations"))["installations"]
        assert (bot["id"], bot["region"], bot["app_id"]) == (installation_id, brand, app.app_id)
        world.sim.say(scanner, app, "hello")
        await world.until("select count(*) = 1 from chat_message where role = 'user' and content = 'hello'")
    assert scan.polls <= (3 if brand == "feishu" else 4)


async def test_scan_of_a_killed_daemon_is_finished_by_the_other_and_the_bot_goes_live(
    world: World, accounts: DeviceFlow
) -> None:
    """The first dies at the worst moment: when the platform has granted the app, and will not do so again."""
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    accounts.polls = [PENDING, grant(app)]
    async with world.daemon(crash_at=("lark.install_granted", 1)) as first:
        path, _ = await ada.begin(first, agent.id)
        assert await first.wait() == -9
        async with world.daemon() as second:
            installation_id = await ada.until_connected(second, path)
            with trio.fail_after(20):
                await world.sim.wait_connected(app, 1)
            listed = await ada.ask(second, "GET", "/installations")
            assert [(bot["id"], bot["app_id"]) for bot in listed["installations"]] == [(installation_id, app.app_id)]
            await ada.ask(second, "DELETE", f"/installations/{installation_id}")
            with trio.fail_after(20):
                await world.sim.wait_connected(app, 0)
    assert len(accounts.polled) == 2
    assert await world.rows("select user_id, channel_user_id from channel_user_binding") == [
        (world.owner.id, "ou_scanner")
    ]


async def test_scan_that_is_granted_while_the_database_is_away_becomes_a_bot(
    world: World, accounts: DeviceFlow
) -> None:
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    async with open_partition(world.conninfo) as partition:

        async def while_it_is_away(_call: Call) -> Reply:
            partition.vanishing = True
            return grant(app)

        accounts.polls = [while_it_is_away]
        async with world.daemon(environment={"GATEWAY_DATABASE_URL": partition.conninfo}) as daemon:
            await ada.begin(daemon, agent.id)
            with trio.fail_after(30):
                while "lark_install_grant_waits" not in daemon.log:
                    await trio.sleep(0.1)
            partition.vanishing = False
            await world.until("select status = 'success' from lark_install_session", seconds=40)
            with trio.fail_after(30):
                await world.sim.wait_connected(app, 1)
            assert app.secret not in daemon.log
    assert len(accounts.polled) == 1


async def test_scan_outlives_a_restart_of_the_only_daemon(world: World, accounts: DeviceFlow) -> None:
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    async with world.daemon() as first:
        path, _ = await ada.begin(first, agent.id)
        assert await first.terminate() == 0
    accounts.polls = [grant(app)]
    async with world.daemon() as second:
        await ada.until_connected(second, path)


async def test_secrets_of_a_scan_are_in_no_log_and_no_dump(world: World, accounts: DeviceFlow) -> None:
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    accounts.begin["device_code"] = "marker-of-a-device-code"
    async with world.daemon() as daemon:
        path, _ = await ada.begin(daemon, agent.id)
        stored = str(await world.rows("select to_jsonb(s) from lark_install_session s"))
        accounts.polls = [grant(app)]
        await ada.until_connected(daemon, path)
        stored += str(await world.rows("select to_jsonb(s) from lark_install_session s"))
        stored += str(await world.rows("select to_jsonb(i) from channel_installation i"))
        for secret in ("marker-of-a-device-code", app.secret):
            assert secret not in stored + daemon.log + str(daemon.lines)
