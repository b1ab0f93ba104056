"""Firings of autopilots, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

from gateway.ids import new_id
from gateway.postgres.arrays import LargeValues
from gateway.postgres.driver import TrioConnection
from gateway.postgres.issue_store import PostgresFiling
from gateway.postgres.pool import Pool, translating
from gateway.postgres.statements import PoolOrConnection, SqlFile
from gateway.work.autopilots.dispatch import GUARD_SECONDS, Firing, FoundRun, Order, RunDraft

_SQL = SqlFile("dispatch.sql")
_FIND_RUN_OF_FIRING = _SQL.one_or_none("find_run_of_firing", FoundRun)
_GET_ORDER = _SQL.one_or_none("get_order", Order)
_GET_ROLE = _SQL.value_or_none("get_role", str)
_LOCK_AUTOPILOT_TITLE = _SQL.count("lock_autopilot_title")
_FIND_RECENT_RUN_ISSUE = _SQL.value_or_none("find_recent_run_issue", UUID)
_INSERT_RUN = _SQL.value_or_none("insert_run", UUID)
_LOCK_FREE_AGENT = _SQL.value_or_none("lock_free_agent", UUID)
_BEGIN_PLAIN_RUNS = _SQL.many("begin_plain_runs", tuple[UUID, UUID])

ONLINE_SECONDS = 150.0
"""A runtime that was silent for longer counts as offline."""


class PostgresDispatchStore:
    """Implements gateway.work.autopilots.dispatch.DispatchStore on a pool that the caller owns."""

    def __init__(
        self, pool: Pool, *, online_seconds: float = ONLINE_SECONDS, mint: Callable[[], UUID] = new_id
    ) -> None:
        self._pool = pool
        self._online_seconds = online_seconds
        self._mint = mint

    @asynccontextmanager
    async def dispatching(self, firing: Firing) -> AsyncIterator[PostgresDispatching]:
        async with self._pool.transaction() as conn:
            yield PostgresDispatching(conn, firing, self._online_seconds, self._mint)

    async def begin_plain(self, firings: Sequence[Firing]) -> dict[UUID, UUID]:
        async with self._pool.connection() as conn:
            begun = await _BEGIN_PLAIN_RUNS(
                conn,
                ids=[self._mint() for _ in firings],
                task_ids=[self._mint() for _ in firings],
                autopilot_ids=[firing.autopilot_id for firing in firings],
                trigger_ids=[firing.trigger_id for firing in firings],
                delivery_ids=[firing.delivery_id for firing in firings],
                payloads=LargeValues(None if firing.payload is None else firing.payload.decode() for firing in firings),
                online_seconds=self._online_seconds,
            )
            return dict(begun)

    async def find_run(self, firing: Firing) -> FoundRun | None:
        return await _find_run(self._pool, firing)


class PostgresDispatching:
    """Implements gateway.work.autopilots.dispatch.Dispatching within the store's transaction."""

    def __init__(
        self, conn: TrioConnection[Any], firing: Firing, online_seconds: float, mint: Callable[[], UUID]
    ) -> None:
        self._conn = conn
        self._firing = firing
        self._online_seconds = online_seconds
        self._mint = mint
        self._payload = None if firing.payload is None else firing.payload.decode()
        self._workspace_id: UUID | None = None
        self.filing = PostgresFiling(conn, mint)

    async def find_run(self) -> FoundRun | None:
        if self._firing.delivery_id is None and self._firing.idempotency_key is None:
            return None
        return await _find_run(self._conn, self._firing)

    async def find_order(self) -> Order | None:
        order = await _GET_ORDER(
            self._conn,
            autopilot_id=self._firing.autopilot_id,
            trigger_id=self._firing.trigger_id,
            online_seconds=self._online_seconds,
        )
        if order is None or order.agent_id is None or order.agent_archived:
            return order
        self._workspace_id = order.workspace_id
        free = await _LOCK_FREE_AGENT(self._conn, agent_id=order.agent_id)
        return order if free is not None else replace(order, agent_archived=True)

    async def role_of(self, user_id: UUID) -> str | None:
        with translating():
            async with self._conn.transaction():
                return await _GET_ROLE(self._conn, workspace_id=self._workspace_id, user_id=user_id)

    async def find_recent_issue(self, title: str, project_id: UUID | None) -> UUID | None:
        place = {"autopilot_id": self._firing.autopilot_id, "project_id": project_id, "title": title}
        await _LOCK_AUTOPILOT_TITLE(self._conn, **place)
        return await _FIND_RECENT_RUN_ISSUE(self._conn, **place, payload=self._payload, guard_seconds=GUARD_SECONDS)

    async def insert_run(self, draft: RunDraft) -> bool:
        firing = self._firing
        inserted = await _INSERT_RUN(
            self._conn,
            id=draft.id,
            workspace_id=draft.workspace_id,
            autopilot_id=firing.autopilot_id,
            trigger_id=firing.trigger_id,
            source=firing.source,
            status=draft.status,
            issue_id=draft.issue_id,
            delivery_id=firing.delivery_id,
            idempotency_key=firing.idempotency_key,
            reason_code=None if draft.skip is None else draft.skip.code,
            failure_reason=None if draft.skip is None else draft.skip.text,
            payload=self._payload,
            task_id=None if draft.agent_id is None else self._mint(),
            agent_id=draft.agent_id,
            initiator_id=firing.actor_id,
        )
        return inserted is not None


async def _find_run(on: PoolOrConnection, firing: Firing) -> FoundRun | None:
    return await _FIND_RUN_OF_FIRING(
        on, autopilot_id=firing.autopilot_id, delivery_id=firing.delivery_id, idempotency_key=firing.idempotency_key
    )
