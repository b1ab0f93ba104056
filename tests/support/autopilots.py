"""A workspace with autopilots in Postgres, whose rows tests write as an older release or another process might."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import msgspec

from gateway.postgres.dispatch_store import PostgresDispatchStore
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.pool import Pool
from gateway.webhooks.envelope import storable
from gateway.work.autopilots.dispatch import AutopilotDispatcher, Dispatched, Firing
from gateway.work.issues.issues import IssueService
from support.task_world import World


@dataclass
class Autopilots:
    world: World
    pool: Pool

    @property
    def dispatcher(self) -> AutopilotDispatcher:
        return AutopilotDispatcher(PostgresDispatchStore(self.pool), IssueService(PostgresIssueStore(self.pool)))

    async def fire(self, autopilot_id: UUID, source: str = "webhook", **firing: Any) -> Dispatched:
        if firing.get("payload") is not None:
            firing["payload"] = storable(msgspec.json.encode(firing["payload"]))
        return await self.dispatcher.dispatch(Firing(autopilot_id, source, **firing))  # type: ignore[arg-type]

    async def add(self, **columns: Any) -> UUID:
        """An active autopilot of the world's agent, made by the world's person."""
        row = {
            "id": uuid4(),
            "workspace_id": self.world.workspace_id,
            "title": "Look after it",
            "description": "Do what is needed.",
            "assignee_id": self.world.agent_id,
            "created_by_id": self.world.user_id,
            **columns,
        }
        return await self._insert("autopilot", row)

    async def add_trigger(self, autopilot_id: UUID, **columns: Any) -> UUID:
        row = {
            "id": uuid4(),
            "workspace_id": self.world.workspace_id,
            "autopilot_id": autopilot_id,
            "kind": "webhook",
            **columns,
        }
        return await self._insert("autopilot_trigger", row)

    async def add_squad(self, leader_id: UUID | None, **columns: Any) -> UUID:
        row = {
            "id": uuid4(),
            "workspace_id": self.world.workspace_id,
            "name": f"squad {uuid4()}",
            "leader_agent_id": leader_id,
            **columns,
        }
        return await self._insert("squad", row)

    async def add_person(self, role: str | None = "member") -> UUID:
        user_id = await self._insert("app_user", {"id": uuid4(), "email": f"{uuid4().hex}@example.org"})
        if role is not None:
            await self.join(user_id, role)
        return user_id

    async def join(self, user_id: UUID, role: str) -> None:
        await self.world.sql(
            "insert into member (workspace_id, user_id, role) values (%(workspace)s, %(user)s, %(role)s)",
            workspace=self.world.workspace_id,
            user=user_id,
            role=role,
        )

    async def runs(self) -> list[dict[str, Any]]:
        return await self.world.sql("select * from autopilot_run order by created_at, id")

    async def issues(self) -> list[dict[str, Any]]:
        return await self.world.sql("select * from issue order by number")

    async def _insert(self, table: str, row: dict[str, Any]) -> UUID:
        columns, values = ", ".join(row), ", ".join(f"%({name})s" for name in row)
        ((inserted),) = await self.world.sql(f"insert into {table} ({columns}) values ({values}) returning id", **row)
        found: UUID = inserted["id"]
        return found


async def open_autopilots(pool: Pool) -> Autopilots:
    """With a runtime that was just heard of."""
    world = await World(pool).create()
    await world.sql("update agent_runtime set last_heartbeat_at = now()")
    autopilots = Autopilots(world, pool)
    await autopilots.join(world.user_id, "member")
    return autopilots
