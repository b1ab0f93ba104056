"""The outbox, in Postgres."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import msgspec

from gateway.ids import new_id
from gateway.outbound.ports import LeaseEpoch, OutboxRow
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.postgres.storable import shown_code, shown_text

_Q = load("outbox.sql", OutboxRow)


class PostgresOutboxStore:
    """Implements gateway.outbound.ports.OutboxStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[str], rows_max: int) -> list[OutboxRow]:
        async with self._pool.connection() as conn:
            rows: list[OutboxRow] = await _Q.take_due_rows(
                conn,
                installation_id=lease.installation_id,
                lease_epoch=lease.epoch,
                busy=list(busy),
                rows_max=rows_max,
            )
            return rows

    async def seconds_to_next(self, lease: LeaseEpoch, *, busy: Collection[str]) -> float | None:
        async with self._pool.connection() as conn:
            seconds: float | None = await _Q.seconds_to_next_row(
                conn, installation_id=lease.installation_id, lease_epoch=lease.epoch, busy=list(busy)
            )
            return seconds

    async def mark_sent(self, lease: LeaseEpoch, row_id: UUID, channel_message_id: str) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.mark_row_sent(
                conn, id=row_id, lease_epoch=lease.epoch, channel_message_id=shown_text(channel_message_id)
            )
            return marked > 0

    async def mark_failed(
        self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str, *, told: Mapping[str, str] | None = None
    ) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.mark_row_failed(
                conn,
                id=row_id,
                lease_epoch=lease.epoch,
                error_code=shown_code(code) or None,
                error=shown_text(reason),
                notice_id=new_id(),
                words=None if told is None else msgspec.json.encode(told).decode(),
            )
            return marked > 0

    async def mark_unknown(self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.mark_row_unknown(
                conn, id=row_id, lease_epoch=lease.epoch, error_code=shown_code(code) or None, error=shown_text(reason)
            )
            return marked > 0

    async def clear_doubt(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        async with self._pool.connection() as conn:
            cleared: int = await _Q.clear_row_doubt(conn, id=row_id, lease_epoch=lease.epoch)
            return cleared > 0

    async def list_sent(self, row: OutboxRow) -> list[str]:
        async with self._pool.connection() as conn:
            return [message_id for (message_id,) in await _Q.list_sent_to_recipient(conn, id=row.id)]

    async def postpone(
        self, lease: LeaseEpoch, row: OutboxRow, delay_seconds: float, code: int, reason: str, *, doubtful: bool
    ) -> bool:
        async with self._pool.connection() as conn:
            marked: int = await _Q.postpone_row(
                conn,
                id=row.id,
                lease_epoch=lease.epoch,
                delay_seconds=delay_seconds,
                error_code=shown_code(code) or None,
                error=shown_text(reason),
                doubtful=doubtful or row.in_doubt,
            )
            return marked > 0
