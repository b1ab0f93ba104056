"""Pictures and files from a person's hands into an agent's, byte by byte, also when the daemon dies on the way."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gateway.simulator.faults import CallFault
from gateway.simulator.resources import Attachment
from gateway.simulator.simulator import Utterance
from support.processes import GatewayProcess
from support.world import LarkBot, World, open_runtime

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2_000
HASH = """
import hashlib, json, sys
files = [file for message in json.load(sys.stdin)["messages"] for file in message["attachments"]]
digest = lambda path: path and hashlib.sha256(open(path, "rb").read()).hexdigest()
told = ("kind", "name", "mime_type", "bytes")
print(json.dumps([[*map(file.get, told), digest(file["path"])] for file in files]))
"""


def seen(kind: str, name: str, mime_type: str, data: bytes) -> list[Any]:
    return [kind, name, mime_type, len(data), hashlib.sha256(data).hexdigest()]


async def download(world: World, daemon: GatewayProcess, task: dict[str, Any], n: int = 1) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {world.runtime_token}"}
    async with httpx2.AsyncClient(base_url=daemon.url, headers=headers, trust_env=False, timeout=60) as http:
        return await http.get(f"/api/tasks/{task['id']}/attachments/{n}")


async def staffed(world: World) -> tuple[LarkBot, Any]:
    bot = await world.add_bot()
    return bot, await bot.bind("Ada")


async def test_person_sends_everything_and_the_agent_gets_exactly_its_bytes(world: World) -> None:
    bot, ada = await staffed(world)
    report = b"%PDF-1.7 " + bytes(70_000)
    async with world.daemon() as daemon, world.agent(daemon, sys.executable, "-c", HASH):
        await bot.connected()
        said = world.sim.say(ada, bot.app, Utterance(attachments=[Attachment("image", data=PNG)]))
        chat = said.message.chat_id
        (answer,) = await world.answers(chat)
        assert json.loads(json.loads(answer.content)["text"]) == [seen("image", "image.png", "image/png", PNG)]
        named = Attachment("file", "../Übersicht\r\n 报告.pdf", "application/pdf", data=report)
        voice = Attachment("audio", data=b"OggS\x00\x02", duration_ms=900)
        video = Attachment("media", "clip.mp4", data=b"\x00\x00\x00\x18ftypisom" + bytes(90), says_length=False)
        for number, attachment in enumerate([named, voice, video], 2):
            world.sim.say(ada, bot.app, Utterance(attachments=[attachment]))
            await world.answers(chat, number)
        looked_at = [json.loads(json.loads(each.content)["text"]) for each in world.sim.sent(chat)[1:]]
        assert looked_at == [
            [seen("file", "Übersicht 报告.pdf", "application/pdf", report)],
            [seen("audio", "audio.opus", "audio/opus", voice.data)],
            [seen("video", "clip.mp4", "video/mp4", video.data)],
        ]


async def test_words_with_two_pictures_are_one_run_with_both(world: World) -> None:
    bot, ada = await staffed(world)
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        pictures = [Attachment("image", "a.png", data=PNG), Attachment("image", "b.png", data=PNG[::-1])]
        world.sim.say(ada, bot.app, Utterance("compare these", attachments=pictures))
        task = await runtime.claim()
        assert [file["n"] for file in task["messages"][0]["attachments"]] == [1, 2]
        assert (await download(world, daemon, task, 2)).content == PNG[::-1]


@pytest.mark.parametrize("command", ["", "/issue Fix the login\nlook:"])
async def test_daemon_killed_while_fetching_still_ends_in_one_run_with_the_bytes(world: World, command: str) -> None:
    bot, ada = await staffed(world)
    async with world.daemon(crash_at=("attachment.taken", 1)) as daemon:
        await bot.connected()
        world.sim.say(ada, bot.app, Utterance(command, attachments=[Attachment("image", "a.png", data=PNG)]))
        assert await daemon.wait() == -9
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        assert await world.value("select status from chat_attachment") == "pending"
        await world.rows("update chat_attachment set taken_at = taken_at - interval '16 seconds'")
        task = await runtime.claim(30)
        (file,) = task["messages"][0]["attachments"]
        assert (file["n"], file["name"], file["bytes"]) == (1, "a.png", len(PNG))
        assert (await download(world, daemon, task)).content == PNG
        assert task["kind"] == ("issue" if command else "chat")
    assert await world.value("select count(*) from agent_task") == 1
    assert await world.value("select count(*) from chat_attachment") == 1


async def test_platform_that_gives_nothing_keeps_no_run_from_happening(world: World) -> None:
    bot, ada = await staffed(world)
    world.sim.faults.plan(CallFault("/open-apis/im/v1/messages/*/resources/*", hang_seconds=600))
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        world.sim.say(ada, bot.app, Utterance("what is this", attachments=[Attachment("image", "a.png", data=PNG)]))
        await world.until("select count(*) = 1 from chat_attachment where taken_at is not null")
        await world.rows("update chat_attachment set deadline_at = now() + interval '1 second'")
        task = await runtime.claim(20)
        (file,) = task["messages"][0]["attachments"]
        assert (file["name"], file["bytes"]) == ("image", None)


async def test_replica_without_the_file_fetches_it_again(world: World, tmp_path: Path) -> None:
    bot, ada = await staffed(world)
    other = {"GATEWAY_STATE_DIR": str(tmp_path / "other")}
    async with (
        world.daemon() as first,
        world.daemon(environment=other) as second,
        open_runtime(world, first) as runtime,
    ):
        await bot.connected()
        world.sim.say(ada, bot.app, Utterance(attachments=[Attachment("image", "a.png", data=PNG)]))
        task = await runtime.claim()
        for daemon in (first, second):
            answer = await download(world, daemon, task)
            assert (answer.status_code, answer.content) == (200, PNG)
    name = str(await world.value("select id from chat_attachment"))
    for state_dir in (world.state_dir, tmp_path / "other"):
        assert [path.name for path in await trio.Path(state_dir / "attachments").iterdir()] == [name]


async def test_file_that_was_recalled_is_said_to_be_missing(world: World) -> None:
    bot, ada = await staffed(world)
    refusal = CallFault("/open-apis/im/v1/messages/*/resources/*", status=400, code=230110, msg="deleted")
    world.sim.faults.plan(refusal)
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        world.sim.say(ada, bot.app, Utterance(attachments=[Attachment("file", "report.pdf", data=PNG)]))
        task = await runtime.claim()
        assert task["messages"][0]["text"] == "[File]\n[report.pdf: unable to fetch]"
        assert task["messages"][0]["attachments"] == []


async def test_picture_of_somebody_unbound_is_neither_kept_nor_fetched(world: World) -> None:
    bot = await world.add_bot()
    eve = world.sim.create_person("Eve")
    async with world.daemon():
        await bot.connected()
        said = world.sim.say(eve, bot.app, Utterance(attachments=[Attachment("image", "a.png", data=PNG)]))
        with trio.fail_after(10):
            await said.event.settled()
        await world.until("select count(*) = 1 from channel_inbound_audit")
    assert await world.value("select count(*) from chat_attachment") == 0
    assert not await trio.Path(world.state_dir / "attachments").exists()


async def test_files_of_a_quote_and_of_a_nested_bundle_reach_the_agent(world: World, tmp_path: Path) -> None:
    bot, ada = await staffed(world)
    eve = world.sim.create_person("Eve")
    group = world.sim.create_group("Lunch", [bot.app], [ada, eve])
    elsewhere = world.sim.create_group("Elsewhere", [], [ada, eve])
    contract, sheet = b"%PDF-1.7 " + bytes(900), b"a,b\n1,2\n"
    world.sim.say(eve, group, Utterance(attachments=[Attachment("file", "aside.bin", data=b"not asked about")]))
    quoted = world.sim.say(eve, group, Utterance(attachments=[Attachment("file", "合同.pdf", data=contract)])).message
    picture = world.sim.say(eve, elsewhere, Utterance(attachments=[Attachment("image", data=PNG)])).message
    table = world.sim.say(eve, elsewhere, Utterance(attachments=[Attachment("file", "a.xlsx", data=sheet)])).message
    inner = world.sim.say(ada, elsewhere, Utterance(forwards=[table.message_id])).message
    other = {"GATEWAY_STATE_DIR": str(tmp_path / "other")}
    async with (
        world.daemon() as daemon,
        world.daemon(environment=other) as second,
        open_runtime(world, daemon) as runtime,
    ):
        await bot.connected()
        world.sim.say(ada, group, Utterance("sum it up", mentions=[bot.app], reply_to=quoted.message_id))
        task = await runtime.answer("done")
        (file,) = task["messages"][0]["attachments"]
        assert (file["n"], file["kind"], file["name"]) == (1, "file", "合同.pdf")
        assert "[File: 合同.pdf]" in task["prompt"]
        for replica in (daemon, second):
            assert (await download(world, replica, task)).content == contract
        world.sim.say(ada, bot.app, Utterance(forwards=[picture.message_id, inner.message_id]))
        bundle = await runtime.claim()
        assert [file["kind"] for file in bundle["messages"][0]["attachments"]] == ["image", "file"]
        assert [(await download(world, daemon, bundle, n)).content for n in (1, 2)] == [PNG, sheet]
        assert "[File: a.xlsx]" in bundle["prompt"]
        kept = await world.everything_stored()
    # Nothing is known of the file that was only near what was said.
    assert await world.value("select count(*) from chat_attachment where status = 'ready'") == 3
    assert "a.xlsx" in kept
    assert "aside.bin" not in kept


async def test_run_that_is_handed_out_again_has_the_same_files_once(world: World) -> None:
    bot, ada = await staffed(world)
    async with world.daemon() as daemon, open_runtime(world, daemon) as runtime:
        await bot.connected()
        quoted = world.sim.say(
            ada, bot.app, Utterance(attachments=[Attachment("file", "old.txt", data=b"old")])
        ).message
        await runtime.answer("a file")
        own = [Attachment("file", "own.txt", data=b"own")]
        world.sim.say(ada, bot.app, Utterance(attachments=own, reply_to=quoted.message_id))
        for _ in range(2):
            task = await runtime.claim()
            files = task["messages"][0]["attachments"]
            assert [(file["n"], file["name"]) for file in files] == [(1, "own.txt"), (2, "old.txt")]
            assert [(await download(world, daemon, task, n)).content for n in (1, 2)] == [b"own", b"old"]
            await runtime.report(task, "start")
            await runtime.report(task, "fail", error="again", failure_reason="timeout")
            await world.rows("update agent_task set available_at = now() where status = 'queued'")
    assert await world.value("select count(*) from chat_attachment") == 3
