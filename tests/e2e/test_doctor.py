"""What the doctor finds when something is wrong, against a real database, a simulated platform and a real daemon."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from gateway.cli.doctor import Examination, examine
from gateway.config import Settings
from gateway.keyring import generate_key
from support.processes import free_address
from support.world import World

SILENT = 151


async def examined(
    world: World, *, bind: str | None = None, key: str | None = None, seconds: float = 20
) -> Examination:
    settings = Settings.model_validate(
        {
            "database_url": world.conninfo,
            "state_dir": world.state_dir,
            "secret_key": key or world.key,
            "http": {"bind": bind or free_address()},
            "lark": {"open_base_url": world.sim.base_url},
        }
    )
    with trio.fail_after(30):
        return await examine(settings, seconds=seconds)


def line(found: Examination, name: str) -> tuple[bool, str]:
    (finding,) = [each for each in found.checks if each.name == name]
    return finding.ok, finding.detail


async def test_doctor_believes_nothing_that_it_can_try(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    name = f"bot {bot.app.app_id}"
    found = await examined(world)
    assert not found.ok
    ok, told = line(found, "daemon")
    assert not ok
    assert "nothing answers at http://127.0.0.1:" in told
    assert told.endswith("; start `gateway serve`")
    assert line(found, name) == (
        False,
        "nobody listens for it: is `gateway serve` running?; the platform accepts its secret",
    )
    async with world.daemon() as daemon:
        bind = daemon.url.removeprefix("http://")
        await bot.connected()
        await world.until("select count(*) = 1 from channel_connection where state = 'live'")
        found = await examined(world, bind=bind)
        assert [each for each in found.checks if not each.ok] == []
        assert line(found, "daemon") == (True, f"runs at {daemon.url} and is ready")
        assert line(found, "secrets") == (True, "1 stored, all of them open")
        assert line(found, name)[1].startswith("live: it hears messages; ")
        ok, told = line(found, "runtime acme/machine")
        assert ok
        assert told.startswith("online, heard of ")
        assert told.endswith(" ago; agents: Echo; 0 waiting")

        said = world.sim.say(ada, bot.app, "hello")
        with trio.fail_after(15):
            await said.event.settled()
        await world.rows("update agent_runtime set last_heartbeat_at = now() - make_interval(secs => %s)", SILENT)
        await world.rows("update agent_task set available_at = now() - interval '2 hours'")
        world.sim.rotate_secret(bot.app)
        found = await examined(world, bind=bind, key=generate_key())
        assert {each.name for each in found.checks if not each.ok} == {"secrets", name, "runtime acme/machine"}
        ok, told = line(found, "secrets")
        assert told.startswith(f"1 of 1 stored do not open: installation {bot.id}: app_secret_encrypted: secret_key")
        assert "put the key that sealed them behind the others in secret_key" in told
        ok, told = line(found, "runtime acme/machine")
        assert told == (
            "silent for 2 min (limit 2 min); agents: Echo; 1 waiting, the oldest for 2 h;"
            " start its worker: `gateway agent run --server URL`"
        )
        (runtime,) = found.runtimes
        assert (runtime.waiting, runtime.bots, runtime.online) == (1, 1, False)
        ok, told = line(await examined(world, bind=bind), name)
        assert not ok
        assert "live: it hears messages" in told
        assert "the platform does not accept its app id and secret" in told
        assert "`gateway lark add`" in told
        await daemon.kill()
    await world.until("select bool_and(ws_lease_expires_at < now()) from channel_installation")
    ok, told = line(await examined(world, bind=bind), name)
    assert not ok
    assert told.startswith("stale: 'live' was stored last, but its lease ran out ")


async def test_doctor_as_a_command_says_one_line_each_and_exits_with_1(world: World) -> None:
    await world.add_bot()
    await world.rows("update agent set runtime_id = null")
    done = await trio.run_process(
        [sys.executable, "-m", "gateway", "doctor"],
        capture_stdout=True,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(world.logs),
            "GATEWAY_HTTP__BIND": free_address(),
            **world.shared_environment,
        },
    )
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert all(each.startswith(("ok    ", "FAIL  ")) for each in lines)
    advice = "give them one: `gateway admin agent set AGENT --runtime ID`"
    assert f"FAIL  agents of acme without a runtime: agents: Echo; 0 waiting; {advice}" in lines
    assert any(each.startswith("ok    runtime acme/machine: online, heard of ") for each in lines)
    as_json = json.loads(await world.command("task", "list", "--json"))
    assert as_json == []


@asynccontextmanager
async def mute_server() -> AsyncIterator[str]:
    """Takes connections and says nothing."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, _say_nothing, 0, host="127.0.0.1"))
        host, port = listeners[0].socket.getsockname()[:2]
        yield f"{host}:{port}"
        nursery.cancel_scope.cancel()


async def _say_nothing(_stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_doctor_never_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.doctor_daemon.ASK_SECONDS", 0.2)
    monkeypatch.setattr("gateway.cli.doctor_bots.ASK_SECONDS", 0.2)
    bot = await world.add_bot()
    async with mute_server() as address:
        world.sim.fail_next("/open-apis/*", 9, hang_seconds=60)
        found = await examined(world, bind=address)
        ok, told = line(found, "daemon")
        assert (ok, "does not answer within 0.2 s" in told) == (False, True)
        ok, told = line(found, f"bot {bot.app.app_id}")
        assert (ok, "the platform did not answer within 0.2 s" in told) == (False, True)
        monkeypatch.setattr("gateway.cli.doctor_daemon.ASK_SECONDS", 30)
        found = await examined(world, bind=address, seconds=2)
        assert line(found, "doctor") == (False, "not finished within 2 s, while looking at the daemon")


async def test_doctor_tells_a_gateway_from_something_else(world: World) -> None:
    await world.add_bot()
    found = await examined(world, bind=world.sim.base_url.removeprefix("http://"))
    ok, told = line(found, "daemon")
    assert not ok
    assert "something else than a gateway answers at" in told
