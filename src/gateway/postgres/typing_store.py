"""Typing signs, in Postgres."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from gateway.outbound.ports import LeaseEpoch, TypingRow
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.postgres.storable import shown_text

_SQL = SqlFile("typing.sql")
_TAKE_DUE_TYPING = _SQL.many("take_due_typing", TypingRow)
_MARK_TYPING_SHOWN = _SQL.value_or_none("mark_typing_shown", str)
_MARK_TYPING_GONE = _SQL.changed("mark_typing_gone")
_MARK_TYPING_FAILED = _SQL.changed("mark_typing_failed")
_POSTPONE_TYPING = _SQL.changed("postpone_typing")


class PostgresTypingStore:
    """Implements gateway.outbound.ports.TypingStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[UUID], rows_max: int) -> list[TypingRow]:
        return await _TAKE_DUE_TYPING(
            self._pool,
            installation_id=lease.installation_id,
            lease_epoch=lease.epoch,
            busy=list(busy),
            rows_max=rows_max,
        )

    async def mark_shown(self, lease: LeaseEpoch, row_id: UUID, reaction_id: str) -> bool:
        status = await _MARK_TYPING_SHOWN(
            self._pool, id=row_id, lease_epoch=lease.epoch, reaction_id=shown_text(reaction_id)
        )
        return status == "unwanted"

    async def mark_gone(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await _MARK_TYPING_GONE(self._pool, id=row_id, lease_epoch=lease.epoch)

    async def mark_failed(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await _MARK_TYPING_FAILED(self._pool, id=row_id, lease_epoch=lease.epoch)

    async def postpone(self, lease: LeaseEpoch, row: TypingRow, delay_seconds: float) -> bool:
        return await _POSTPONE_TYPING(
            self._pool, id=row.id, lease_epoch=lease.epoch, unwanted=row.unwanted, delay_seconds=delay_seconds
        )
