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
from support.rows import insert
from support.tenant import Tenant


@dataclass
class Autopilots:
    tenant: Tenant
    pool: Pool

    @property
    def dispatcher(self) -> AutopilotDispatcher:
        return AutopilotDispatcher(PostgresDispatchStore(self.pool), IssueService(PostgresIssueStore(self.pool)))

    async def fire(self, autopilot_id: UUID, source: str = "webhook", **firing: Any) -> Dispatched:
        if firing.get("payload") is not None:
            firing["payload"] = storable(msgspec.json.encode(firing["payload"]))
        return await self.dispatcher.dispatch(Firing(autopilot_id, source, **firing))  # type: ignore[arg-type]

    async def add(self, **columns: Any) -> UUID:
        """An active autopilot of the tenant's agent, made by its person."""
        row = {
            "workspace_id": self.tenant.workspace_id,
            "title": "Look after it",
            "description": "Do what is needed.",
            "assignee_id": self.tenant.agent_id,
            "created_by_id": self.tenant.user_id,
            **columns,
        }
        return await insert(self.pool, "autopilot", **row)

    async def add_trigger(self, autopilot_id: UUID, **columns: Any) -> UUID:
        row = {
            "workspace_id": self.tenant.workspace_id,
            "autopilot_id": autopilot_id,
            "kind": "webhook",
            **columns,
        }
        return await insert(self.pool, "autopilot_trigger", **row)

    async def add_squad(self, leader_id: UUID | None, **columns: Any) -> UUID:
        row = {
            "workspace_id": self.tenant.workspace_id,
            "name": f"squad {uuid4()}",
            "leader_agent_id": leader_id,
            **columns,
        }
        return await insert(self.pool, "squad", **row)

    async def add_person(self, role: str | None = "member") -> UUID:
        user_id = await insert(self.pool, "app_user", email=f"{uuid4().hex}@example.org")
        if role is not None:
            await self.join(user_id, role)
        return user_id

    async def join(self, user_id: UUID, role: str) -> None:
        await self.tenant.sql(
            "insert into member (workspace_id, user_id, role) values (%(workspace)s, %(user)s, %(role)s)",
            workspace=self.tenant.workspace_id,
            user=user_id,
            role=role,
        )

    async def runs(self) -> list[dict[str, Any]]:
        return await self.tenant.sql("select * from autopilot_run order by created_at, id")

    async def issues(self) -> list[dict[str, Any]]:
        return await self.tenant.sql("select * from issue order by number")


async def open_autopilots(pool: Pool) -> Autopilots:
    """With a runtime that was just heard of."""
    tenant = await Tenant(pool).create()
    await tenant.sql("update agent_runtime set last_heartbeat_at = now()")
    autopilots = Autopilots(tenant, pool)
    await autopilots.join(tenant.user_id, "member")
    return autopilots
