"""A message in and its answer out, on the oldest supported server: past a connection pooler, and through it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import open_pool
from support.oldest import Pooler
from support.world import World, open_world

ECHO = (sys.executable, "-m", "gateway.simulator.echo_agent")


@pytest.fixture
async def old_world(oldest_database: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_pool(oldest_database, size_max=5) as pool, open_world(oldest_database, pool, tmp_path) as world:
        yield world


@pytest.mark.parametrize("way", ["direct", "pooler_beside_direct", "pooler_alone"])
async def test_message_is_answered_once(old_world: World, pooler: Pooler, way: str) -> None:
    world = old_world
    if way != "direct":
        world.environment["GATEWAY_DATABASE_URL"] = pooler.to(str(conninfo_to_dict(world.conninfo)["dbname"]))
    if way == "pooler_beside_direct":
        world.environment["GATEWAY_DATABASE_DIRECT_URL"] = world.conninfo
    words = ["good morning", "again", "and again"]
    bot = await world.add_bot()
    ada = await bot.bind("Ada")
    async with world.daemon() as daemon, world.agent(daemon, *ECHO):
        await bot.connected()
        for count, word in enumerate(words, start=1):
            said = world.sim.say(ada, bot.app, word)
            with trio.fail_after(10):
                await said.event.settled()
            # Without notifications each step of the way is up to a second late.
            answers = await world.answers(said.message.chat_id, count, seconds=10)
            assert answers[-1].content.endswith(f': {word}"}}')
        assert len(answers) == len(words)
        assert ("notifications_unavailable" in daemon.log) == (way == "pooler_alone")
        assert await daemon.terminate() == 0
        assert "Traceback" not in daemon.log
    assert await world.contents() == words


CAUSES = {
    "search_path": ("set search_path = missing", "leads to no schema"),
    "read_only": ("set default_transaction_read_only = on", "is read-only for role gateway"),
}


@pytest.mark.parametrize("case", CAUSES)
async def test_start_on_an_unusable_database_ends_with_the_cause(old_world: World, case: str) -> None:
    setting, words = CAUSES[case]
    name = conninfo_to_dict(old_world.conninfo)["dbname"]
    async with await TrioConnection.connect(old_world.conninfo) as connection:
        await connection.execute(f"alter database {name} {setting}".encode())
    async with old_world.daemon(wait_ready=False) as daemon:
        assert await daemon.wait() == os.EX_CONFIG
        (line,) = daemon.log.splitlines()
        assert line.startswith("gateway: ")
        assert words in line
