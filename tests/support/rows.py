"""Rows that tests write and read past the stores, as an older release or another process might."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb

from gateway.postgres.pool import Pool


async def query(pool: Pool, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows; none if it returns nothing."""
    async with pool.connection() as conn:
        cursor = await conn.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def insert(pool: Pool, table: str, **columns: Any) -> UUID:
    """Write a row with an id, made here unless it is among the columns, and return the id. A dict becomes JSON."""
    row = {"id": uuid4(), **columns}
    statement = sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    async with pool.connection() as conn:
        await conn.execute(statement, [Jsonb(value) if isinstance(value, dict) else value for value in row.values()])
    row_id: UUID = row["id"]
    return row_id


async def add_workspace(pool: Pool, slug: str, **columns: Any) -> UUID:
    return await insert(pool, "workspace", **{"name": slug, "slug": slug, "issue_prefix": "W", **columns})


async def add_installation(
    pool: Pool, workspace_id: UUID, agent_id: UUID, app_id: str = "", *, channel_type: str = "feishu", **columns: Any
) -> UUID:
    """A bot of an agent. Its config holds its app id, unless it is among the columns."""
    own = {"id": uuid4(), "workspace_id": workspace_id, "agent_id": agent_id, "channel_type": channel_type}
    return await insert(pool, "channel_installation", **{**own, "config": {"app_id": app_id}, **columns})
