"""Bots of the reference product's database serve here, with their secrets, their people and their conversations."""

from __future__ import annotations

import os
import sys
from uuid import uuid4

import pytest
import trio

from gateway.postgres.driver import TrioConnection
from gateway.simulator.platform import open_id
from gateway.work.people.directory import AgentChange
from support.database import fresh_database
from support.legacy_world import OldBot, OldWorld, Shape
from support.world import World, open_runtime


@pytest.mark.parametrize("shape", ["lark", "channel"])
async def test_imported_bot_is_connected_at_once_and_its_conversation_goes_on(
    world: World, postgres: str, shape: Shape
) -> None:
    app, person = world.sim.create_app("Old"), world.sim.create_person("Ada")
    async with (
        fresh_database(postgres, template="template0") as conninfo,
        await TrioConnection.connect(conninfo) as connection,
        world.daemon() as daemon,
    ):
        old = OldWorld(conninfo, shape, connection)
        await old.build()
        account, chat = open_id(app.app_id, person.union_id), world.sim.direct_chat(person, app)
        bot = OldBot(uuid4(), await old.add_agent("Helper"), app.app_id, app.secret, account, chat.chat_id)
        await old.add_whole(bot)
        await move(world, old)
        with trio.fail_after(20):
            await world.sim.wait_connected(app)
        await give_runtime(world, old, bot)
        world.sim.say(person, app, "and now?")
        async with open_runtime(world, daemon) as runtime:
            task = await runtime.answer("as before")
        assert task["chat_session_id"] == str(bot.direct_id)
        # What was said in the old place is not answered a second time.
        assert [message["text"] for message in task["messages"]] == ["and now?"]
        await world.answers(chat.chat_id)
        said = "select content from chat_message where chat_session_id = %s order by seq"
        assert [content for (content,) in await world.rows(said, bot.direct_id)] == [
            "direct hello",
            "direct hi",
            "direct again",
            "and now?",
            "as before",
        ]


async def give_runtime(world: World, old: OldWorld, bot: OldBot) -> None:
    """The imported agent gets a runtime of its workspace that this test plays."""
    workspace = await world.directory.workspace(str(old.workspace_id))
    runtime, world.runtime_token = await world.directory.add_runtime(workspace, "new machine")
    agent = await world.directory.agent(bot.agent_id)
    await world.directory.set_agent(agent, AgentChange(sets_runtime=True, runtime_id=runtime.id))
    world.runtime_id = runtime.id


async def move(world: World, old: OldWorld) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    settings = {
        "GATEWAY_DATABASE_URL": world.conninfo,
        "GATEWAY_SECRET_KEY": world.key,
        "GATEWAY_STATE_DIR": str(world.logs),
    }
    with trio.fail_after(60):
        await trio.run_process(
            [sys.executable, "-m", "gateway", "legacy", "import", "--from", old.conninfo, "--legacy-key-stdin"],
            stdin=old.key.encode(),
            capture_stdout=True,
            env=inherited | settings,
        )
