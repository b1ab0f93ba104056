"""The lease store on Postgres, with a hand in the rows behind it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from gateway.postgres.lease_store import PostgresLeaseStore
from gateway.postgres.pool import Pool
from support.lease_memory import ConnectionRow
from support.rows import add_installation, add_workspace, insert, query


class PostgresLeaseRows:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.store = PostgresLeaseStore(pool)

    async def execute(self, statement: str, *parameters: Any) -> list[Any]:
        return await query(self.pool, statement, *parameters)

    async def add(self, channel_type: str = "feishu", config: dict[str, Any] | None = None) -> UUID:
        pool, bot = self.pool, uuid4()
        workspace = await add_workspace(pool, f"w-{bot}")
        agent = await insert(pool, "agent", workspace_id=workspace, name="a")
        own = {} if config is None else {"config": config}
        return await add_installation(pool, workspace, agent, str(bot), channel_type=channel_type, id=bot, **own)

    async def activate(self, installation_id: UUID, active: bool) -> None:
        status = "active" if active else "revoked"
        await self.execute("update channel_installation set status = %s where id = %s", status, installation_id)

    async def orphan(self, installation_id: UUID) -> None:
        await self.execute(
            "delete from agent where id = (select agent_id from channel_installation where id = %s)", installation_id
        )

    async def expire(self, installation_id: UUID) -> None:
        await self.execute(
            "update channel_installation set ws_lease_expires_at = now() - interval '1 second' where id = %s",
            installation_id,
        )

    async def lease(self, installation_id: UUID) -> tuple[str | None, int]:
        [(token, epoch)] = await self.execute(
            "select ws_lease_token, lease_epoch from channel_installation where id = %s", installation_id
        )
        return token, epoch

    async def connection(self, installation_id: UUID) -> ConnectionRow | None:
        rows = await self.execute(
            "select state, code, detail, node, lease_epoch from channel_connection where installation_id = %s",
            installation_id,
        )
        return ConnectionRow(*rows[0]) if rows else None
