"""An app registered by a scanned code over real sockets, by the official SDK and on the page for people."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.simulator import Simulator, open_simulator
from support.sim_client import SimClient, SimRefused

REGISTER = Path(__file__).parents[2] / "support" / "strangers" / "lark_oapi_register.py"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with open_simulator() as simulator:
        simulator.create_person("Ada")
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> SimClient:
    return SimClient(simulator.base_url)


async def test_sdk_registers_an_app_in_the_other_cloud(simulator: Simulator, client: SimClient) -> None:
    status = await client.settings(scan_interval_seconds=0.05, scan_seconds=50)
    command = [sys.executable, str(REGISTER), status["http"], status["lark_http"]]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(_start, command)
            lines = _lines(process)
            code = await anext(lines)
            assert code["expire_in"] == 50
            [scan] = await client.call("GET", "scans")
            authorized = await client.call(
                "POST",
                f"scans/{scan['user_code']}/authorize",
                {"person": "Ada", "brand": "lark", "url": code["url"]},
            )
            seen = [line async for line in lines]
    registered = seen[-1]
    assert registered["client_id"] == authorized["app_id"]
    assert registered["has_secret"]
    assert registered["user"]["tenant_brand"] == "lark"
    assert "domain_switched" in [line.get("status") for line in seen]
    app = simulator.platform.app("Helper of Ada")
    assert app.region == "lark"
    assert authorized["link"]["addons"] == {"scopes": {"tenant": ["im:message"]}}
    assert [call.region for call in simulator.calls][-2:] == ["feishu", "lark"]


async def _start(command: list[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(command, stdout=subprocess.PIPE, task_status=task_status)


async def _lines(process: trio.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    rest = b""
    async for piece in process.stdout:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield json.loads(line)


async def begin(client: SimClient, simulator: Simulator) -> str:
    simulator.scans.begin("feishu", client.base_url, simulator.clock.now())
    [scan] = await client.call("GET", "scans", wait_count=1, wait_seconds=5)
    return str(scan["user_code"])


async def test_control_shows_no_secret_and_decides_once(simulator: Simulator, client: SimClient) -> None:
    code = await begin(client, simulator)
    device_code = simulator.scans.all()[0].device_code
    read = await client.call("GET", f"scans/{code}", url=f"http://x/?user_code={code}&name=Helper")
    assert read["link"]["name"] == "Helper"
    with pytest.raises(SimRefused, match="colour"):
        await client.call("POST", f"scans/{code}/authorize", {"person": "Ada", "colour": "red"})

    done = await client.call("POST", f"scans/{device_code}/authorize", {"person": "Ada", "hears_bots": True})
    assert simulator.platform.app(done["app_id"]).hears_bots
    shown = json.dumps(await client.call("GET", "scans")) + json.dumps(done)
    assert device_code not in shown
    assert simulator.platform.app(done["app_id"]).secret not in shown
    for decision in ("authorize", "deny", "expire"):
        body = {"person": "Ada"} if decision == "authorize" else {}
        with pytest.raises(SimRefused, match="authorized already"):
            await client.call("POST", f"scans/{code}/{decision}", body)


@pytest.mark.parametrize("decision", ["deny", "expire"])
async def test_control_refuses_and_expires(simulator: Simulator, client: SimClient, decision: str) -> None:
    code = await begin(client, simulator)
    state = (await client.call("POST", f"scans/{code}/{decision}", {}))["state"]
    assert state == {"deny": "denied", "expire": "expired"}[decision]
    with pytest.raises(SimRefused, match="unknown"):
        await client.call("POST", f"scans/NONE/{decision}", {})
