"""A bot is connected by scanning a code while daemons come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asks
import pytest
import trio

from gateway.simulator.platform import App
from support.device_flow import PENDING, DeviceFlow
from support.lark_rest import Reply, serving_platform
from support.processes import GatewayProcess
from support.world import World


@pytest.fixture
async def accounts(world: World) -> AsyncIterator[DeviceFlow]:
    """The accounts server on its own, beside the simulated platform that the new app lives on."""
    async with serving_platform() as platform:
        world.environment["GATEWAY_LARK__ACCOUNTS_BASE_URL"] = platform.base_url
        yield DeviceFlow(platform)


class Person:
    """The workspace's owner with a browser of their own kind."""

    def __init__(self, world: World, token: str) -> None:
        self.base = f"/api/workspaces/{world.workspace.slug}/lark"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = asks.Session(connections=2)

    async def ask(self, daemon: GatewayProcess, method: str, path: str, body: object = None) -> Any:
        given = {"json": body} if body is not None else {}
        answer = await self._http.request(method, f"{daemon.url}{self.base}{path}", headers=self._headers, **given)
        assert answer.status_code in {200, 204}, (path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def begin(self, daemon: GatewayProcess, agent_id: object) -> str:
        begun = await self.ask(daemon, "POST", "/install/begin", {"agent_id": str(agent_id)})
        return f"/install/{begun['session_id']}/status"

    async def until_connected(self, daemon: GatewayProcess, path: str) -> str:
        with trio.fail_after(40):
            while (status := await self.ask(daemon, "GET", path))["status"] == "pending":
                await trio.sleep(0.1)
        assert status["status"] == "success", status
        return str(status["installation_id"])


async def owner(world: World) -> Person:
    _, token = await world.directory.add_user_token(world.owner)
    return Person(world, token)


def grant(app: App) -> Reply:
    person = {"open_id": "ou_scanner", "tenant_brand": "feishu"}
    return Reply({"client_id": app.app_id, "client_secret": app.secret, "user_info": person})


async def test_scan_of_a_killed_daemon_is_finished_by_the_other_and_the_bot_goes_live(
    world: World, accounts: DeviceFlow
) -> None:
    """The first dies at the worst moment: when the platform has granted the app, and will not do so again."""
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    accounts.polls = [PENDING, grant(app)]
    async with world.daemon(crash_at=("lark.install_granted", 1)) as first:
        path = await ada.begin(first, agent.id)
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


async def test_scan_outlives_a_restart_of_the_only_daemon(world: World, accounts: DeviceFlow) -> None:
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    async with world.daemon() as first:
        path = await ada.begin(first, agent.id)
        assert await first.terminate() == 0
    accounts.polls = [grant(app)]
    async with world.daemon() as second:
        await ada.until_connected(second, path)


async def test_secrets_of_a_scan_are_in_no_log_and_no_dump(world: World, accounts: DeviceFlow) -> None:
    app, agent, ada = world.sim.create_app("Ada"), await world.add_agent(), await owner(world)
    accounts.begin["device_code"] = "marker-of-a-device-code"
    async with world.daemon() as daemon:
        path = await ada.begin(daemon, agent.id)
        stored = str(await world.rows("select to_jsonb(s) from lark_install_session s"))
        accounts.polls = [grant(app)]
        await ada.until_connected(daemon, path)
        stored += str(await world.rows("select to_jsonb(s) from lark_install_session s"))
        stored += str(await world.rows("select to_jsonb(i) from channel_installation i"))
        for secret in ("marker-of-a-device-code", app.secret):
            assert secret not in stored + daemon.log + str(daemon.lines)
