"""What a person sees while an agent works: a sign on their message, and then an answer without it."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from typing import Any

import pytest
import trio

from gateway.simulator.messages import Message
from gateway.simulator.simulator import Utterance
from support.world import LarkBot, Runtime, World, open_runtime

REACTIONS = "/open-apis/im/v1/messages/*/reactions*"
SENDS = "/open-apis/im/v1/messages"


def signs(message: Message) -> list[str]:
    return [emoji for _, emoji in message.reactions.values()]


async def until_sign(world: World, message: Message, *, there: bool = True) -> None:
    with trio.fail_after(15):
        await world.sim.until(lambda: True if bool(signs(message)) == there else None)


async def start_next(runtime: Runtime) -> dict[str, Any]:
    task = await runtime.claim()
    await runtime.report(task, "start")
    return task


def calls(bot: LarkBot) -> list[tuple[str, str]]:
    """The platform's log of what was done to messages: reactions by their method, everything else as a send."""
    made = [call for call in bot.world.sim.calls if call.app_id == bot.app.app_id and call.status == 200]
    return [
        (call.method, "reaction" if fnmatch(call.path, REACTIONS) else "send")
        for call in made
        if call.path.startswith(SENDS)
    ]


async def test_message_carries_the_sign_while_the_agent_works_and_not_with_the_answer(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "think about it")
        task = await start_next(runtime)
        await until_sign(world, said.message)
        assert signs(said.message) == ["Typing"]
        assert world.sim.sent(said.message.chat_id) == []
        await runtime.report(task, "complete", output="thought")
        (answer,) = await world.answers(said.message.chat_id)
        assert signs(said.message) == []
        assert json.loads(answer.content) == {"text": "thought"}
        await world.until("select bool_and(status = 'gone') from channel_typing")
    assert calls(bot) == [("POST", "reaction"), ("DELETE", "reaction"), ("POST", "send")]


async def test_message_older_than_two_minutes_gets_no_sign(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, Utterance("from before the outage", age_seconds=150))
        await runtime.answer("sorry, I was away")
        await world.answers(said.message.chat_id)
    assert calls(bot) == [("POST", "send")]
    assert await world.value("select count(*) from channel_typing") == 0


async def test_sign_that_the_platform_refuses_costs_nothing_else(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    world.sim.fail_next(REACTIONS, method="POST", status=400, code=231002)
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        task = await start_next(runtime)
        await world.until("select status = 'failed' from channel_typing")
        await runtime.report(task, "complete", output="hello yourself")
        await world.answers(said.message.chat_id)
    assert calls(bot) == [("POST", "send")]


async def test_sign_that_goes_slowly_does_not_keep_the_answer(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        task = await start_next(runtime)
        await until_sign(world, said.message)
        await world.until("select status = 'shown' from channel_typing")
        world.sim.fail_next(REACTIONS, method="DELETE", hang_seconds=2.0)
        await runtime.report(task, "complete", output="hello yourself")
        await world.answers(said.message.chat_id)
        assert signs(said.message) == ["Typing"]
        await until_sign(world, said.message, there=False)
    assert calls(bot) == [("POST", "reaction"), ("POST", "send"), ("DELETE", "reaction")]


@pytest.mark.parametrize("ends", ["after the restart", "before it"])
async def test_daemon_killed_while_the_sign_shows_leaves_one_answer_and_no_sign(world: World, ends: str) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        task = await start_next(runtime)
        await until_sign(world, said.message)
        if ends == "before it":
            world.sim.fail_next(REACTIONS, method="DELETE", hang_seconds=2.0, reset=True)
            await runtime.report(task, "complete", output="hello yourself")
        await daemon.kill()
    assert signs(said.message) == ["Typing"]
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        if ends == "after the restart":
            await runtime.report(task, "complete", output="hello yourself")
        await until_sign(world, said.message, there=False)
        await world.answers(said.message.chat_id)
        await world.until("select bool_and(status = 'gone') from channel_typing")
        await world.until("select bool_and(status = 'sent') from outbound_message")
    assert len(world.sim.sent(said.message.chat_id)) == 1


@pytest.mark.parametrize("point", ["typing.taken", "typing.shown_unmarked"])
async def test_daemon_killed_around_the_call_that_shows_it_leaves_no_sign(world: World, point: str) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon(crash_at=(point, 1)) as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        # The process may die before the claim is answered: so the task is looked up, not claimed, here.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim_in_vain, runtime)
            assert await daemon.wait() == -9
            nursery.cancel_scope.cancel()
    task_id = await world.value("update agent_task set status = 'running', started_at = now() returning id")
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        await world.until("select status = 'shown' from channel_typing")
        assert signs(said.message) == ["Typing"]
        await runtime.report({"id": task_id, "attempt": 1}, "complete", output="hello yourself")
        await world.answers(said.message.chat_id)
        assert signs(said.message) == []


async def claim_in_vain(runtime: Runtime) -> None:
    try:
        await runtime.claim()
    except Exception:
        await trio.sleep_forever()
