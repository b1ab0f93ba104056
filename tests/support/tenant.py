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
from support.rows import add_installation, add_workspace, insert

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
class Tenant:
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

    async def create(self, *, capacity: int = 6, language: str = "en") -> Tenant:
        name = self.workspace_id.hex
        await add_workspace(
            self.pool, f"w{name}", id=self.workspace_id, name="W", issue_prefix="ABC", language=language
        )
        await insert(self.pool, "app_user", id=self.user_id, email=f"{name}@example.org", name="Ann")
        await self.add_runtime(self.runtime_id, "runtime")
        await self.add_agent(self.agent_id, "agent", capacity=capacity)
        await add_installation(
            self.pool, self.workspace_id, self.agent_id, f"cli_{name}", id=self.installation_id, lease_epoch=1
        )
        return self

    async def add_runtime(self, runtime_id: UUID, name: str) -> RuntimePrincipal:
        await insert(self.pool, "agent_runtime", id=runtime_id, workspace_id=self.workspace_id, name=name)
        return RuntimePrincipal(runtime_id, self.workspace_id)

    async def add_agent(self, agent_id: UUID, name: str, *, capacity: int = 6, runtime_id: UUID | None = None) -> UUID:
        return await insert(
            self.pool,
            "agent",
            id=agent_id,
            workspace_id=self.workspace_id,
            name=name,
            runtime_id=runtime_id or self.runtime_id,
            max_concurrent_tasks=capacity,
        )

    async def add_session(
        self,
        *,
        agent_id: UUID | None = None,
        bound: bool = True,
        thread_id: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> Session:
        session_id = await insert(
            self.pool,
            "chat_session",
            workspace_id=self.workspace_id,
            agent_id=agent_id or self.agent_id,
            creator_id=self.user_id,
        )
        session = Session(session_id, f"oc_{uuid4().hex}")
        if bound:
            await insert(
                self.pool,
                "channel_chat_session_binding",
                workspace_id=self.workspace_id,
                chat_session_id=session.id,
                installation_id=self.installation_id,
                channel_type="feishu",
                channel_chat_id=session.chat_id,
                chat_type="p2p",
                last_message_id="om_last",
                last_thread_id=thread_id,
                config=config or {},
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


async def open_tenant(pool: Pool, *, capacity: int = 6, language: str = "en") -> Tenant:
    return await Tenant(pool).create(capacity=capacity, language=language)


@asynccontextmanager
async def ringing(tenant: Tenant, conninfo: str) -> AsyncIterator[None]:
    """The tenant's queue is rung by the database's notifications, as in the daemon."""

    def ring(payload: str) -> None:
        tenant.queue.ring(payload) if payload else tenant.queue.ring_all()

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
