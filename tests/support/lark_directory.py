"""A workspace with people and an agent, for tests of what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from gateway.postgres.pool import Pool
from support import rows


@dataclass(frozen=True)
class Place:
    workspace_id: UUID
    agent_id: UUID
    owner_id: UUID
    owner_email: str


async def add_person(pool: Pool, email: str) -> UUID:
    return await rows.insert(pool, "app_user", email=email)


async def add_member(pool: Pool, workspace_id: UUID, user_id: UUID, role: str = "member") -> None:
    await rows.query(
        pool, "insert into member (workspace_id, user_id, role) values (%s, %s, %s)", workspace_id, user_id, role
    )


async def add_agent(pool: Pool, workspace_id: UUID, name: str) -> UUID:
    return await rows.insert(pool, "agent", workspace_id=workspace_id, name=name)


async def add_place(pool: Pool, slug: str = "acme") -> Place:
    workspace_id, email = await rows.add_workspace(pool, slug, issue_prefix="ACM"), f"owner@{slug}.example"
    owner_id = await add_person(pool, email)
    await add_member(pool, workspace_id, owner_id, "owner")
    return Place(workspace_id, await add_agent(pool, workspace_id, "ada"), owner_id, email)


async def add_installation(pool: Pool, place: Place, app_id: str = "cli_0123456789abcdef") -> UUID:
    return await rows.add_installation(pool, place.workspace_id, place.agent_id, app_id)
