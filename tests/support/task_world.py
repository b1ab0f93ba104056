"""A workspace with a bot, an agent and its runtime in Postgres, for tests of tasks and of the outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgspec
import trio
from psycopg.rows import dict_row

from gateway.concurrency import Topics
from gateway.postgres.driver import TrioConnection
from gateway.postgres.listen import run_listener
from gateway.postgres.pool import Pool
from gateway.postgres.task_store import PostgresTaskStore
from gateway.work.people.directory import RuntimePrincipal
from gateway.work.tasks.ports import Attempt, LossLimits
from gateway.work.tasks.tasks import AssignedTask, TaskService

# What the inbound path does for a message, reduced to what tasks see of it.
APPEND = """
with appended as (
  insert into chat_message (id, chat_session_id, role, kind, content, author_user_id, context_generation)
  values (gen_random_uuid(), %(session)s, 'user', %(kind)s, %(text)s, %(author)s, %(generation)s)
)
insert into agent_task (id, workspace_id, agent_id, kind, chat_session_id, available_at)
select gen_random_uuid(), workspace_id, agent_id, 'chat', id, now() + make_interval(secs => %(window)s)
from chat_session where id = %(session)s
on conflict (chat_session_id) where status = 'queued' and kind = 'chat'
  do update set available_at = excluded.available_at
returning id
"""


@dataclass
class Session:
    id: UUID
    chat_id: str


@dataclass
class World:
    """One workspace. `queue` is rung by nobody unless the test runs `ringing`."""

    pool: Pool
    workspace_id: UUID = field(default_factory=uuid4)
    user_id: UUID = field(default_factory=uuid4)
    agent_id: UUID = field(default_factory=uuid4)
    runtime_id: UUID = field(default_factory=uuid4)
    installation_id: UUID = field(default_factory=uuid4)
    queue: Topics = field(default_factory=Topics)
    limits: LossLimits = field(default_factory=LossLimits)

    @property
    def runtime(self) -> RuntimePrincipal:
        return RuntimePrincipal(self.runtime_id, self.workspace_id)

    @property
    def store(self) -> PostgresTaskStore:
        return PostgresTaskStore(self.pool)

    @property
    def service(self) -> TaskService:
        return TaskService(self.store, self.queue, limits=self.limits)

    async def sql(self, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        async with self.pool.connection() as conn:
            cursor = conn.cursor(row_factory=dict_row)
            await cursor.execute(statement.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []

    async def create(self, *, capacity: int = 6, language: str = "en") -> World:
        name = self.workspace_id.hex
        await self.sql(
            "insert into workspace (id, name, slug, issue_prefix, language)"
            " values (%(id)s, 'W', %(slug)s, 'ABC', %(language)s)",
            id=self.workspace_id,
            slug=f"w{name}",
            language=language,
        )
        await self.sql(
            "insert into app_user (id, email, name) values (%(id)s, %(email)s, 'Ann')",
            id=self.user_id,
            email=f"{name}@example.org",
        )
        await self.add_runtime(self.runtime_id, "runtime")
        await self.add_agent(self.agent_id, "agent", capacity=capacity)
        await self.sql(
            "insert into channel_installation (id, workspace_id, agent_id, channel_type, config, lease_epoch)"
            " values (%(id)s, %(workspace)s, %(agent)s, 'feishu', jsonb_build_object('app_id', %(app)s::text), 1)",
            id=self.installation_id,
            workspace=self.workspace_id,
            agent=self.agent_id,
            app=f"cli_{name}",
        )
        return self

    async def add_runtime(self, runtime_id: UUID, name: str) -> RuntimePrincipal:
        await self.sql(
            "insert into agent_runtime (id, workspace_id, name) values (%(id)s, %(workspace)s, %(name)s)",
            id=runtime_id,
            workspace=self.workspace_id,
            name=name,
        )
        return RuntimePrincipal(runtime_id, self.workspace_id)

    async def add_agent(self, agent_id: UUID, name: str, *, capacity: int = 6, runtime_id: UUID | None = None) -> UUID:
        await self.sql(
            "insert into agent (id, workspace_id, name, runtime_id, max_concurrent_tasks)"
            " values (%(id)s, %(workspace)s, %(name)s, %(runtime)s, %(capacity)s)",
            id=agent_id,
            workspace=self.workspace_id,
            name=name,
            runtime=runtime_id or self.runtime_id,
            capacity=capacity,
        )
        return agent_id

    async def add_session(
        self,
        *,
        agent_id: UUID | None = None,
        bound: bool = True,
        thread_id: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> Session:
        session = Session(uuid4(), f"oc_{uuid4().hex}")
        await self.sql(
            "insert into chat_session (id, workspace_id, agent_id, creator_id)"
            " values (%(id)s, %(workspace)s, %(agent)s, %(user)s)",
            id=session.id,
            workspace=self.workspace_id,
            agent=agent_id or self.agent_id,
            user=self.user_id,
        )
        if bound:
            await self.sql(
                "insert into channel_chat_session_binding (id, workspace_id, chat_session_id, installation_id,"
                " channel_type, channel_chat_id, chat_type, last_message_id, last_thread_id, config)"
                " values (gen_random_uuid(), %(workspace)s, %(session)s, %(installation)s, 'feishu', %(chat)s, 'p2p',"
                " 'om_last', %(thread)s, %(config)s::jsonb)",
                workspace=self.workspace_id,
                session=session.id,
                installation=self.installation_id,
                chat=session.chat_id,
                thread=thread_id,
                config=msgspec.json.encode(config or {}).decode(),
            )
        return session

    async def say(
        self, session: Session, text: str, *, window: float = 0, generation: int = 0, kind: str = "text"
    ) -> UUID:
        """A message arrives in the session; the id of the task that will answer it, unless another takes it first."""
        rows = await self.sql(
            APPEND,
            session=session.id,
            text=text,
            author=self.user_id,
            window=window,
            generation=generation,
            kind=kind,
        )
        task_id: UUID = rows[0]["id"]
        return task_id

    async def attach(
        self, session: Session, *keys: str, kind: str = "image", name: str = "", seconds: float = 45
    ) -> None:
        """The newest message of the session came with these files."""
        for n, key in enumerate(keys, 1):
            await self.sql(
                "insert into chat_attachment (id, workspace_id, installation_id, chat_session_id, chat_message_id, n,"
                " kind, channel_message_id, channel_key, name, deadline_at)"
                " select gen_random_uuid(), %(workspace)s, %(installation)s, %(session)s, id, %(n)s, %(kind)s, 'om_1',"
                " %(key)s, %(name)s, now() + make_interval(secs => %(seconds)s)"
                " from chat_message where chat_session_id = %(session)s order by seq desc limit 1",
                workspace=self.workspace_id,
                installation=self.installation_id,
                session=session.id,
                n=n,
                kind=kind,
                key=key,
                name=name,
                seconds=seconds,
            )

    async def running(self, session: Session, text: str = "hello") -> AssignedTask:
        """A message that is being worked on."""
        await self.say(session, text)
        assignment = await self.service.claim(self.runtime, self.runtime_id)
        assert assignment is not None
        await self.service.start(self.runtime, assignment.claim.identity)
        return assignment

    async def task(self, task_id: UUID) -> dict[str, Any]:
        return (await self.sql("select * from agent_task where id = %(id)s", id=task_id))[0]

    async def attempt(self, task_id: UUID) -> Attempt:
        """The attempt that the task is at."""
        return Attempt(task_id, (await self.task(task_id))["attempt"])

    async def tasks(self) -> list[dict[str, Any]]:
        return await self.sql("select * from agent_task order by created_at, id")

    async def answers(self, session: Session) -> list[str]:
        rows = await self.sql(
            "select content from chat_message where chat_session_id = %(id)s and role = 'assistant' order by seq",
            id=session.id,
        )
        return [row["content"] for row in rows]

    async def outbox(self) -> list[dict[str, Any]]:
        return await self.sql("select * from outbound_message order by seq")

    async def silence_runtime(self, seconds: float = 151) -> None:
        await self.sql(
            "update agent_runtime set last_heartbeat_at = now() - make_interval(secs => %(seconds)s) where id = %(id)s",
            seconds=seconds,
            id=self.runtime_id,
        )


async def open_world(pool: Pool, *, capacity: int = 6, language: str = "en") -> World:
    return await World(pool).create(capacity=capacity, language=language)


@asynccontextmanager
async def ringing(world: World, conninfo: str) -> AsyncIterator[None]:
    """The world's queue is rung by the database's notifications, as in the daemon."""

    def ring(payload: str) -> None:
        world.queue.ring(payload) if payload else world.queue.ring_all()

    async with trio.open_nursery() as nursery:
        await nursery.start(run_listener, lambda: TrioConnection.connect(conninfo), {"gateway_task": ring})
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hearing_events(conninfo: str) -> AsyncIterator[list[dict[str, Any]]]:
    """What `gateway_event` announced while the block ran, complete once the block has ended."""
    events: list[dict[str, Any]] = []
    ended = trio.Event()

    def hear(payload: str) -> None:
        if payload == "end":
            ended.set()
        elif payload:
            events.append(msgspec.json.decode(payload))

    async with trio.open_nursery() as nursery:
        await nursery.start(run_listener, lambda: TrioConnection.connect(conninfo), {"gateway_event": hear})
        yield events
        async with await TrioConnection.connect(conninfo, autocommit=True) as conn:
            await conn.execute("select pg_notify('gateway_event', 'end')")
        with trio.fail_after(10):
            await ended.wait()
        nursery.cancel_scope.cancel()
