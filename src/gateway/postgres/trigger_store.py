"""Triggers of autopilots and their secrets, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.webhooks.triggers import SECRETS_MAX, SealedSecret, TriggerChange, TriggerDetails, stored_filters

_Q = load("trigger.sql", TriggerDetails)


class PostgresTriggerStore:
    """Implements `webhooks.triggers.TriggerStore` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def triggers(self, autopilot_id: UUID) -> Sequence[TriggerDetails]:
        async with self._pool.connection() as conn:
            rows: list[TriggerDetails] = await _Q.list_triggers(conn, autopilot_id=autopilot_id)
            return rows

    async def trigger(self, autopilot_id: UUID, trigger_id: UUID) -> TriggerDetails | None:
        async with self._pool.connection() as conn:
            row: TriggerDetails | None = await _Q.get_trigger(conn, autopilot_id=autopilot_id, trigger_id=trigger_id)
            return row

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
        async with self._pool.connection() as conn:
            await _Q.add_trigger(
                conn,
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
            await _Q.lock_trigger(conn, workspace_id=workspace_id, trigger_id=trigger_id)
            await _Q.change_trigger(
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
        async with self._pool.connection() as conn:
            await _Q.rotate_trigger_token(conn, workspace_id=workspace_id, trigger_id=trigger_id, token=token)

    async def delete(self, workspace_id: UUID, trigger_id: UUID) -> None:
        async with self._pool.connection() as conn:
            await _Q.delete_trigger(conn, workspace_id=workspace_id, trigger_id=trigger_id)

    async def put_secrets(
        self, workspace_id: UUID, trigger_id: UUID, secret: SealedSecret | None, user_id: UUID, *, replaces: bool
    ) -> bool:
        async with self._pool.transaction() as conn:
            await _Q.lock_trigger(conn, workspace_id=workspace_id, trigger_id=trigger_id)
            if replaces:
                await _Q.delete_trigger_secrets(conn, workspace_id=workspace_id, trigger_id=trigger_id)
            elif await _Q.count_trigger_secrets(conn, trigger_id=trigger_id) >= SECRETS_MAX:
                return False
            if secret is not None:
                await _Q.add_trigger_secret(
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
        async with self._pool.connection() as conn:
            deleted: int = await _Q.delete_trigger_secret(
                conn, workspace_id=workspace_id, trigger_id=trigger_id, secret_id=secret_id
            )
            return deleted > 0
