"""Leases and connection state, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import trio

from gateway.channel.channel import ConnectionState, LinkHealth
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.shared_calls import SharedCalls
from gateway.postgres.statements import SqlFile
from gateway.postgres.storable import shown_code, shown_text
from gateway.supervisor.ports import ActiveInstallation, Grant, HeldElsewhere, NotServed, Renewal, Tenure

_SQL = SqlFile("lease.sql")
_LIST_ACTIVE = _SQL.many("list_active", ActiveInstallation)
_ACQUIRE = _SQL.one_or_none("acquire", tuple[int | None, bool, float])
_ACQUIRE_TOGETHER = _SQL.many("acquire_together", tuple[UUID, str, int])
_RENEW = _SQL.many("renew", tuple[UUID, bool, bool])
_RELEASE = _SQL.value_or_none("release", bool)
_RELEASE_TOGETHER = _SQL.many("release_together", tuple[UUID, str, bool])
_RECORD = _SQL.count("record")
_MARK = _SQL.changed("mark")


@dataclass(frozen=True, slots=True, eq=False)
class _Asking:
    """A request for a lease, compared by identity: two requests with equal fields are two requests."""

    installation_id: UUID
    token: str
    ttl_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Ending:
    """A tenure that is to be released. `epoch` None accepts any epoch of its token. `last` is a private copy."""

    installation_id: UUID
    token: str
    epoch: int | None
    last: LinkHealth


class PostgresLeaseStore:
    """Implements gateway.supervisor.ports.LeaseStore on a pool that the caller owns.

    Give leases a small pool of their own, or else a burst of other work can cost this process all of its leases. One
    connection of the pool is reserved for renewals. Every other statement may have to wait for a row that another
    transaction has locked, and at the start of a process two thousand of them come at once. A renewal that queued
    behind them would come too late for every bot.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._others = trio.CapacityLimiter(max(1, pool.size_max - 1))
        self._acquires = SharedCalls(self._acquire_together)
        self._releases = SharedCalls(self._release_together)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[TrioConnection[Any]]:
        """Take a connection for any statement but a renewal."""
        async with self._others, self._pool.connection() as conn:
            yield conn

    async def list_active(self, channel_types: Sequence[str]) -> list[ActiveInstallation]:
        async with self._connection() as conn:
            return await _LIST_ACTIVE(conn, channel_types=list(channel_types))

    async def acquire(self, installation_id: UUID, token: str, ttl_seconds: float) -> Grant:
        epoch = await self._acquires.join(_Asking(installation_id, token, ttl_seconds))
        if epoch is not None:
            return Tenure(installation_id, token, epoch)
        return await self._acquire_alone(installation_id, token, ttl_seconds)

    async def _acquire_together(self, askings: Sequence[_Asking]) -> Mapping[_Asking, int]:
        """Acquire the leases that are free and return their epochs. `_acquire_alone` decides about the others."""
        async with self._connection() as conn:
            rows = await _ACQUIRE_TOGETHER(
                conn,
                installation_ids=[asking.installation_id for asking in askings],
                tokens=[asking.token for asking in askings],
                ttls_seconds=[asking.ttl_seconds for asking in askings],
            )
        epochs = {(id_, token): epoch for id_, token, epoch in rows}
        answers = ((asking, epochs.get((asking.installation_id, asking.token))) for asking in askings)
        return {asking: epoch for asking, epoch in answers if epoch is not None}

    async def _acquire_alone(self, installation_id: UUID, token: str, ttl_seconds: float) -> Grant:
        async with self._connection() as conn:
            row = await _ACQUIRE(conn, installation_id=installation_id, token=token, ttl_seconds=ttl_seconds)
        if row is None:
            return NotServed()
        epoch, active, seconds_left = row
        if epoch is not None:
            return Tenure(installation_id, token, epoch)
        return HeldElsewhere(max(seconds_left, 0.0)) if active else NotServed()

    async def renew(self, tenures: Sequence[Tenure], ttl_seconds: float) -> Renewal:
        rows = await _RENEW(
            self._pool,
            installation_ids=[tenure.installation_id for tenure in tenures],
            tokens=[tenure.token for tenure in tenures],
            epochs=[tenure.epoch for tenure in tenures],
            ttl_seconds=ttl_seconds,
        )
        return Renewal(
            confirmed=frozenset(id_ for id_, confirmed, _ in rows if confirmed),
            lost=frozenset(id_ for id_, confirmed, lost in rows if lost and not confirmed),
        )

    async def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> bool:
        ending = _Ending(installation_id, token, epoch, replace(last))
        return bool(await self._releases.join(ending)) or await self._release_alone(ending)

    async def _release_together(self, endings: Sequence[_Ending]) -> Mapping[_Ending, bool]:
        """Release the tenures whose rows are not locked and still theirs. `_release_alone` decides about the others."""
        async with self._connection() as conn:
            rows = await _RELEASE_TOGETHER(
                conn,
                installation_ids=[ending.installation_id for ending in endings],
                tokens=[ending.token for ending in endings],
                epochs=[ending.epoch for ending in endings],
                states=[ending.last.state.value for ending in endings],
                codes=[shown_code(ending.last.code) for ending in endings],
                details=[shown_text(ending.last.detail) for ending in endings],
                last_frames=[ending.last.last_frame_at for ending in endings],
                last_events=[ending.last.last_event_at for ending in endings],
                pongs=[ending.last.pong_ms for ending in endings],
            )
        released = {(id_, token) for id_, token, _ in rows}
        return {ending: True for ending in endings if (ending.installation_id, ending.token) in released}

    async def _release_alone(self, ending: _Ending) -> bool:
        async with self._connection() as conn:
            told = await _RELEASE(
                conn,
                installation_id=ending.installation_id,
                token=ending.token,
                epoch=ending.epoch,
                state=ending.last.state.value,
                code=shown_code(ending.last.code),
                detail=shown_text(ending.last.detail),
                last_frame_at=ending.last.last_frame_at,
                last_event_at=ending.last.last_event_at,
                pong_ms=ending.last.pong_ms,
            )
        return told is not None

    async def record(self, node_id: str, reports: Sequence[tuple[Tenure, LinkHealth]]) -> None:
        now = trio.current_time()
        async with self._connection() as conn:
            await _RECORD(
                conn,
                node=node_id,
                installation_ids=[tenure.installation_id for tenure, _ in reports],
                tokens=[tenure.token for tenure, _ in reports],
                epochs=[tenure.epoch for tenure, _ in reports],
                states=[health.state.value for _, health in reports],
                codes=[shown_code(health.code) for _, health in reports],
                details=[shown_text(health.detail) for _, health in reports],
                last_frames=[health.last_frame_at for _, health in reports],
                last_events=[health.last_event_at for _, health in reports],
                pongs=[health.pong_ms for _, health in reports],
                degraded_seconds=[health.degraded_seconds(now) for _, health in reports],
            )

    async def mark(self, installation_id: UUID, state: ConnectionState, detail: str) -> bool:
        async with self._connection() as conn:
            return await _MARK(conn, installation_id=installation_id, state=state.value, detail=shown_text(detail))
