"""The outbox, in Postgres."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import msgspec

from gateway.ids import new_id
from gateway.outbound.ports import LeaseEpoch, OutboxRow
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.postgres.storable import shown_code, shown_text

_SQL = SqlFile("outbox.sql")
_TAKE_DUE_ROWS = _SQL.many("take_due_rows", OutboxRow)
_SECONDS_TO_NEXT_ROW = _SQL.value_or_none("seconds_to_next_row", float)
_MARK_ROW_SENT = _SQL.changed("mark_row_sent")
_MARK_ROW_FAILED = _SQL.value("mark_row_failed", int)
_POSTPONE_ROW = _SQL.changed("postpone_row")
_MARK_ROW_UNKNOWN = _SQL.changed("mark_row_unknown")
_CLEAR_ROW_DOUBT = _SQL.changed("clear_row_doubt")
_LIST_SENT_TO_RECIPIENT = _SQL.column("list_sent_to_recipient", str)

TYPING_SECONDS = 1.0
"""The longest time that an answer waits for the removal of its run's typing sign."""
CLOCKS_SECONDS = 120.0
"""The difference between the clocks of the database and of a platform that is allowed for."""


class PostgresOutboxStore:
    """Implements gateway.outbound.ports.OutboxStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[str], rows_max: int) -> list[OutboxRow]:
        return await _TAKE_DUE_ROWS(
            self._pool,
            installation_id=lease.installation_id,
            lease_epoch=lease.epoch,
            busy=list(busy),
            typing_seconds=TYPING_SECONDS,
            rows_max=rows_max,
        )

    async def seconds_to_next(self, lease: LeaseEpoch, *, busy: Collection[str]) -> float | None:
        return await _SECONDS_TO_NEXT_ROW(
            self._pool,
            installation_id=lease.installation_id,
            lease_epoch=lease.epoch,
            busy=list(busy),
            typing_seconds=TYPING_SECONDS,
        )

    async def mark_sent(self, lease: LeaseEpoch, row_id: UUID, channel_message_id: str) -> bool:
        return await _MARK_ROW_SENT(
            self._pool, id=row_id, lease_epoch=lease.epoch, channel_message_id=shown_text(channel_message_id)
        )

    async def mark_failed(
        self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str, *, told: Mapping[str, str] | None = None
    ) -> bool:
        marked = await _MARK_ROW_FAILED(
            self._pool,
            id=row_id,
            lease_epoch=lease.epoch,
            error_code=shown_code(code) or None,
            error=shown_text(reason),
            notice_id=new_id(),
            words=None if told is None else msgspec.json.encode(told).decode(),
        )
        return marked > 0

    async def mark_unknown(self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str) -> bool:
        return await _MARK_ROW_UNKNOWN(
            self._pool,
            id=row_id,
            lease_epoch=lease.epoch,
            error_code=shown_code(code) or None,
            error=shown_text(reason),
        )

    async def clear_doubt(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await _CLEAR_ROW_DOUBT(self._pool, id=row_id, lease_epoch=lease.epoch)

    async def list_sent(self, row: OutboxRow) -> list[str]:
        return await _LIST_SENT_TO_RECIPIENT(self._pool, id=row.id, clocks_seconds=CLOCKS_SECONDS)

    async def postpone(
        self, lease: LeaseEpoch, row: OutboxRow, delay_seconds: float, code: int, reason: str, *, doubtful: bool
    ) -> bool:
        return await _POSTPONE_ROW(
            self._pool,
            id=row.id,
            lease_epoch=lease.epoch,
            delay_seconds=delay_seconds,
            error_code=shown_code(code) or None,
            error=shown_text(reason),
            doubtful=doubtful or row.in_doubt,
        )
