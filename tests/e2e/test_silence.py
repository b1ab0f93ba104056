"""The end of silence: whoever writes to an agent hears of it, or why not, in one line. Real processes throughout."""

from __future__ import annotations

import sys

import trio

from gateway.core.replies import WORDS, Reply
from support.world import World, open_runtime

ECHO = (sys.executable, "-m", "gateway.simulator.echo_agent")
SENDS = "/open-apis/im/v1/messages"
OFFLINE, NO_ANSWER = WORDS["en"][Reply.AGENT_OFFLINE], WORDS["en"][Reply.NO_ANSWER]
UNDELIVERED = WORDS["en"][Reply.ANSWER_UNDELIVERED]


async def test_agent_that_was_never_started_is_told_of_once_and_answers_when_it_is(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    await world.rows("update agent_runtime set last_heartbeat_at = null")
    async with world.daemon() as daemon:
        await bot.connected()
        for number in range(5):
            said = world.sim.say(ada, bot.app, f"hello {number}")
            with trio.fail_after(15):
                await said.event.settled()
        (notice,) = await world.answers(said.message.chat_id)
        assert OFFLINE in notice.content
        heading = {"tag": "plain_text", "content": await world.value("select name from agent")}
        assert notice.document["header"]["title"] == heading
        async with world.agent(daemon, *ECHO):
            _, answer = await world.answers(said.message.chat_id, 2)
        assert "hello 0" in answer.content
        assert "hello 4" in answer.content
        await world.until("select count(*) = 2 and bool_and(status = 'sent') from outbound_message")
    assert len(world.sim.sent(said.message.chat_id)) == 2


async def test_agent_that_dies_is_told_of_once_after_its_silence_however_much_is_said(world: World) -> None:
    """The first message is taken in while the runtime still counts as there: nobody writes again to wake the notice."""
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with (
        world.daemon(environment={"GATEWAY_LIMITS__RUNTIME_SILENCE_SECONDS": "4"}) as daemon,
        open_runtime(world, daemon) as runtime,
    ):
        await bot.connected()
        await world.rows("update agent_runtime set last_heartbeat_at = now()")
        said = world.sim.say(ada, bot.app, "are you there?")
        await runtime.answer("yes")
        await world.answers(said.message.chat_id)
        world.sim.say(ada, bot.app, "and now?")
        await world.until("select count(*) = 1 from agent_task where status = 'queued'")
        _, notice = await world.answers(said.message.chat_id, 2, seconds=25)
        assert OFFLINE in notice.content
        for number in range(5):
            said = world.sim.say(ada, bot.app, f"hello {number}")
            with trio.fail_after(15):
                await said.event.settled()
        await world.until("select count(*) = 7 from chat_message where role = 'user'")
        await world.until("select bool_and(status = 'sent') from outbound_message")
        assert len(world.sim.sent(said.message.chat_id)) == 2


async def test_program_that_ends_well_with_nothing_to_say_is_one_line(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, world.agent(daemon, sys.executable, "-c", "print('\u200b')"):
        await bot.connected()
        said = world.sim.say(ada, bot.app, "do something")
        (line,) = await world.answers(said.message.chat_id)
        assert NO_ANSWER in line.content
        await world.until("select kind = 'notice' and status = 'sent' from outbound_message")
    assert await world.value("select status from agent_task") == "completed"


async def test_answer_that_the_platform_refuses_is_one_line_and_no_loop(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        await bot.connected()
        world.sim.fail_next(SENDS, method="POST", status=400, code=230028, msg="the message does not pass the audit")
        said = world.sim.say(ada, bot.app, "say something forbidden")
        (line,) = await world.answers(said.message.chat_id)
        assert UNDELIVERED in line.content
        # Put out of the chat, the bot can say nothing at all: then the operator sees it, and nothing is tried again.
        world.sim.fail_next(SENDS, 9, method="POST", status=400, code=230002, msg="bot not in chat")
        world.sim.say(ada, bot.app, "and once more")
        await world.until("select count(*) = 3 from outbound_message where status = 'failed'")
        await world.until("select bool_and(status in ('sent', 'failed')) from outbound_message")
    kinds = await world.rows("select kind, status from outbound_message order by seq")
    assert kinds == [("answer", "failed"), ("notice", "sent"), ("answer", "failed"), ("notice", "failed")]
    assert len(world.sim.sent(said.message.chat_id)) == 1
    assert "say something forbidden" not in daemon.log


async def test_failed_run_is_logged_and_found(world: World) -> None:
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    program = "import sys; sys.exit('Error: 401 unauthorized, key of plum pudding')"
    async with world.daemon() as daemon, world.agent(daemon, sys.executable, "-c", program):
        await bot.connected()
        said = world.sim.say(ada, bot.app, "do something")
        await world.answers(said.message.chat_id)
        ((task_id, agent_id),) = await world.rows("select id, agent_id from agent_task where status = 'failed'")
        (line,) = [line for line in daemon.log.splitlines() if "task_failed" in line]
        expected = (str(task_id), str(agent_id), "agent_error.provider_auth_or_access", "warning")
        assert all(word in line for word in expected)
        assert "plum" not in daemon.log
    listed = await world.command("task", "list", "--agent", f"{world.workspace.slug}/Echo", "--status", "failed")
    assert [line.split("\t")[0] for line in listed.splitlines()] == ["ID", str(task_id)]
    shown = await world.command("task", "show", str(task_id))
    assert "plum pudding" in shown
