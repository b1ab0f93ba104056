"""A workspace with people and an agent, for tests of what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from gateway.postgres.pool import Pool


@dataclass(frozen=True)
class Place:
    workspace_id: UUID
    agent_id: UUID
    owner_id: UUID
    owner_email: str


async def add_person(pool: Pool, email: str) -> UUID:
    user_id = uuid4()
    async with pool.connection() as conn:
        await conn.execute("insert into app_user (id, email) values (%s, %s)", (user_id, email))
    return user_id


async def add_member(pool: Pool, workspace_id: UUID, user_id: UUID, role: str = "member") -> None:
    async with pool.connection() as conn:
        await conn.execute(
            "insert into member (workspace_id, user_id, role) values (%s, %s, %s)", (workspace_id, user_id, role)
        )


async def add_agent(pool: Pool, workspace_id: UUID, name: str) -> UUID:
    agent_id = uuid4()
    async with pool.connection() as conn:
        await conn.execute(
            "insert into agent (id, workspace_id, name) values (%s, %s, %s)", (agent_id, workspace_id, name)
        )
    return agent_id


async def add_place(pool: Pool, slug: str = "acme") -> Place:
    workspace_id, email = uuid4(), f"owner@{slug}.example"
    async with pool.connection() as conn:
        await conn.execute(
            "insert into workspace (id, name, slug, issue_prefix) values (%s, %s, %s, 'ACM')",
            (workspace_id, slug, slug),
        )
    owner_id = await add_person(pool, email)
    await add_member(pool, workspace_id, owner_id, "owner")
    return Place(workspace_id, await add_agent(pool, workspace_id, "ada"), owner_id, email)


async def add_installation(pool: Pool, place: Place, app_id: str = "cli_0123456789abcdef") -> UUID:
    installation_id = uuid4()
    async with pool.connection() as conn:
        await conn.execute(
            "insert into channel_installation (id, workspace_id, agent_id, channel_type, config) "
            "values (%s, %s, %s, 'feishu', jsonb_build_object('app_id', %s::text))",
            (installation_id, place.workspace_id, place.agent_id, app_id),
        )
    return installation_id
