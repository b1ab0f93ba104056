"""kill -9 around a send, and a restart when the platform has long forgotten the key: the message is there once."""

from __future__ import annotations

import pytest
import trio

from support.world import World, open_runtime

POINTS = ["outbox.marked_sending", "outbox.sent_unmarked", "outbox.marked_sent"]
SEND_PATH = "/open-apis/im/v1/messages"
ANSWERS = {"plain": "hello yourself", "card": "**hello** yourself"}


async def forget(world: World) -> None:
    """An hour passes: in the database, in the chat, and for the platform's memory of keys."""
    await world.rows(
        "update outbound_message set created_at = created_at - interval '61 minutes',"
        " first_attempt_at = first_attempt_at - interval '61 minutes',"
        " last_attempt_at = last_attempt_at - interval '61 minutes'"
    )
    for chat_id in world.sim.platform.chats:
        for message in world.sim.sent(chat_id):
            message.create_time -= 61 * 60 * 1000
    world.sim.messages._sent.clear()


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("point", POINTS)
async def test_answer_killed_around_its_send_is_there_once_after_the_hour(
    world: World, point: str, answer: str
) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon(crash_at=(point, 1)) as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        await runtime.answer(ANSWERS[answer])
        assert await daemon.wait() == -9
    delivered = len(world.sim.sent(said.message.chat_id))
    assert delivered == (point != "outbox.marked_sending")
    await forget(world)
    calls = world.sim.call_counts.copy()
    async with world.daemon():
        await bot.connected()
        await world.until("select status = 'sent' from outbound_message")
    (sent,) = world.sim.sent(said.message.chat_id)
    assert await world.value("select channel_message_id from outbound_message") == sent.message_id
    made = world.sim.call_counts - calls
    assert made[f"POST {SEND_PATH} 200"] == (0 if delivered else 1), made


async def test_answer_in_doubt_whose_bot_was_put_out_of_the_chat_is_unknown_and_not_failed(world: World) -> None:
    """It may stand there, and nobody can look: to say that it failed would be a guess."""
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon(crash_at=("outbox.sent_unmarked", 1)) as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        said = world.sim.say(ada, bot.app, "hello")
        await runtime.answer("hello yourself")
        assert await daemon.wait() == -9
    world.sim.platform.remove_from_chat(world.sim.platform.chat(said.message.chat_id), bot.app)
    await world.rows("update outbound_message set last_attempt_at = last_attempt_at - interval '61 seconds'")
    async with world.daemon():
        await bot.connected()
        with trio.fail_after(15):
            await world.until("select status = 'unknown' from outbound_message")
    assert len(world.sim.sent(said.message.chat_id)) == 1
