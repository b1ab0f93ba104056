"""`gateway demo`: a morning in Lark, played on real processes on loopback.

The simulated platform, the daemon with its embedded Postgres, and an echo agent each run as a process of their own.
Every line of the transcript was observed from outside of these processes. The first unexpected result ends the demo.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import httpx2
import trio

from gateway.cli.output import config_option
from gateway.concurrency import finishing
from gateway.errors import GatewayError

READY_SECONDS = 60.0
STEP_SECONDS = 30.0
STOP_SECONDS = 20.0
ADA = "ada@example.invalid"
EVE = "eve@example.invalid"
SIGNING_SECRET = "not-a-real-signing-secret"  # noqa: S105
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one dot."""
ROLES_ON_STAGE = {"agent": "the agent", "serve": "the daemon and its database", "sim": "the simulated platform"}
PASSWORD = "not-a-real-password"  # noqa: S105


_CODE = re.compile(rb"[?&]user_code=([^&]+)")


def _link_to_scan(shown: bytes) -> tuple[str, str] | None:
    """Return the link that a person scans from a terminal's output, and its code; None until the link is complete."""
    *words, _unfinished = re.split(rb"\s+", shown)
    for word in words:
        if word.startswith((b"http://", b"https://")) and (code := _CODE.search(word)):
            return word.decode(), code[1].decode()
    return None


class DemoFailed(GatewayError):
    """A step of the morning had an unexpected result."""


@click.command()
@click.option("--once/--keep", default=True, help="End after the morning (default), or leave everything running.")
@config_option
def demo(once: bool, config: Path | None) -> None:
    """Play a morning with a simulated platform, the daemon and an echo agent, and print it as a transcript.

    Exits 0 only if every line came out as expected. Nothing outside loopback and a temporary folder is touched.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        trio.run(_demo, Path(folder), once, config)


async def _demo(folder: Path, once: bool, config: Path | None) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
            async with open_stage(folder, config) as stage:
                for number, (title, step) in enumerate(MORNING, 1):
                    await _play(stage, number, title, step)
                click.echo(f"\nAll {len(MORNING)} lines came out as expected.")
                if not once:
                    _say_where(stage)
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        if not scope.cancel_called:
            click.echo(
                "\nStopping. This takes some seconds: messages in flight are finished, and the database is closed."
            )
        scope.cancel()


async def _play(stage: Stage, number: int, title: str, step: Step) -> None:
    try:
        with trio.fail_after(STEP_SECONDS):
            seen = await step(stage)
    except trio.TooSlowError as error:
        click.echo(stage.last_words(), err=True)
        raise DemoFailed(f"line {number}, {title!r}, took more than {STEP_SECONDS:g} s") from error
    except DemoFailed as error:
        click.echo(stage.last_words(), err=True)
        raise DemoFailed(f"line {number}, {title!r}: {error}") from error
    click.echo(f"{number:2}  {title}")
    for line in seen:
        click.echo(f"      {line}")


def _say_where(stage: Stage) -> None:
    stage.tells_end = True
    click.echo(f"\nOpen this       {stage.platform.url}/  and chat with the bot; choose there who you are")
    for name in ("Ada", "Eve"):
        click.echo(f"  as {name}        {stage.platform.url}/?as={name}")
    click.echo(f"The gateway     {stage.daemon.url}/login  (health: /readyz)")
    for email in (ADA, EVE):
        click.echo(f"  sign in as    {email}  with the password  {PASSWORD}")
    click.echo("Ctrl-C ends it, and takes away all that it made.")


# --- the stage: processes, and two ways to look at them ---------------------------------------------------------------


@dataclass
class Process:
    """One `gateway` process, its log, and the line that it printed when it was ready."""

    name: str
    process: trio.Process
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.ready["http"])

    async def read_ready(self) -> None:
        """Read stdout up to the ready line. `drain` reads the rest. Raises DemoFailed if the process ends before it."""
        assert self.process.stdout is not None  # noqa: S101  (opened with a pipe)
        text = b""
        while not text.endswith(b"\n"):
            data = await self.process.stdout.receive_some()
            if not data:
                raise DemoFailed(f"{self.name} ended before it was ready: {self.tail()}")
            text += data
        self.ready = json.loads(text.splitlines()[-1])

    async def drain(self) -> None:
        assert self.process.stdout is not None  # noqa: S101
        async for _ in self.process.stdout:
            pass

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL if it still runs after STOP_SECONDS."""
        if self.process.returncode is None:
            self.process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await self.process.wait()
            return
        self.process.kill()
        await self.process.wait()

    def tail(self, lines: int = 8) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a port that is free at this moment. Links name the daemon's address before the daemon listens on it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stage:
    """The running processes, the ids and secrets of the people and bots, and the ways to observe from outside."""

    folder: Path
    nursery: trio.Nursery
    http: httpx2.AsyncClient
    config: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    link: str = field(default="", repr=False)
    person: str = field(default="", repr=False)
    port: int = field(default_factory=free_port)
    tells_end: bool = False
    """True once a person was told where to look: then each process is named as it is stopped."""

    @property
    def platform(self) -> Process:
        return self._named("sim")

    @property
    def daemon(self) -> Process:
        return self._named("serve")

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "XDG_STATE_HOME": str(self.folder),
            "GATEWAY_STATE_DIR": str(self.folder / "state"),
            "GATEWAY_HTTP__BIND": f"127.0.0.1:{self.port}",
            "GATEWAY_HTTP__PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "GATEWAY_LARK__OPEN_BASE_URL": self.platform.url if self.processes else "http://127.0.0.1:1",
            "GATEWAY_LARK__ACCOUNTS_BASE_URL": self.platform.url if self.processes else "http://127.0.0.1:1",
            # The morning is short: wait less for a second message, and take over sooner after a crash.
            "GATEWAY_HUB__BATCH_WINDOW_SECONDS": "0.2",
            "GATEWAY_HUB__LEASE_TTL_SECONDS": "3",
        }

    def _named(self, name: str) -> Process:
        return next(process for process in reversed(self.processes) if process.name == name)

    def last_words(self) -> str:
        said = [f"\n--- {process.name}\n{process.tail()}" for process in self.processes if process.log.stat().st_size]
        return "".join(said)

    async def start(
        self, name: str, *arguments: str, subcommand: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start `gateway NAME SUBCOMMAND ARGUMENTS` and wait until it is ready."""
        log = self.folder / f"{name}-{len(self.processes)}.log"
        with log.open("wb") as stderr:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "gateway", name, *subcommand, *self.config, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self.environment | dict(environment or {}),
            )
        started = Process(name, process, log)
        self.processes.append(started)
        with trio.fail_after(READY_SECONDS):
            await started.read_ready()
        self.nursery.start_soon(started.drain)
        return started

    async def cli(self, *arguments: str, stdin: str = "") -> Any:
        """Run one command as an operator would, and return its JSON. Raises DemoFailed if the command fails."""
        command = [sys.executable, "-m", "gateway", *arguments, *self.config, "--json"]
        done = await trio.run_process(
            command, stdin=stdin.encode(), capture_stdout=True, capture_stderr=True, check=False, env=self.environment
        )
        if done.returncode:
            raise DemoFailed(f"`gateway {' '.join(arguments)}` failed: {done.stderr.decode(errors='replace').strip()}")
        return json.loads(done.stdout)

    async def connect_by_scan(self, agent_id: str, person: str, brand: str) -> list[str]:
        """Run `gateway lark install` while a person scans the code that it shows. Returns the lines that it showed."""
        command = [sys.executable, "-m", "gateway", "lark", "install", "--agent", agent_id, *self.config]
        shown = b""
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, command, stdout=subprocess.PIPE, env=self.environment)
            terminal: trio.Process = await nursery.start(start)
            assert terminal.stdout is not None  # noqa: S101  (opened with a pipe)
            async for data in terminal.stdout:
                unseen, shown = shown, shown + data
                link = _link_to_scan(shown)
                if link is not None and _link_to_scan(unseen) is None:
                    url, code = link
                    await self.sim("POST", f"scans/{code}/authorize", {"person": person, "brand": brand, "url": url})
        return shown.decode().rstrip().splitlines()

    async def sim(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Make a control call to the simulated platform. Raises DemoFailed if it is refused."""
        given = {key: str(value) for key, value in query.items()}
        answer = await self.http.request(method, f"{self.platform.url}/_sim/{path}", json=body, params=given)
        if answer.status_code != 200:
            raise DemoFailed(f"the simulator refused {method} {path}: {answer.text}")
        return answer.json()

    async def api(self, method: str, path: str, status: int, body: object = None) -> Any:
        """Call the gateway's API in Ada's name and return the JSON. Raises DemoFailed for another status."""
        headers = {"Authorization": f"Bearer {self.person}"}
        answer = await self.http.request(method, f"{self.daemon.url}{path}", json=body, headers=headers)
        if answer.status_code != status:
            raise DemoFailed(f"{method} {path} is answered {answer.status_code}: {answer.text}")
        return answer.json()

    async def deliver(self, path: str, body: bytes, signature: str, delivery: str) -> httpx2.Response:
        """Send a webhook as GitHub sends it."""
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        return await self.http.post(f"{self.daemon.url}{path}", content=body, headers=headers)

    async def say(self, sender: str, to: str, text: str, **options: object) -> dict[str, Any]:
        """Write as a person. Waits at most 20 s until the platform has the acknowledgement, or has given up."""
        body = {"sender": sender, "to": to, "text": text, "wait_seconds": 20, **options}
        said: dict[str, Any] = await self.sim("POST", "messages", body)
        return said

    async def answers(self, chat_id: str, count: int) -> list[str]:
        """Return the bot's messages in a chat, once there are `count`. Raises DemoFailed for another number."""
        found = await self.sim("GET", f"chats/{chat_id}/messages", sender_type="app", wait_count=count, wait_seconds=20)
        texts = [message["text"] for message in found]
        expect(len(texts) == count, f"the bot said {len(texts)} things instead of {count}")
        return texts

    async def wait_live(self, count: int = 1) -> dict[str, Any]:
        state: dict[str, Any] = await self.sim(
            "GET", "connections", app=self.ids["app"], live_count=count, wait_seconds=25
        )
        live = [one for one in state["connections"] if one["live"]]
        expect(len(live) == count, f"{len(live)} connections are live instead of {count}")
        return state


@asynccontextmanager
async def open_stage(folder: Path, config: Path | None = None) -> AsyncIterator[Stage]:
    """Yield an empty stage. Every process that was started on it is stopped on the way out, the last one first."""
    async with httpx2.AsyncClient(timeout=70, trust_env=False) as http, trio.open_nursery() as nursery:
        stage = Stage(folder, nursery, http, ["--config", str(config)] if config else [])
        try:
            yield stage
        finally:
            with finishing(2 * STOP_SECONDS):
                for process in reversed(stage.processes):
                    if stage.tells_end:
                        click.echo(f"  {ROLES_ON_STAGE[process.name]} ...")
                    await process.stop()
            nursery.cancel_scope.cancel()


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DemoFailed(otherwise)


def acknowledged(said: dict[str, Any], *, pushes: int = 1) -> str:
    """Return the acknowledgement of a message in words. Raises DemoFailed unless `pushes` pushes delivered it."""
    (event,) = said["events"]
    return acknowledgement(event, pushes=pushes)


def acknowledged_by_each(said: dict[str, Any]) -> str:
    """Return the acknowledgements of a message that several bots receive. Raises DemoFailed unless all took it."""
    return "; ".join(acknowledgement(event, pushes=1) for event in said["events"])


def acknowledgement(event: dict[str, Any], *, pushes: int = 1) -> str:
    expect(event["state"] == "delivered", f"the event is {event['state']}, not delivered")
    expect(len(event["pushes"]) == pushes, f"it took {len(event['pushes'])} pushes instead of {pushes}")
    last = event["pushes"][-1]
    return f"ACK {last['ack_code']} after {last['latency_ms']:.1f} ms"


# --- the morning ------------------------------------------------------------------------------------------------------

Step = Callable[[Stage], Awaitable[Sequence[str]]]


async def open_the_office(stage: Stage) -> Sequence[str]:
    platform = await stage.start("sim", "--redelivery-scale", "0.02")
    # One address stands for both clouds here. The platform's usual five seconds between two polls are too long here.
    await stage.sim("PUT", "settings", {"scan_interval_seconds": 0.2, "regions_apart": False})
    daemon = await stage.start("serve")
    return [
        f"the simulated platform is process {platform.process.pid} at {platform.url}",
        f"the daemon, with its own Postgres, is process {daemon.process.pid} at {daemon.url}",
    ]


async def connect_a_bot(stage: Stage) -> Sequence[str]:
    await stage.cli("admin", "user", "add", ADA, "--name", "Ada", "--password-stdin", stdin=f"{PASSWORD}\n")
    await stage.cli("admin", "workspace", "add", "Acme", "--prefix", "ACM", "--owner", ADA)
    runtime = await stage.cli("admin", "runtime", "add", "acme", "machine-room")
    agent = await stage.cli("admin", "agent", "add", "acme", "Echo", "--runtime", runtime["id"])
    app = await stage.sim("POST", "apps", {"name": "Echo"})
    for name in ("Ada", "Eve"):
        person = await stage.sim("POST", "people", {"name": name})
        stage.ids[name] = person["open_ids"][app["app_id"]]
    stage.ids |= {"app": app["app_id"], "agent": agent["id"], "runtime": runtime["id"]}
    stage.token, stage.secret = runtime["token"], app["app_secret"]
    bot = await add_bot(stage)
    stage.ids["bot"] = bot["id"]
    await stage.wait_live()
    return [f"`gateway lark add` made installation {bot['id']}; its connection is live"]


async def add_bot(stage: Stage) -> dict[str, Any]:
    arguments = ("--agent", stage.ids["agent"], "--app-id", stage.ids["app"], "--app-secret-stdin")
    added: dict[str, Any] = await stage.cli("lark", "add", *arguments, stdin=stage.secret + "\n")
    return added


async def start_an_agent(stage: Stage) -> Sequence[str]:
    program = (sys.executable, "-m", "gateway.simulator.echo_agent")
    token = {"AGENT_TOKEN": stage.token}
    arguments = ("--server", stage.daemon.url, "--", *program)
    agent = await stage.start("agent", *arguments, subcommand=("run",), environment=token)
    return [f"`gateway agent run` is process {agent.process.pid}; it starts one program per task"]


async def bind_a_person(stage: Stage) -> Sequence[str]:
    await stage.cli("lark", "bind", stage.ids["bot"], stage.ids["Ada"], ADA)
    return [f"`gateway lark bind` vouched that {stage.ids['Ada']} is {ADA}"]


async def write_directly(stage: Stage) -> Sequence[str]:
    said = await stage.say("Ada", stage.ids["app"], "good morning")
    stage.ids |= {"chat": said["chat_id"], "event": said["events"][0]["event_id"]}
    (answer,) = await stage.answers(said["chat_id"], 1)
    expect(answer.endswith(": good morning"), f"the answer is {answer!r}")
    worker = int(answer.removeprefix("echo from process ").partition(":")[0])
    expect(worker not in {process.process.pid for process in stage.processes}, "the answer came from inside the daemon")
    return ["Ada: good morning", acknowledged(said), f"bot: {answer}"]


async def deliver_again(stage: Stage) -> Sequence[str]:
    event = await stage.sim("POST", f"events/{stage.ids['event']}/redeliver", {}, wait_seconds=10)
    told = acknowledgement(event, pushes=2)
    await trio.sleep(1)
    await stage.answers(stage.ids["chat"], 1)
    return [f"the same event once more: {told}, and no second answer"]


async def write_in_pieces(stage: Stage) -> Sequence[str]:
    said = await stage.say("Ada", stage.ids["app"], "in three pieces", chunks=3, order=[2, 0, 1])
    answers = await stage.answers(stage.ids["chat"], 2)
    expect(answers[1].endswith(": in three pieces"), f"the answer is {answers[1]!r}")
    return ["Ada: in three pieces (three frames, the last one first)", acknowledged(said), f"bot: {answers[1]}"]


async def let_a_stranger_write(stage: Stage) -> Sequence[str]:
    said = await stage.say("Eve", stage.ids["app"], "let me in")
    (question,) = await stage.answers(said["chat_id"], 1)
    link = re.search(rf"{stage.daemon.url}/lark/bind\?token=\S+", question)
    expect(link is not None, f"Eve is told {question!r}")
    stage.link = link.group() if link else ""
    await stage.say("Eve", stage.ids["app"], "hello?")
    await stage.answers(said["chat_id"], 1)
    return [
        "Eve, whom nobody bound, writes twice",
        f"{acknowledged(said)}; nothing of it was kept",
        f"bot, once: {question.replace(stage.link, stage.link[:-40] + '…')}",
    ]


async def bind_herself(stage: Stage) -> Sequence[str]:
    await stage.cli("admin", "user", "add", EVE, "--name", "Eve", "--password-stdin", stdin=f"{PASSWORD}\n")
    token = {"token": stage.link.partition("token=")[2]}
    async with httpx2.AsyncClient(
        base_url=stage.daemon.url, headers={"Origin": stage.daemon.url}, trust_env=False
    ) as browser:
        signed_in = await browser.post("/api/auth/login", json={"email": EVE, "password": PASSWORD})
        refused = await browser.get(stage.link)
        await stage.cli("admin", "member", "add", "acme", EVE)
        asked = await browser.post("/api/lark/binding/preview", json=token)
        page = await browser.get(stage.link)
        proof = re.search(r'name="proof" value="(\w+)"', page.text)
        pressed = await browser.post("/lark/bind", data={**token, "proof": proof[1] if proof else ""})
        again = await browser.get(stage.link)
    codes = [answer.status_code for answer in (signed_in, refused, asked, page, pressed, again)]
    expect(codes == [200, 403, 200, 200, 200, 410], f"the answers are {codes}")
    parties = asked.json()
    names = [parties["person"]["name"], parties["bot"]["name"], parties["account"]["email"]]
    expect(names == ["Eve", "Echo", EVE], f"the link is said to bind {names}")
    expect(all(name in page.text for name in names), "the page does not name who is bound to what")
    said = await stage.say("Eve", stage.ids["app"], "it is me")
    answers = await stage.answers(said["chat_id"], 2)
    expect(answers[1].endswith(": it is me"), f"the answer is {answers[1]!r}")
    return [
        "Eve signs in and opens her link: 403 while she is no member, and nothing is bound by opening it",
        f"it names {names[0]}, the bot {names[1]} and {names[2]}; her press binds, and then the link is over (410)",
        f"Eve: it is me; {acknowledged(said)}",
        f"bot: {answers[1]}",
    ]


async def talk_in_a_group(stage: Stage) -> Sequence[str]:
    await stage.sim("PATCH", f"apps/{stage.ids['app']}", {"hears_all_group_messages": True})
    group = await stage.sim("POST", "groups", {"name": "Lunch", "apps": [stage.ids["app"]], "people": ["Ada", "Eve"]})
    aside = await stage.say("Ada", group["chat_id"], "soup or salad?")
    addressed = await stage.say("Ada", group["chat_id"], "what do you say?", mentions=[stage.ids["app"]])
    (answer,) = await stage.answers(group["chat_id"], 1)
    expect("soup" not in answer, "the bot was told what was not said to it")
    return [
        f"Ada, to everybody: {acknowledged(aside)}, and the bot keeps out of it",
        f"Ada, to the bot: {acknowledged(addressed)}",
        f"bot: {answer}",
    ]


async def meet_another_bot(stage: Stage) -> Sequence[str]:
    app = await stage.sim("POST", "apps", {"name": "Zoe", "hears_all_group_messages": True})
    agent = await stage.cli("admin", "agent", "add", "acme", "Zoe", "--runtime", stage.ids["runtime"])
    arguments = ("--agent", agent["id"], "--app-id", app["app_id"], "--app-secret-stdin")
    bot = await stage.cli("lark", "add", *arguments, stdin=app["app_secret"] + "\n")
    (ada,) = [one for one in await stage.sim("GET", "people") if one["name"] == "Ada"]
    await stage.cli("lark", "bind", bot["id"], ada["open_ids"][app["app_id"]], ADA)
    await stage.sim("GET", "connections", app=app["app_id"], live_count=1, wait_seconds=25)
    both = [stage.ids["app"], app["app_id"]]
    group = await stage.sim("POST", "groups", {"name": "Tea", "apps": both, "people": ["Ada", "Eve"]})
    said = await stage.say("Ada", group["chat_id"], "tea, please", mentions=[app["app_id"]])
    acks = [acknowledgement(event, pushes=1) for event in said["events"]]
    expect(len(acks) == 2, f"{len(acks)} bots heard it instead of two")
    await stage.answers(group["chat_id"], 1)
    (message,) = await stage.sim("GET", f"chats/{group['chat_id']}/messages", sender_type="app")
    expect(message["sender_id"] == app["app_id"], f"{message['sender_name']} answered")
    stage.ids["group"] = group["chat_id"]
    return [
        "Ada, to Zoe, while Echo listens: tea, please",
        f"both bots: {acks[0]}; {acks[1]}",
        f"Zoe: {message['text']}",
    ]


async def open_a_topic(stage: Stage) -> Sequence[str]:
    first = await stage.say("Eve", stage.ids["group"], "who brings cake?")
    said = await stage.say(
        "Ada", stage.ids["group"], "do you?", mentions=[stage.ids["app"]], reply_to=first["message_id"], in_thread=True
    )
    await stage.answers(stage.ids["group"], 2)
    messages = await stage.sim("GET", f"chats/{stage.ids['group']}/messages")
    question, answer = messages[-2], messages[-1]
    expect(bool(answer["thread_id"]), "the answer is not in a topic")
    expect(answer["thread_id"] == question["thread_id"], "the answer is in another topic than the question")
    return [
        "Ada, in a topic of the group: do you?",
        f"{acknowledged_by_each(said)}",
        f"bot, in the topic: {answer['text']}",
    ]


async def send_a_picture(stage: Stage) -> Sequence[str]:
    picture = {"kind": "image", "name": "cake.png", "mime_type": "image/png", "base64": PICTURE}
    said = await stage.say("Ada", stage.ids["app"], "", attachments=[picture])
    answer = (await stage.answers(said["chat_id"], 3))[2]
    size = len(base64.b64decode(PICTURE))
    expect(answer.endswith(f"(image of {size} bytes)"), f"the answer is {answer!r}")
    return [f"Ada sends a picture of {size} bytes", acknowledged(said), f"bot: {answer}"]


async def scan_a_code(stage: Stage) -> Sequence[str]:
    agent = await stage.cli("admin", "agent", "add", "acme", "Max", "--runtime", stage.ids["runtime"])
    shown = await stage.connect_by_scan(agent["id"], "Ada", "lark")
    listed = await stage.cli("lark", "list")
    (bot,) = [one for one in listed if one["agent_id"] == agent["id"]]
    expect(bot["region"] == "lark", f"the new bot is of {bot['region']}")
    await stage.sim("GET", "connections", app=bot["app_id"], live_count=1, wait_seconds=25)
    said = await stage.say("Ada", bot["app_id"], "hello from the other cloud")
    (answer,) = await stage.answers(said["chat_id"], 1)
    return [*shown, "Ada scans it with an account of the other cloud, Lark, and is followed there", f"bot: {answer}"]


async def file_an_issue(stage: Stage) -> Sequence[str]:
    said = await stage.say("Ada", stage.ids["app"], "/issue The coffee machine leaks\nSince Monday.")
    confirmation = (await stage.answers(said["chat_id"], 4))[3]
    link = f"{stage.daemon.url}/issues/ACM-1"
    expect(confirmation == f"Created ACM-1: The coffee machine leaks\n{link}", f"the reply is {confirmation!r}")
    return ["Ada: /issue The coffee machine leaks", acknowledged(said), f"bot: {confirmation.replace(chr(10), ' ')}"]


async def file_it_again(stage: Stage) -> Sequence[str]:
    said = await stage.say("Ada", stage.ids["app"], "/issue the COFFEE machine leaks")
    reply = (await stage.answers(said["chat_id"], 5))[4]
    expect(reply.startswith("ACM-1 has this title already"), f"the reply is {reply!r}")
    return ["Ada: /issue the COFFEE machine leaks", acknowledged(said), f"bot: {reply.replace(chr(10), ' ')}"]


async def start_afresh(stage: Stage) -> Sequence[str]:
    said = await stage.say("Ada", stage.ids["app"], "/new what about tea?")
    answer = (await stage.answers(said["chat_id"], 6))[5]
    expect(answer.endswith(": what about tea?"), f"the answer is {answer!r}")
    return ["Ada: /new what about tea?", acknowledged(said), f"bot: {answer}"]


async def receive_webhooks(stage: Stage) -> Sequence[str]:
    issued = await stage.cli("admin", "token", "add", "--user", ADA, "--name", "demo")
    stage.person = issued["token"]
    wanted = {"title": "Watch the kitchen", "assignee_id": stage.ids["agent"], "execution_mode": "run_only"}
    autopilot = await stage.api("POST", "/api/workspaces/acme/autopilots", 201, wanted)
    stage.ids["autopilot"] = autopilot["id"]
    triggers = f"/api/autopilots/{autopilot['id']}/triggers"
    trigger = await stage.api("POST", triggers, 201, {"kind": "webhook", "provider": "github"})
    secret = {"signing_secret": SIGNING_SECRET}
    hint = await stage.api("PUT", f"{triggers}/{trigger['id']}/signing-secret", 200, secret)
    expect(SIGNING_SECRET not in json.dumps(hint), "the signing secret came back")
    body = json.dumps({"ref": "refs/heads/main", "commits": [{"message": "fix the kettle"}]}).encode()
    good = hmac.digest(SIGNING_SECRET.encode(), body, "sha256").hex()
    answers = [
        await stage.deliver(trigger["webhook_path"], body, signature, delivery)
        for signature, delivery in ((good, "one"), ("0" * 64, "two"), (good, "one"), (good, "two"))
    ]
    expect([answer.status_code for answer in answers] == [200, 401, 200, 200], f"{[one.text for one in answers]}")
    told = [answer.json() for answer in answers]
    expect([one["status"] for one in told] == ["accepted", "rejected", "duplicate", "accepted"], f"{told}")
    expect(told[2]["run_id"] == told[0]["run_id"], "the duplicate has another run")
    stage.ids["delivery"] = told[0]["delivery_id"]
    return [
        f"a delivery with a good signature: 200, run {told[0]['run_id']}",
        "one with a forged signature: 401, and a row that says so",
        "the first one again: 200, a duplicate of the same run",
        "the forged one's id with a good signature: 200, it blocked nothing",
    ]


async def replay_webhooks(stage: Stage) -> Sequence[str]:
    path = f"/api/autopilots/{stage.ids['autopilot']}"
    again = await stage.api("POST", f"{path}/deliveries/{stage.ids['delivery']}/replay", 201)
    expect(again["replayed_from_delivery_id"] == stage.ids["delivery"], "the replay is of another delivery")
    wanted: dict[str, Any] = {"filter": {"status": "dispatched"}, "budget": 2}
    plan = await stage.api("POST", f"{path}/deliveries/replays", 200, wanted)
    bulk = await stage.api("POST", f"{path}/deliveries/replays", 201, {**wanted, "dry_run": False})
    while bulk["status"] not in {"completed", "cancelled", "failed"}:
        await trio.sleep(0.1)
        bulk = await stage.api("GET", f"{path}/deliveries/replays/{bulk['id']}", 200)
    expect((bulk["status"], bulk["accepted"]) == ("completed", 2), f"the bulk replay ended as {bulk}")
    while True:
        runs = await stage.api("GET", f"{path}/runs", 200)
        if all(run["status"] == "completed" for run in runs["runs"]):
            break
        await trio.sleep(0.1)
    listed = await stage.api("GET", f"{path}/deliveries", 200)
    expect((runs["total"], listed["total"]) == (5, 6), f"{runs['total']} runs of {listed['total']} deliveries")
    return [
        f"the first delivery is replayed: a row and a run of its own, {again['id']}",
        f"a plan over what was dispatched: {plan['matched']} match, {plan['planned']} within the budget, and are done",
        f"{listed['total']} deliveries in the log, {runs['total']} runs, all of them completed by the agent",
    ]


async def rotate_credentials(stage: Stage) -> Sequence[str]:
    rotated = await stage.sim("POST", f"apps/{stage.ids['app']}/rotate-secret", {"overlap_seconds": 30})
    stage.secret = rotated["app_secret"]
    before = await stage.wait_live()
    await add_bot(stage)
    while True:
        after = await stage.wait_live()
        if len(after["connections"]) > len(before["connections"]):
            break
        await trio.sleep(0.05)
    said = await stage.say("Ada", stage.ids["app"], "still there?")
    answers = await stage.answers(stage.ids["chat"], 7)
    most = after["most_live"][stage.ids["app"]]
    expect(most == 1, f"{most} connections were live at once")
    return ["a new app secret, the old connection handed over to a new one", acknowledged(said), f"bot: {answers[6]}"]


async def crash(stage: Stage) -> Sequence[str]:
    daemon = stage.daemon
    daemon.process.kill()
    await daemon.process.wait()
    await stage.wait_live(0)
    said = await stage.say("Ada", stage.ids["app"], "anybody home?", wait_seconds=0)
    port = {"GATEWAY_HTTP__BIND": daemon.url.removeprefix("http://")}
    again = await stage.start("serve", environment=port)
    event = await stage.sim("GET", f"events/{said['events'][0]['event_id']}", wait_seconds=25)
    expect(event["state"] == "delivered", f"the event is {event['state']}, not delivered")
    answers = await stage.answers(stage.ids["chat"], 8)
    return [
        f"kill -9 of process {daemon.process.pid}; Ada: anybody home?",
        f"process {again.process.pid} takes over on the same state, and the platform delivers again",
        f"bot: {answers[7]}",
    ]


async def count(stage: Stage) -> Sequence[str]:
    state = await stage.wait_live()
    most = state["most_live"][stage.ids["app"]]
    expect(most == 1, f"{most} connections of the bot were live at once")
    answers = await stage.answers(stage.ids["chat"], 8)
    return [f"{len(answers)} messages in the direct chat, {len(answers)} answers; never two live connections"]


MORNING: Sequence[tuple[str, Step]] = (
    ("The office opens", open_the_office),
    ("A bot is connected", connect_a_bot),
    ("An agent starts", start_an_agent),
    ("A person is bound", bind_a_person),
    ("A direct message", write_directly),
    ("The platform delivers an event twice", deliver_again),
    ("An event in chunks", write_in_pieces),
    ("A stranger is asked to bind", let_a_stranger_write),
    ("The stranger binds", bind_herself),
    ("A group", talk_in_a_group),
    ("A group with two bots", meet_another_bot),
    ("A topic", open_a_topic),
    ("A picture", send_a_picture),
    ("A bot is connected by a scan", scan_a_code),
    ("An issue", file_an_issue),
    ("The same issue again", file_it_again),
    ("A fresh start", start_afresh),
    ("Webhooks", receive_webhooks),
    ("Webhooks are replayed", replay_webhooks),
    ("The app secret is rotated", rotate_credentials),
    ("The daemon crashes", crash),
    ("The count", count),
)
