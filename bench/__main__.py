"""Run every competitor in turn, several rounds, on one Postgres; print and store medians.

    python -m bench [--rounds 5] [--events 4000] [--installations 500]

The peers: lark-oapi always (it is pinned for the tests); the Node SDK when node and npm are on PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from bench.platform import APP_ID, APP_SECRET, BOT_OPEN_ID, Platform, Run, chat, open_platform, person
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.embedded import open_embedded

HERE = Path(__file__).parent
CHATS = 64


@dataclass
class World:
    """The database all competitors share, and the one bot in it."""

    conninfo: str
    base_url: str
    key: str
    workspace_id: str = ""
    agent_id: str = ""
    user_id: str = ""
    installation_id: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "GATEWAY_DATABASE_URL": self.conninfo,
            "GATEWAY_SECRET_KEY": self.key,
            "GATEWAY_LARK__OPEN_BASE_URL": self.base_url,
            "GATEWAY_HTTP__BIND": "127.0.0.1:0",
        }

    def cli(self, *arguments: str, stdin: str = "") -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments, "--json"],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"gateway {' '.join(arguments)} failed: {done.stderr}")
        return dict(json.loads(done.stdout))

    def settle(self) -> None:
        """Make the workspace, its agent, the bot, and `CHATS` bound people who have all written before."""
        email = "bench@example.invalid"
        self.user_id = str(
            self.cli("admin", "user", "add", email, "--password-stdin", stdin="not-a-real-password\n")["id"]
        )
        self.workspace_id = str(
            self.cli("admin", "workspace", "add", "Bench", "--prefix", "BEN", "--owner", email)["id"]
        )
        runtime = self.cli("admin", "runtime", "add", "bench", "machine")
        agent = self.cli("admin", "agent", "add", "bench", "Echo", "--runtime", str(runtime["id"]))
        self.agent_id = str(agent["id"])
        bot = self.cli(
            "lark", "add", "--agent", self.agent_id, "--app-id", APP_ID, "--app-secret-stdin", stdin=APP_SECRET
        )
        self.installation_id = str(bot["id"])
        with psycopg.connect(self.conninfo, autocommit=True) as database:
            # No worker runs here, and conversations would be told so.
            database.execute("update agent_runtime set last_heartbeat_at = now() + interval '1 day'")
            for number in range(CHATS):
                self.introduce(database, number)

    def introduce(self, database: psycopg.Connection, number: int) -> None:
        session = uuid4()
        database.execute(
            "insert into channel_user_binding"
            " (id, workspace_id, user_id, installation_id, channel_type, channel_user_id)"
            " values (%s, %s, %s, %s, 'feishu', %s)",
            (uuid4(), self.workspace_id, self.user_id, self.installation_id, person(number)),
        )
        database.execute(
            "insert into chat_session (id, workspace_id, agent_id, creator_id) values (%s, %s, %s, %s)",
            (session, self.workspace_id, self.agent_id, self.user_id),
        )
        database.execute(
            "insert into channel_chat_session_binding"
            " (id, workspace_id, chat_session_id, installation_id, channel_type, channel_chat_id, chat_type)"
            " values (%s, %s, %s, %s, 'feishu', %s, 'p2p')",
            (uuid4(), self.workspace_id, session, self.installation_id, chat(number)),
        )


@contextmanager
def running(
    command: list[str], environment: dict[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=log, stderr=log)
    try:
        yield process
    except BaseException:
        log.seek(0)
        sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
        raise
    finally:
        if process.poll() is not None:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


Start = Callable[[World], "list[str]"]


@dataclass
class Competitor:
    name: str
    command: Start
    cwd: Path | None = None
    throughput: list[Run] = field(default_factory=list)
    latency: list[Run] = field(default_factory=list)

    def rate(self) -> float:
        return statistics.median(run.rate for run in self.throughput)

    def milliseconds(self, share: float) -> float:
        return 1000 * statistics.median(run.percentile(share) for run in self.latency)


def gateway_command(world: World) -> list[str]:
    return [sys.executable, "-m", "gateway", "serve"]


def lark_oapi_command(world: World) -> list[str]:
    script = str(HERE / "peers" / "lark_oapi_peer.py")
    return [
        sys.executable,
        "-W",
        "ignore",
        script,
        world.base_url,
        APP_ID,
        APP_SECRET,
        world.conninfo,
        world.installation_id,
    ]


def node_competitor(stack: ExitStack) -> Competitor | None:
    """The Node SDK, installed for this run into a folder of its own; None where node is not present."""
    if not (shutil.which("node") and shutil.which("npm")):
        return None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-node-")))
    for name in ("node_peer.mjs", "writes.sql"):
        shutil.copy(HERE / "peers" / name, folder)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "@larksuiteoapi/node-sdk@1.74.0", "pg@8"]
    if subprocess.run(install, cwd=folder, check=False).returncode:
        print("the Node SDK could not be installed; measuring without it", file=sys.stderr)
        return None

    def command(world: World) -> list[str]:
        where = conninfo_to_dict(world.conninfo)
        target = [str(where[key]) for key in ("host", "user", "dbname")]
        return ["node", "node_peer.mjs", world.base_url, APP_ID, APP_SECRET, *target, world.installation_id]

    return Competitor("Node SDK 1.74", command, folder)


async def one_turn(platform: Platform, world: World, competitor: Competitor, events: int) -> None:
    platform.connected.clear()
    with running(competitor.command(world), world.environment, competitor.cwd):
        await asyncio.wait_for(platform.connected.wait(), 60)
        # The Node SDK begins to listen a moment after its socket is open, and loses what came before.
        await asyncio.sleep(1)
        await platform.measure(events=500, outstanding=8, chats=CHATS)
        competitor.throughput.append(await platform.measure(events=events, outstanding=32, chats=CHATS))
        competitor.latency.append(await platform.measure(events=events // 8, outstanding=1, chats=CHATS))
    refused = competitor.throughput[-1].refused + competitor.latency[-1].refused
    if refused:
        raise RuntimeError(f"{competitor.name} refused {refused} events: the figure would mean nothing")


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


async def memory_per_installation(platform: Platform, world: World, count: int) -> float:
    """RSS of a daemon with one bot against one with `count` more, all connected; bytes for each of them."""
    ring = KeyRing.parse(world.key)

    async def resident(expected: int) -> int:
        with running(gateway_command(world), world.environment) as process:
            async with asyncio.timeout(180):
                while len(platform.connections) < expected:
                    await asyncio.sleep(0.2)
            await asyncio.sleep(5)
            return resident_bytes(process.pid)

    alone = await resident(1)
    add_installations(world, ring, count)
    together = await resident(count + 1)
    return (together - alone) / count


def add_installations(world: World, ring: KeyRing, count: int) -> None:
    import base64

    with psycopg.connect(world.conninfo, autocommit=True) as database, database.transaction():
        for number in range(count):
            agent, installation = uuid4(), uuid4()
            sealed = base64.b64encode(ring.seal(APP_SECRET.encode(), owner=installation)).decode()
            config = {"app_id": f"cli_{number:016x}", "app_secret_encrypted": sealed, "bot_open_id": BOT_OPEN_ID}
            database.execute(
                "insert into agent (id, workspace_id, name) values (%s, %s, %s)",
                (agent, world.workspace_id, f"agent {number}"),
            )
            database.execute(
                "insert into channel_installation (id, workspace_id, agent_id, channel_type, config)"
                " values (%s, %s, %s, 'feishu', %s)",
                (installation, world.workspace_id, agent, json.dumps(config)),
            )


def table(competitors: list[Competitor], rounds: int, per_installation: float, installations: int) -> str:
    ours, base = competitors[0], competitors[1]
    lines = [
        f"# Figures of {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{os.cpu_count()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30} GiB memory, "
        f"{machine.system()}, Python {machine.python_version()}; embedded Postgres 18 with fsync on. `make bench`: "
        f"all in one run, alternating, medians of {rounds} rounds. Load generator, database and competitor share the "
        "cores.",
        "",
        "Each competitor makes the same rows durable before it acknowledges: claim, membership check, message, reply",
        "target, one queued run, mark. The peers do it in one transaction with prepared statements.",
        "",
        "| | durable ACKs/s, 32 outstanding | × lark-oapi | p50 ms, 1 outstanding | p99 ms | p50 × lark-oapi |",
        "|---|---|---|---|---|---|",
    ]
    for one in competitors:
        lines.append(
            f"| {one.name} | {one.rate():,.0f} | {one.rate() / base.rate():.2f} | {one.milliseconds(0.5):.2f} | "
            f"{one.milliseconds(0.99):.2f} | {one.milliseconds(0.5) / base.milliseconds(0.5):.2f} |"
        )
    lines += [
        "",
        f"Memory: {per_installation / 1024:.1f} KiB RSS for each of {installations} connected bots in one process.",
        "",
        f"Floor: {ours.name} ≥ 2.5 × lark-oapi at 32 outstanding, p50 at one outstanding ≤ 2 × lark-oapi's.",
        "",
    ]
    return "\n".join(lines)


async def contest(conninfo: str, arguments: argparse.Namespace) -> str:
    with ExitStack() as stack:
        competitors = [Competitor("gateway", gateway_command), Competitor("lark-oapi 1.7.5", lark_oapi_command)]
        node = node_competitor(stack)
        competitors += [node] if node else []
        async with open_platform() as platform:
            world = World(conninfo, platform.base_url, generate_key())
            await asyncio.to_thread(world.settle)
            for number in range(arguments.rounds):
                for competitor in competitors:
                    await one_turn(platform, world, competitor, arguments.events)
                    last = competitor.throughput[-1]
                    print(f"round {number + 1}: {competitor.name}: {last.rate:,.0f}/s", flush=True)
            per_installation = await memory_per_installation(platform, world, arguments.installations)
        return table(competitors, arguments.rounds, per_installation, arguments.installations)


async def main(arguments: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with open_embedded(Path(folder) / "state") as conninfo:
            return await trio.to_thread.run_sync(lambda: asyncio.run(contest(conninfo, arguments)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--installations", type=int, default=500)
    parser.add_argument("--dry-run", action="store_true", help="print only; leave RESULTS.md alone")
    options = parser.parse_args()
    result = trio.run(main, options)
    print(result)
    if not options.dry_run:
        results = HERE / "RESULTS.md"
        _, heading, by_hand = results.read_text(encoding="utf-8").partition("\n## ")  # what bench.fleet measured
        results.write_text(result + heading + by_hand, encoding="utf-8")
