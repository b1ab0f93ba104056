"""Installation rows, in Postgres. Their leases are in lease_store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from gateway.channel.installation import (
    AgentHome,
    AppHolder,
    BotInPlace,
    DroppedMessage,
    InstallationDraft,
    InstallationView,
    StoredApp,
    StoredInstallation,
)
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load

_Q = load(
    "installation.sql",
    AgentHome,
    AppHolder,
    BotInPlace,
    DroppedMessage,
    InstallationView,
    StoredApp,
    StoredInstallation,
)


class NotSaved(Exception):
    """Raised to roll back the transaction that would have saved a draft. The stores catch it.

    `obstacle` is another app's live bot. It is None when the agent's row has another id than the draft.
    """

    def __init__(self, obstacle: BotInPlace | None) -> None:
        super().__init__("the draft was not saved")
        self.obstacle = obstacle


async def reclaim_dead(
    conn: TrioConnection[Any], channel_type: str, app_id: str, workspace_id: UUID, agent_id: UUID
) -> bool:
    """Remove a dead row that keeps an app id from this agent, together with its dependent rows.

    Returns True if there was one.
    """
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

    async def bot_in_place(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> BotInPlace | None:
        async with self._pool.connection() as conn:
            return await _bot_in_place(conn, workspace_id, agent_id, channel_type)

    async def save(self, draft: InstallationDraft) -> InstallationView | BotInPlace | None:
        try:
            async with self._pool.transaction() as conn:
                await save_installation(conn, draft)
                return await find_installation(conn, draft.id)
        except NotSaved as refused:
            return refused.obstacle

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None:
        async with self._pool.connection() as conn:
            holder: AppHolder | None = await _Q.app_holder(conn, channel_type=channel_type, app_id=app_id)
            return holder

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        async with self._pool.transaction() as conn:
            revoked: int = await _Q.revoke_installation(conn, id=installation_id, workspace_id=workspace_id)
            found = await find_installation(conn, installation_id, workspace_id)
            if revoked and found is not None:
                await _announce(conn, "lark_installation:revoked", found)
            return found

    async def find(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView | None:
        async with self._pool.connection() as conn:
            return await find_installation(conn, installation_id, workspace_id)

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        async with self._pool.connection() as conn:
            rows: list[InstallationView] = await _Q.list_installations(conn, id=None, workspace_id=workspace_id)
            return rows

    async def stored(self, installation_id: UUID) -> StoredInstallation | None:
        """Return the row with its sealed config, for code that acts in its name. Revoked rows are included."""
        async with self._pool.connection() as conn:
            found: StoredInstallation | None = await _Q.get_stored_installation(conn, id=installation_id)
            return found

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        async with self._pool.connection() as conn:
            rows: Sequence[DroppedMessage] = await _Q.list_inbound_audit(
                conn, installation_id=installation_id, rows_max=limit, rows_skipped=offset
            )
            return rows

    async def without_key(
        self, channel_type: str, key: str, *, default: str = "", served_only: bool = False
    ) -> Sequence[StoredApp]:
        """Return the rows whose config has no value for a key, or its default.

        With `served_only`, revoked rows are left out, and those whose agent or workspace is gone.
        """
        async with self._pool.connection() as conn:
            rows: Sequence[StoredApp] = await _Q.list_without_key(
                conn, channel_type=channel_type, key=key, default_value=default, served_only=served_only
            )
            return rows

    async def set_key(self, app: StoredApp, key: str, value: str, *, default: str = "") -> bool:
        async with self._pool.connection() as conn:
            changed: int = await _Q.set_config_key(
                conn,
                id=app.id,
                workspace_id=app.workspace_id,
                app_id=app.app_id,
                key=key,
                value=value,
                default_value=default,
            )
            return changed > 0


async def save_installation(conn: TrioConnection[Any], draft: InstallationDraft) -> None:
    """Write the draft as active and announce it, in the caller's transaction; see InstallationStore.save.

    Raises NotSaved. The caller must let it propagate out of its transaction, which rolls back.
    """
    await reclaim_dead(conn, draft.channel_type, draft.config["app_id"], draft.workspace_id, draft.agent_id)
    await _Q.end_links_of_former_app(conn, id=draft.id, app_id=draft.config["app_id"])
    saved: UUID | None = await _Q.upsert_installation(
        conn,
        id=draft.id,
        workspace_id=draft.workspace_id,
        agent_id=draft.agent_id,
        channel_type=draft.channel_type,
        config=msgspec.json.encode(draft.config).decode(),
        learnt_keys=list(draft.learnt_keys),
        installer_user_id=draft.installer_user_id,
        replaces=draft.replaces,
    )
    if saved is None:
        in_place = await _bot_in_place(conn, draft.workspace_id, draft.agent_id, draft.channel_type)
        other = in_place is not None and not draft.replaces and in_place.app_id != draft.config["app_id"]
        raise NotSaved(in_place if other else None)
    await _announce(conn, "lark_installation:created", draft)


async def _bot_in_place(
    conn: TrioConnection[Any], workspace_id: UUID, agent_id: UUID, channel_type: str
) -> BotInPlace | None:
    found: BotInPlace | None = await _Q.bot_in_place(
        conn, workspace_id=workspace_id, agent_id=agent_id, channel_type=channel_type
    )
    return found


async def find_installation(
    conn: TrioConnection[Any], installation_id: UUID, workspace_id: UUID | None = None
) -> InstallationView | None:
    rows: list[InstallationView] = await _Q.list_installations(conn, id=installation_id, workspace_id=workspace_id)
    return rows[0] if rows else None


async def _announce(conn: TrioConnection[Any], event: str, bot: InstallationDraft | InstallationView) -> None:
    """Announce what became of a bot. The name of the event is the first platform's for every bot; its type tells."""
    fields = {
        "event": event,
        "workspace_id": bot.workspace_id,
        "installation_id": bot.id,
        "agent_id": bot.agent_id,
        "channel_type": bot.channel_type,
    }
    await _Q.announce_installation(conn, payload=msgspec.json.encode(fields).decode())
