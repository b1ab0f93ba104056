"""The whole path on real processes: a message, an agent program, one answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trio

from support.world import World

ECHO = (sys.executable, "-m", "gateway.simulator.echo_agent")


async def test_direct_message_is_answered_once_by_another_process(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, world.agent(daemon, *ECHO) as agent:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "good morning")
        (answer,) = await world.answers(said.message.chat_id)
        pid = int(answer.content.split("process ")[1].split(":")[0])
        assert pid not in {os.getpid(), daemon.pid, agent.pid}
        assert answer.content.endswith(': good morning"}')
        world.sim.redeliver(said.event.event_id)
        with trio.fail_after(10):
            assert (await said.event.answered(2)).ack_code == 200
        await world.until("select count(*) = 1 from outbound_message where status = 'sent'")
    assert await world.contents() == ["good morning"]
    assert len(world.sim.sent(said.message.chat_id)) == 1


async def test_messages_within_the_window_are_one_run(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    window = {"GATEWAY_HUB__BATCH_WINDOW_SECONDS": "1"}
    async with world.daemon(environment=window) as daemon, world.agent(daemon, *ECHO):
        await bot.connected()
        for word in ("one", "two", "three"):
            said = world.sim.say(ada, bot.app, word)
        (answer,) = await world.answers(said.message.chat_id)
    assert answer.content.endswith(r'one\n\ntwo\n\nthree"}')
    assert await world.value("select count(*) from agent_task") == 1


async def test_agent_program_that_fails_for_good_is_one_visible_failure(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, world.agent(daemon, sys.executable, "-c", "raise SystemExit('secret detail')"):
        await bot.connected()
        said = world.sim.say(ada, bot.app, "do something")
        (answer,) = await world.answers(said.message.chat_id)
        assert "secret detail" not in answer.content
        assert await world.value("select error from agent_task") is not None
        await world.until("select kind = 'error' and status = 'sent' from outbound_message")


def test_demo_comes_out_as_expected(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "demo", "--once"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 13 lines came out as expected." in done.stdout
    assert list(tmp_path.iterdir()) == []
