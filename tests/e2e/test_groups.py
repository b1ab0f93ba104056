"""Groups on the real daemon: several bots, several topics."""

from __future__ import annotations

import sys

import trio

from gateway.simulator.simulator import Utterance
from support.world import World

ECHO = (sys.executable, "-m", "gateway.simulator.echo_agent")


async def test_message_that_two_bots_hear_is_answered_once_by_the_one_it_names(world: World) -> None:
    named, other = await world.add_bot("Named"), await world.add_bot("Other")
    ada = await named.bind("Ada")
    await other.bind_person(ada)
    group = world.sim.create_group("Lunch", [named.app, other.app], [ada])
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        await named.connected()
        await other.connected()
        said = world.sim.say(ada, group, Utterance("what do you say?", mentions=[named.app]))
        assert len(said.events) == 2
        with trio.fail_after(10):
            for event in said.events:
                await event.settled()
        (answer,) = await world.answers(group.chat_id)
        assert answer.sender_id == named.app.app_id
        await world.until("select count(*) = 1 from outbound_message where status = 'sent'")
    claims = "select count(*), count(distinct installation_id) from channel_inbound_message_dedup"
    assert await world.rows(claims) == [(2, 2)]
    assert await world.rows("select installation_id, drop_reason from channel_inbound_audit") == [
        (other.id, "not_addressed_in_group")
    ]
    assert len(world.sim.sent(group.chat_id)) == 1


async def test_reply_to_an_answer_needs_no_mention(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    group = world.sim.create_group("Lunch", [bot.app], [ada])
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        await bot.connected()
        asked = world.sim.say(ada, group, Utterance("what do you say?", mentions=[bot.app])).message
        (answer,) = await world.answers(group.chat_id)
        await world.until("select count(*) = 1 from outbound_message where status = 'sent'")
        unheard = world.sim.say(ada, group, Utterance("I see, zanzibar-marker", reply_to=asked.message_id))
        world.sim.say(ada, group, Utterance("and why?", reply_to=answer.message_id))
        await world.answers(group.chat_id, 2)
        with trio.fail_after(10):
            for event in unheard.events:
                await event.settled()
    assert await world.contents() == ["what do you say?", "and why?"]
    assert "zanzibar-marker" not in await world.everything_stored() + daemon.log


async def test_topic_of_a_group_is_a_conversation_of_its_own(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    group = world.sim.create_group("Lunch", [bot.app], [ada])
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        await bot.connected()
        first = world.sim.say(ada, group, Utterance("in the group", mentions=[bot.app]))
        await world.answers(group.chat_id)
        into_topic = Utterance("in a topic", mentions=[bot.app], reply_to=first.message.message_id, in_thread=True)
        topic = world.sim.say(ada, group, into_topic)
        answers = await world.answers(group.chat_id, 2)
    assert topic.message.thread_id
    assert answers[1].thread_id == topic.message.thread_id
    keys = await world.rows("select channel_chat_id from channel_chat_session_binding order by created_at")
    assert keys == [(group.chat_id,), (f"{group.chat_id}:{topic.message.thread_id}",)]
