"""Typing signs, in Postgres."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from gateway.outbound.ports import LeaseEpoch, TypingRow
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.postgres.storable import shown_text

_Q = load("typing.sql", TypingRow)


class PostgresTypingStore:
    """Implements gateway.outbound.ports.TypingStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[UUID], rows_max: int) -> list[TypingRow]:
        async with self._pool.connection() as conn:
            rows: list[TypingRow] = await _Q.take_due_typing(
                conn,
                installation_id=lease.installation_id,
                lease_epoch=lease.epoch,
                busy=list(busy),
                rows_max=rows_max,
            )
            return rows

    async def mark_shown(self, lease: LeaseEpoch, row_id: UUID, reaction_id: str) -> bool:
        async with self._pool.connection() as conn:
            status: str | None = await _Q.mark_typing_shown(
                conn, id=row_id, lease_epoch=lease.epoch, reaction_id=shown_text(reaction_id)
            )
            return status == "unwanted"

    async def mark_gone(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.mark_typing_gone(conn, id=row_id, lease_epoch=lease.epoch)
            return marked > 0

    async def mark_failed(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.mark_typing_failed(conn, id=row_id, lease_epoch=lease.epoch)
            return marked > 0

    async def postpone(self, lease: LeaseEpoch, row: TypingRow, delay_seconds: float) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.postpone_typing(
                conn, id=row.id, lease_epoch=lease.epoch, unwanted=row.unwanted, delay_seconds=delay_seconds
            )
            return marked > 0
