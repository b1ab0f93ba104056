"""The official Python SDK, unchanged and in a process of its own, takes the simulator for the real platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from support.sim_client import SimClient

BOT = Path(__file__).parents[2] / "support" / "strangers" / "lark_oapi_bot.py"
START_SECONDS = 30


@dataclass
class Lines:
    """The JSON lines that a process has printed, gathered by a thread until it ends."""

    process: subprocess.Popen[str]
    seen: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def gather(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                with self.changed:
                    self.seen.append(json.loads(line))
                    self.changed.notify_all()

    async def until(self, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            return [line for line in self.seen if wanted(line)]

        def wait() -> None:
            with self.changed:
                self.changed.wait_for(lambda: len(found()) >= count, timeout=START_SECONDS)

        await trio.to_thread.run_sync(wait)
        assert len(found()) >= count, f"not printed within {START_SECONDS} s"
        return found()


@dataclass
class Stage:
    sim: SimClient
    app: dict[str, Any]
    bot: Lines


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
    )


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


async def hurry(sim: SimClient) -> None:
    """Short pings, and no waiting before a reconnect."""
    await sim.settings(client_config={"PingInterval": 1, "ReconnectInterval": 1, "ReconnectNonce": 0})


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A simulator and an SDK bot connected to it; both start once, because importing the SDK takes seconds."""
    options = ("--redelivery-scale", "0.02", "--app", "Stranger", "--person", "Ada")
    simulator = start("-m", "gateway", "sim", *options)
    try:
        assert simulator.stdout is not None
        ready = json.loads(simulator.stdout.readline())
        app = ready["apps"][0]
        trio.run(hurry, SimClient(ready["http"]))
        bot = start(str(BOT), ready["http"], app["app_id"], LARK_APP_SECRET=app["app_secret"])
        try:
            lines = Lines(bot)
            reader = threading.Thread(target=lines.gather)
            reader.start()
            yield Stage(SimClient(ready["http"]), app, lines)
        finally:
            stop(bot)
            reader.join()
            assert bot.stdout is not None
            bot.stdout.close()
    finally:
        stop(simulator)
        assert simulator.stdout is not None
        simulator.stdout.close()


async def test_sdk_whole_event_reaches_its_handler_and_its_ack_is_accepted(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)

    said = await stage.sim.say("Ada", "Stranger", "hello there", wait_seconds=10)

    [event] = said["events"]
    assert event["state"] == "delivered"
    [push] = event["pushes"]
    assert (push["outcome"], push["ack_code"], push["complaint"]) == ("delivered", 200, "")
    [line] = await stage.bot.until(lambda line: line.get("text") == "hello there")
    assert line["event_id"] == event["event_id"]
    assert line["message_id"] == said["message_id"]


async def test_sdk_chunked_event_is_put_together_and_acknowledged_once(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)

    text = "a long story, in parts " * 40
    said = await stage.sim.say("Ada", "Stranger", text, chunks=4, order=[2, 0, 3, 1], wait_seconds=10)

    [push] = said["events"][0]["pushes"]
    assert (push["outcome"], push["ack_code"]) == ("delivered", 200)
    assert len(await stage.bot.until(lambda line: line.get("text") == text)) == 1


async def test_sdk_handler_raises_event_comes_again_with_the_same_ids(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)

    said = await stage.sim.say("Ada", "Stranger", "fail once, please", wait_seconds=10)

    [event] = said["events"]
    assert [push["ack_code"] for push in event["pushes"]] == [500, 200]
    first, second = event["pushes"]
    assert first["transport_id"] != second["transport_id"]
    lines = await stage.bot.until(lambda line: line.get("text") == "fail once, please", count=2)
    assert {line["event_id"] for line in lines} == {event["event_id"]}
    assert {line["message_id"] for line in lines} == {said["message_id"]}


async def test_sdk_event_type_without_handler_is_refused_and_comes_again(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)

    event = await stage.sim.push_event(
        stage.app["app_id"], event_type="im.message.message_read_v1", event={"message_id_list": []}, wait_seconds=0.3
    )
    with trio.fail_after(10):
        while len(event["pushes"]) < 2:
            event = await stage.sim.event(event["event_id"], seconds=0.1)

    assert event["pushes"][0]["ack_code"] == 500


async def test_sdk_group_mention_names_the_bot(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)
    group = await stage.sim.create_group("Team", ["Stranger"], ["Ada"])

    await stage.sim.say("Ada", group["chat_id"], "@Stranger good morning", wait_seconds=10)

    [line] = await stage.bot.until(lambda line: line.get("text") == "@_user_1 good morning")
    assert line["mentions"] == ["Stranger"]


async def test_sdk_pong_config_is_taken_over(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)
    await stage.sim.settings(client_config={"PingInterval": 2})

    with trio.fail_after(START_SECONDS):
        interval = 0
        while interval != 2:
            said = await stage.sim.say("Ada", "Stranger", "how often?", wait_seconds=10)
            event_id = said["events"][0]["event_id"]
            [line] = await stage.bot.until(lambda line, event_id=event_id: line.get("event_id") == event_id)
            interval = line["ping_interval"]

    [connection] = await stage.sim.connections(stage.app["app_id"])
    assert connection["pings"] >= 1


async def test_sdk_connection_reset_comes_back_and_hears_what_was_pushed_meanwhile(stage: Stage) -> None:
    [connection] = await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)

    await stage.sim.drop(connection["connection_id"], "reset")
    said = await stage.sim.say("Ada", "Stranger", "are you there?", wait_seconds=15)

    assert said["events"][0]["state"] == "delivered"
    [again] = await stage.sim.connections(stage.app["app_id"])
    assert again["connection_id"] != connection["connection_id"]
    assert await stage.sim.most_live(stage.app["app_id"]) == 1


async def test_sdk_rest_client_sends_a_text_message(stage: Stage) -> None:
    await stage.sim.wait_connected(stage.app["app_id"], seconds=START_SECONDS)

    said = await stage.sim.say("Ada", "Stranger", "echo good evening", wait_seconds=10)

    [answer] = await stage.sim.sent(said["chat_id"], count=1, seconds=10)
    assert answer["text"] == "good evening"
    assert answer["uuid"] == said["message_id"]
    [line] = await stage.bot.until(lambda line: line.get("event") == "answered")
    assert (line["code"], line["message_id"]) == (0, answer["message_id"])
