"""kill -9 at every named point: a message is one row, an answer is one message."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from support.world import World, open_runtime

FUSED = [
    "lark.received",
    "inbound.received",
    "inbound.fused.before",
    "inbound.fused.committed",
    "inbound.settled",
    "lark.before_ack",
    "lark.acknowledged",
]
"""Points of the one-statement path, which a person who has written before takes."""
TWO_PHASE = ["inbound.claimed", "inbound.before_append", "inbound.appended", "inbound.committed", "inbound.settled"]
"""Points of the path that a first message takes."""
LEAVES_A_CLAIM = {"inbound.claimed", "inbound.before_append", "inbound.appended"}


async def age_claims(world: World) -> None:
    await world.rows("update channel_inbound_message_dedup set received_at = received_at - interval '61 seconds'")


@pytest.mark.parametrize("point", FUSED)
async def test_fused_path_killed_anywhere_leaves_exactly_one_row(world: World, point: str) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    # The first message comes by each point too: the shared statement is tried and does not take it.
    async with world.daemon(crash_at=(point, 2)) as daemon:
        await bot.connected()
        first = world.sim.say(ada, bot.app, "the first one makes the session")
        with trio.fail_after(10):
            await first.event.settled()
        said = world.sim.say(ada, bot.app, "the one that matters")
        assert await daemon.wait() == -9
    async with world.daemon():
        await bot.connected()
        push = await redeliver(world, said.event.event_id)
        assert push == 200
    assert await world.contents() == ["the first one makes the session", "the one that matters"]


@pytest.mark.parametrize("point", TWO_PHASE)
async def test_two_phase_path_killed_anywhere_leaves_exactly_one_row(world: World, point: str) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon(crash_at=(point, 1)) as daemon:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        assert await daemon.wait() == -9
    async with world.daemon():
        await bot.connected()
        # The redelivery of 15 s meets the dead worker's claim, the one of 5 min retakes it.
        early = await redeliver(world, said.event.event_id)
        assert early == (500 if point in LEAVES_A_CLAIM else 200)
        await age_claims(world)
        assert await redeliver(world, said.event.event_id) == 200
    assert await world.contents() == ["hello"]
    assert await world.value("select count(*) from agent_task") == 1


async def test_daemon_killed_inside_the_batch_window_leaves_one_run_with_every_message(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    window = {"GATEWAY_HUB__BATCH_WINDOW_SECONDS": "2"}
    async with world.daemon(environment=window) as daemon:
        await bot.connected()
        for text in ("one", "two"):
            with trio.fail_after(10):
                await world.sim.say(ada, bot.app, text).event.settled()
        os.kill(daemon.pid, signal.SIGKILL)
        assert await daemon.wait() == -9
    async with world.daemon(environment=window) as daemon, open_runtime(world, daemon) as runtime:
        task = await runtime.claim()
        assert [message["text"] for message in task["messages"]] == ["one", "two"]
    assert await world.value("select count(*) from agent_task") == 1


async def test_dropped_message_killed_before_its_mark_is_dropped_once(world: World) -> None:
    bot = await world.add_bot()
    eve = world.sim.create_person("Eve")
    async with world.daemon(crash_at=("inbound.before_mark", 1)) as daemon:
        await bot.connected()
        said = world.sim.say(eve, bot.app, "let me in")
        assert await daemon.wait() == -9
    async with world.daemon():
        await bot.connected()
        await age_claims(world)
        assert await redeliver(world, said.event.event_id) == 200
    assert await world.contents() == []
    assert await world.rows("select drop_reason from channel_inbound_audit") == [("unbound_user",)]


@pytest.mark.parametrize("point", ["outbox.marked_sending", "outbox.sent_unmarked", "outbox.marked_sent"])
async def test_answer_killed_around_its_send_is_seen_once(world: World, point: str) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon(crash_at=(point, 1)) as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        await runtime.answer("hello yourself")
        assert await daemon.wait() == -9
    async with world.daemon():
        await bot.connected()
        await world.until("select status = 'sent' from outbound_message")
    sent = world.sim.sent(said.message.chat_id)
    assert [message.content for message in sent] == ['{"text":"hello yourself"}']
    assert sent[0].calls == (2 if point == "outbox.sent_unmarked" else 1)


async def redeliver(world: World, event_id: str) -> int:
    """Push the event once more; the code it was acknowledged with."""
    record = world.sim.redeliver(event_id)
    with trio.fail_after(10):
        push = await record.answered(len(record.pushes))
    return push.ack_code
