"""A workspace with a bot on a simulated platform, for tests that run the daemon as a process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import asks
import trio

from gateway.keyring import KeyRing, generate_key
from gateway.lark.install.service import InstallationService, NewApp, identify_with
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.simulator.connections import SocketConnection
from gateway.simulator.messages import Message
from gateway.simulator.platform import App, Person, open_id
from gateway.simulator.server import open_simulator
from gateway.simulator.simulator import Simulator
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Agent, Directory, User, Workspace
from support.processes import GatewayProcess, open_gateway
from support.rows import query

LEASE_TTL_SECONDS = 2.0
"""Short, because a killed daemon's lease has to run out before the next one may connect."""


@dataclass
class World:
    """The database, the platform, and who is who. `key` is the ring that daemons are given."""

    conninfo: str
    pool: Pool
    sim: Simulator
    logs: Path
    key: str = field(default_factory=generate_key)
    environment: dict[str, str] = field(init=False)
    workspace: Workspace = field(init=False)
    owner: User = field(init=False)
    runtime_id: UUID = field(init=False)
    runtime_token: str = field(init=False)
    started: int = 0

    def __post_init__(self) -> None:
        self.environment = {"GATEWAY_LARK__OPEN_BASE_URL": self.sim.base_url}

    @property
    def state_dir(self) -> Path:
        """Where daemons keep files: never in the place of the account that runs the tests."""
        return self.logs / "state"

    @property
    def shared_environment(self) -> dict[str, str]:
        """What daemons and commands of this world have in common."""
        return {
            "GATEWAY_DATABASE_URL": self.conninfo,
            "GATEWAY_STATE_DIR": str(self.state_dir),
            "GATEWAY_SECRET_KEY": self.key,
            **self.environment,
        }

    @property
    def directory(self) -> Directory:
        return Directory(PostgresDirectoryStore(self.pool))

    async def settle(self) -> None:
        self.owner = await self.directory.add_user("ada@example.invalid", "Ada")
        self.workspace = await self.directory.add_workspace("Acme", "ACM", self.owner)
        runtime, self.runtime_token = await self.directory.add_runtime(self.workspace, "machine")
        self.runtime_id = runtime.id
        # As if its worker had been there a moment ago: what is said to an agent that never was is a test's own subject.
        await self.rows("update agent_runtime set last_heartbeat_at = now()")

    async def add_agent(self, name: str = "Echo") -> Agent:
        return await self.directory.add_agent(self.workspace, name, runtime_id=self.runtime_id)

    async def add_bot(self, name: str = "Echo") -> LarkBot:
        app = self.sim.create_app(name)
        bot = LarkBot(self, app, await self.add_agent(name))
        await bot.install()
        return bot

    @asynccontextmanager
    async def daemon(
        self,
        *,
        crash_at: tuple[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        wait_ready: bool = True,
    ) -> AsyncIterator[GatewayProcess]:
        """`gateway serve` on this world's database; killed on the way out unless it ended by itself."""
        self.started += 1
        merged = {
            "GATEWAY_HTTP__BIND": "127.0.0.1:0",
            "GATEWAY_HUB__BATCH_WINDOW_SECONDS": "0",
            "GATEWAY_HUB__LEASE_TTL_SECONDS": str(LEASE_TTL_SECONDS),
            **self.shared_environment,
            **(environment or {}),
        }
        log = self.logs / f"daemon-{self.started}.log"
        async with open_gateway(
            ["serve"], environment=merged, log=log, crash_at=crash_at, wait_ready=wait_ready
        ) as process:
            yield process

    async def command(self, *arguments: str, stdin: str = "") -> str:
        """What a short `gateway` command prints, run as an operator does on the daemon's machine."""
        done = await trio.run_process(
            [sys.executable, "-m", "gateway", *arguments],
            stdin=stdin.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.logs), **self.shared_environment},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode()

    @asynccontextmanager
    async def agent(self, daemon: GatewayProcess, *command: str) -> AsyncIterator[GatewayProcess]:
        """`gateway agent run` for this world's runtime."""
        arguments = ["agent", "run", "--server", daemon.url, "--", *command]
        environment = {"AGENT_TOKEN": self.runtime_token}
        async with open_gateway(arguments, environment=environment, log=self.logs / "agent.log") as process:
            yield process

    async def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return await query(self.pool, statement, *values)

    async def value(self, statement: str, *values: object) -> Any:
        (row,) = await self.rows(statement, *values)
        return row[0]

    async def until(self, statement: str, *values: object, seconds: float = 15) -> Any:
        """Wait until the statement's one value is true, and return it."""
        with trio.fail_after(seconds):
            while not (value := await self.value(statement, *values)):
                await trio.sleep(0.02)
        return value

    async def answers(self, chat_id: str, count: int = 1, *, seconds: float = 15) -> list[Message]:
        """What bots said in a chat, once they have said `count` things."""

        def look() -> list[Message] | None:
            sent = self.sim.sent(chat_id)
            return sent if len(sent) >= count else None

        with trio.fail_after(seconds):
            return await self.sim.until(look)

    async def everything_stored(self) -> str:
        """Every row of every table, for looking for what must not be there."""
        tables = await self.rows("select tablename from pg_tables where schemaname = 'public'")
        return json.dumps([await self.rows(f"select to_jsonb(t)::text from {name} t") for (name,) in tables])

    async def contents(self) -> list[str]:
        return [row[0] for row in await self.rows("select content from chat_message where role = 'user' order by seq")]


@asynccontextmanager
async def open_world(database: str, pool: Pool, logs: Path) -> AsyncIterator[World]:
    """A world for the block. Its platform sends nothing again, unless a test asks for it."""
    async with open_simulator(redelivery_scale=1000.0) as simulator:
        world = World(database, pool, simulator, logs)
        await world.settle()
        yield world


@dataclass
class LarkBot:
    """One app on the platform and its installation."""

    world: World
    app: App
    agent: Agent
    id: UUID = field(init=False)

    async def install(self) -> None:
        """`gateway lark add` without the command line: also what rotates credentials."""
        world = self.world
        service = InstallationService(
            PostgresInstallationStore(world.pool), KeyRing.parse(world.key), identify_with(world.sim.base_url)
        )
        installed = await service.add(NewApp(self.agent.id, self.app.app_id, self.app.secret))
        assert not installed.warning
        self.id = installed.installation.id

    async def bind(self, name: str, *, email: str = "ada@example.invalid") -> Person:
        person = self.world.sim.create_person(name)
        await self.bind_person(person, email=email)
        return person

    async def bind_person(self, person: Person, *, email: str = "ada@example.invalid") -> None:
        await BindingService(PostgresBindingStore(self.world.pool)).bind(
            self.id, open_id(self.app.app_id, person.union_id), email
        )

    async def connected(self, count: int = 1, *, seconds: float = 20) -> list[SocketConnection]:
        with trio.fail_after(seconds):
            return await self.world.sim.wait_connected(self.app, count)

    @property
    def most_live(self) -> int:
        return self.world.sim.most_live(self.app)


class Served(Protocol):
    """A daemon, wherever it runs."""

    @property
    def url(self) -> str: ...


class Runtime:
    """A runtime that a test plays itself, over HTTP, with a client that shares no code with the daemon's own."""

    def __init__(self, world: World, daemon: Served, http: asks.Session) -> None:
        self._base = daemon.url
        self._headers = {"Authorization": f"Bearer {world.runtime_token}"}
        self._runtime_id = world.runtime_id
        self._http = http

    async def post(self, path: str, body: object = None, **query: object) -> dict[str, Any]:
        answer = await self._http.post(
            f"{self._base}{path}",
            json={} if body is None else body,
            params={key: str(value) for key, value in query.items()},
            headers=self._headers,
            timeout=70,
        )
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return dict(json.loads(answer.content))

    async def claim(self, wait_seconds: int = 15) -> dict[str, Any]:
        task = (await self.post(f"/api/runtimes/{self._runtime_id}/tasks/claim", wait_seconds=wait_seconds))["task"]
        assert task is not None
        return dict(task)

    async def answer(self, text: str) -> dict[str, Any]:
        """Claim the next task and complete it."""
        task = await self.claim()
        await self.report(task, "start")
        await self.report(task, "complete", output=text)
        return task

    async def report(self, task: dict[str, Any], action: str, **fields: object) -> dict[str, Any]:
        """Say something of a claimed task in the name of its claim."""
        return await self.post(f"/api/tasks/{task['id']}/{action}", {"attempt": task["attempt"], **fields})


@asynccontextmanager
async def open_runtime(world: World, daemon: Served) -> AsyncIterator[Runtime]:
    async with asks.Session(connections=4) as http:
        yield Runtime(world, daemon, http)
