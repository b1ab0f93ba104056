"""Triggers of autopilots and their secrets, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.webhooks.triggers import SECRETS_MAX, SealedSecret, TriggerChange, TriggerDetails, stored_filters

_SQL = SqlFile("trigger.sql")
_LIST_TRIGGERS = _SQL.many("list_triggers", TriggerDetails)
_GET_TRIGGER = _SQL.one_or_none("get_trigger", TriggerDetails)
_ADD_TRIGGER = _SQL.count("add_trigger")
_CHANGE_TRIGGER = _SQL.count("change_trigger")
_ROTATE_TRIGGER_TOKEN = _SQL.count("rotate_trigger_token")
_DELETE_TRIGGER = _SQL.count("delete_trigger")
_LOCK_TRIGGER = _SQL.value_or_none("lock_trigger", UUID)
_COUNT_TRIGGER_SECRETS = _SQL.value("count_trigger_secrets", int)
_ADD_TRIGGER_SECRET = _SQL.count("add_trigger_secret")
_DELETE_TRIGGER_SECRETS = _SQL.count("delete_trigger_secrets")
_DELETE_TRIGGER_SECRET = _SQL.changed("delete_trigger_secret")


class PostgresTriggerStore:
    """Implements `webhooks.triggers.TriggerStore` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def triggers(self, autopilot_id: UUID) -> Sequence[TriggerDetails]:
        return await _LIST_TRIGGERS(self._pool, autopilot_id=autopilot_id)

    async def trigger(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerDetails | None:
        return await _GET_TRIGGER(self._pool, autopilot_id=autopilot_id, trigger_id=trigger_id)

    async def add(
        self,
        trigger_id: UUID,
        workspace_id: UUID,
        autopilot_id: UUID,
        token: str,
        *,
        provider: str,
        change: TriggerChange,
    ) -> None:
        await _ADD_TRIGGER(
            self._pool,
            id=trigger_id,
            workspace_id=workspace_id,
            autopilot_id=autopilot_id,
            token=token,
            provider=provider,
            enabled=change.enabled,
            label=change.label or "",
            event_filters=stored_filters(change.filters),
        )

    async def change(self, workspace_id: UUID, trigger_id: UUID, change: TriggerChange) -> None:
        async with self._pool.transaction() as conn:
            await _LOCK_TRIGGER(conn, workspace_id=workspace_id, trigger_id=trigger_id)
            await _CHANGE_TRIGGER(
                conn,
                workspace_id=workspace_id,
                trigger_id=trigger_id,
                enabled=change.enabled,
                provider=change.provider,
                label=change.label,
                sets_filters=change.sets_filters,
                event_filters=stored_filters(change.filters),
            )

    async def rotate(self, workspace_id: UUID, trigger_id: UUID, token: str) -> None:
        await _ROTATE_TRIGGER_TOKEN(self._pool, workspace_id=workspace_id, trigger_id=trigger_id, token=token)

    async def delete(self, workspace_id: UUID, trigger_id: UUID) -> None:
        await _DELETE_TRIGGER(self._pool, workspace_id=workspace_id, trigger_id=trigger_id)

    async def put_secrets(
        self, workspace_id: UUID, trigger_id: UUID, secret: SealedSecret | None, user_id: UUID, *, replaces: bool
    ) -> bool:
        async with self._pool.transaction() as conn:
            await _LOCK_TRIGGER(conn, workspace_id=workspace_id, trigger_id=trigger_id)
            if replaces:
                await _DELETE_TRIGGER_SECRETS(conn, workspace_id=workspace_id, trigger_id=trigger_id)
            elif await _COUNT_TRIGGER_SECRETS(conn, trigger_id=trigger_id) >= SECRETS_MAX:
                return False
            if secret is not None:
                await _ADD_TRIGGER_SECRET(
                    conn,
                    id=secret.id,
                    workspace_id=workspace_id,
                    trigger_id=trigger_id,
                    sealed=secret.sealed,
                    last_four=secret.last_four,
                    expires_at=secret.expires_at,
                    user_id=user_id,
                )
            return True

    async def delete_secret(self, workspace_id: UUID, trigger_id: UUID, secret_id: UUID) -> bool:
        return await _DELETE_TRIGGER_SECRET(
            self._pool, workspace_id=workspace_id, trigger_id=trigger_id, secret_id=secret_id
        )
