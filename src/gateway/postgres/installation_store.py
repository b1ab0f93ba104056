"""Installation rows, in Postgres. Their leases are lease_store's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from gateway.channel.installation import AgentHome, AppHolder, InstallationDraft, InstallationView
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load

_Q = load("installation.sql", AgentHome, AppHolder, InstallationView)


async def reclaim_dead(
    conn: TrioConnection[Any], channel_type: str, app_id: str, workspace_id: UUID, agent_id: UUID
) -> bool:
    """Remove a dead row that keeps an app id from this agent, with what hangs on it. Whether there was one."""
    removed: int = await _Q.reclaim_dead_installation(
        conn, channel_type=channel_type, app_id=app_id, workspace_id=workspace_id, agent_id=agent_id
    )
    return removed > 0


class PostgresInstallationStore:
    """Implements gateway.channel.installation.InstallationStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def agent_home(self, agent_id: UUID) -> AgentHome | None:
        async with self._pool.connection() as conn:
            home: AgentHome | None = await _Q.agent_home(conn, agent_id=agent_id)
            return home

    async def member_by_email(self, workspace_id: UUID, email: str) -> UUID | None:
        async with self._pool.connection() as conn:
            user_id: UUID | None = await _Q.member_by_email(conn, workspace_id=workspace_id, email=email)
            return user_id

    async def id_of(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> UUID | None:
        async with self._pool.connection() as conn:
            installation_id: UUID | None = await _Q.installation_id_of_agent(
                conn, workspace_id=workspace_id, agent_id=agent_id, channel_type=channel_type
            )
            return installation_id

    async def save(self, draft: InstallationDraft) -> InstallationView | None:
        async with self._pool.transaction() as conn:
            await reclaim_dead(conn, draft.channel_type, draft.config["app_id"], draft.workspace_id, draft.agent_id)
            saved: UUID | None = await _Q.upsert_installation(
                conn,
                id=draft.id,
                workspace_id=draft.workspace_id,
                agent_id=draft.agent_id,
                channel_type=draft.channel_type,
                config=msgspec.json.encode(draft.config).decode(),
                installer_user_id=draft.installer_user_id,
            )
        return None if saved is None else await self.find(saved)

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None:
        async with self._pool.connection() as conn:
            holder: AppHolder | None = await _Q.app_holder(conn, channel_type=channel_type, app_id=app_id)
            return holder

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        async with self._pool.connection() as conn:
            await _Q.revoke_installation(conn, id=installation_id, workspace_id=workspace_id)
            rows: list[InstallationView] = await _Q.list_installations(
                conn, id=installation_id, workspace_id=workspace_id
            )
            return rows[0] if rows else None

    async def find(self, installation_id: UUID) -> InstallationView | None:
        async with self._pool.connection() as conn:
            rows: list[InstallationView] = await _Q.list_installations(conn, id=installation_id, workspace_id=None)
            return rows[0] if rows else None

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        async with self._pool.connection() as conn:
            rows: list[InstallationView] = await _Q.list_installations(conn, id=None, workspace_id=workspace_id)
            return rows
