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
from gateway.postgres.events import announce
from gateway.postgres.pool import Pool
from gateway.postgres.statements import PoolOrConnection, SqlFile

_SQL = SqlFile("installation.sql")
_AGENT_HOME = _SQL.one_or_none("agent_home", AgentHome)
_MEMBER_BY_EMAIL = _SQL.value_or_none("member_by_email", UUID)
_INSTALLATION_ID_OF_AGENT = _SQL.value_or_none("installation_id_of_agent", UUID)
_RECLAIM_DEAD_INSTALLATION = _SQL.changed("reclaim_dead_installation")
_BOT_IN_PLACE = _SQL.one_or_none("bot_in_place", BotInPlace)
_END_LINKS_OF_FORMER_APP = _SQL.count("end_links_of_former_app")
_UPSERT_INSTALLATION = _SQL.value_or_none("upsert_installation", UUID)
_APP_HOLDER = _SQL.one_or_none("app_holder", AppHolder)
_REVOKE_INSTALLATION = _SQL.changed("revoke_installation")
_LIST_INSTALLATIONS = _SQL.many("list_installations", InstallationView)
_LIST_INBOUND_AUDIT = _SQL.many("list_inbound_audit", DroppedMessage)
_LIST_WITHOUT_KEY = _SQL.many("list_without_key", StoredApp)
_SET_CONFIG_KEY = _SQL.changed("set_config_key")
_GET_STORED_INSTALLATION = _SQL.one_or_none("get_stored_installation", StoredInstallation)


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
    return await _RECLAIM_DEAD_INSTALLATION(
        conn, channel_type=channel_type, app_id=app_id, workspace_id=workspace_id, agent_id=agent_id
    )


class PostgresInstallationStore:
    """Implements gateway.channel.installation.InstallationStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def agent_home(self, agent_id: UUID) -> AgentHome | None:
        return await _AGENT_HOME(self._pool, agent_id=agent_id)

    async def member_by_email(self, workspace_id: UUID, email: str) -> UUID | None:
        return await _MEMBER_BY_EMAIL(self._pool, workspace_id=workspace_id, email=email)

    async def id_of(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> UUID | None:
        return await _INSTALLATION_ID_OF_AGENT(
            self._pool, workspace_id=workspace_id, agent_id=agent_id, channel_type=channel_type
        )

    async def bot_in_place(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> BotInPlace | None:
        return await _BOT_IN_PLACE(self._pool, workspace_id=workspace_id, agent_id=agent_id, channel_type=channel_type)

    async def save(self, draft: InstallationDraft) -> InstallationView | BotInPlace | None:
        try:
            async with self._pool.transaction() as conn:
                await save_installation(conn, draft)
                return await find_installation(conn, draft.id)
        except NotSaved as refused:
            return refused.obstacle

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None:
        return await _APP_HOLDER(self._pool, channel_type=channel_type, app_id=app_id)

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        async with self._pool.transaction() as conn:
            revoked = await _REVOKE_INSTALLATION(conn, id=installation_id, workspace_id=workspace_id)
            found = await find_installation(conn, installation_id, workspace_id)
            if revoked and found is not None:
                await _announce(conn, "lark_installation:revoked", found)
            return found

    async def find(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView | None:
        return await find_installation(self._pool, installation_id, workspace_id)

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        return await _LIST_INSTALLATIONS(self._pool, id=None, workspace_id=workspace_id)

    async def stored(self, installation_id: UUID) -> StoredInstallation | None:
        """Return the row with its sealed config, for code that acts in its name. Revoked rows are included."""
        return await _GET_STORED_INSTALLATION(self._pool, id=installation_id)

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        return await _LIST_INBOUND_AUDIT(
            self._pool, installation_id=installation_id, rows_max=limit, rows_skipped=offset
        )

    async def without_key(
        self, channel_type: str, key: str, *, default: str = "", served_only: bool = False
    ) -> Sequence[StoredApp]:
        """Return the rows whose config has no value for a key, or its default.

        With `served_only`, revoked rows are left out, and those whose agent or workspace is gone.
        """
        return await _LIST_WITHOUT_KEY(
            self._pool, channel_type=channel_type, key=key, default_value=default, served_only=served_only
        )

    async def set_key(self, app: StoredApp, key: str, value: str, *, default: str = "") -> bool:
        return await _SET_CONFIG_KEY(
            self._pool,
            id=app.id,
            workspace_id=app.workspace_id,
            app_id=app.app_id,
            key=key,
            value=value,
            default_value=default,
        )


async def save_installation(conn: TrioConnection[Any], draft: InstallationDraft) -> None:
    """Write the draft as active and announce it, in the caller's transaction; see InstallationStore.save.

    Raises NotSaved. The caller must let it propagate out of its transaction, which rolls back.
    """
    await reclaim_dead(conn, draft.channel_type, draft.config["app_id"], draft.workspace_id, draft.agent_id)
    await _END_LINKS_OF_FORMER_APP(conn, id=draft.id, app_id=draft.config["app_id"])
    saved = await _UPSERT_INSTALLATION(
        conn,
        id=draft.id,
        workspace_id=draft.workspace_id,
        agent_id=draft.agent_id,
        channel_type=draft.channel_type,
        config=msgspec.json.encode(draft.config).decode(),
        installer_user_id=draft.installer_user_id,
        replaces=draft.replaces,
    )
    if saved is None:
        in_place = await _BOT_IN_PLACE(
            conn, workspace_id=draft.workspace_id, agent_id=draft.agent_id, channel_type=draft.channel_type
        )
        other = in_place is not None and not draft.replaces and in_place.app_id != draft.config["app_id"]
        raise NotSaved(in_place if other else None)
    await _announce(conn, "lark_installation:created", draft)


async def find_installation(
    on: PoolOrConnection, installation_id: UUID, workspace_id: UUID | None = None
) -> InstallationView | None:
    rows = await _LIST_INSTALLATIONS(on, id=installation_id, workspace_id=workspace_id)
    return rows[0] if rows else None


async def _announce(conn: TrioConnection[Any], event: str, bot: InstallationDraft | InstallationView) -> None:
    """Announce what became of a bot. The name of the event is the first platform's for every bot; its type tells."""
    fields = {
        "workspace_id": bot.workspace_id,
        "installation_id": bot.id,
        "agent_id": bot.agent_id,
        "channel_type": bot.channel_type,
    }
    await announce(conn, event, fields)
