"""Autopilots and their runs, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any
from uuid import UUID

from gateway.errors import StoreConflict
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.autopilots.autopilots import AssigneeFound, AssigneeKind, Autopilot, AutopilotDraft, EndedRun, Run

_SQL = SqlFile("autopilot.sql")
_GET_AUTOPILOT = _SQL.one_or_none("get_autopilot", Autopilot)
_LOCK_AUTOPILOT = _SQL.value_or_none("lock_autopilot", UUID)
_LIST_AUTOPILOTS = _SQL.many("list_autopilots", Autopilot)
_COUNT_AUTOPILOTS = _SQL.value("count_autopilots", int)
_GET_AUTOPILOT_AGENT = _SQL.one_or_none("get_autopilot_agent", AssigneeFound)
_HAS_PROJECT = _SQL.value_or_none("has_project", UUID)
_INSERT_AUTOPILOT = _SQL.count("insert_autopilot")
_UPDATE_AUTOPILOT = _SQL.count("update_autopilot")
_LIST_RUNS = _SQL.many("list_runs", Run)
_COUNT_RUNS = _SQL.value("count_runs", int)
_GET_RUN = _SQL.one_or_none("get_run", Run)
_TAKE_ENDED_RUNS = _SQL.many("take_ended_runs", EndedRun)


class PostgresAutopilotStore:
    """Implements gateway.work.autopilots.autopilots.AutopilotStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[PostgresAutopilotChange]:
        async with self._pool.transaction() as conn:
            yield PostgresAutopilotChange(conn)

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot | None:
        return await _GET_AUTOPILOT(self._pool, autopilot_id=autopilot_id, user_id=user_id)

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Autopilot], int]:
        async with self._pool.connection() as conn:
            found = await _LIST_AUTOPILOTS(conn, workspace_id=workspace_id, user_id=user_id, limit=limit, offset=offset)
            return found, await _COUNT_AUTOPILOTS(conn, workspace_id=workspace_id)

    async def runs(self, autopilot: Autopilot, *, limit: int, offset: int) -> tuple[Sequence[Run], int]:
        place = {"workspace_id": autopilot.workspace_id, "autopilot_id": autopilot.id}
        async with self._pool.connection() as conn:
            found = await _LIST_RUNS(conn, **place, limit=limit, offset=offset)
            return found, await _COUNT_RUNS(conn, **place)

    async def run(self, autopilot: Autopilot, run_id: UUID) -> Run | None:
        return await _GET_RUN(self._pool, workspace_id=autopilot.workspace_id, autopilot_id=autopilot.id, run_id=run_id)

    async def take_ended(self, runs_max: int) -> Sequence[EndedRun]:
        return await _TAKE_ENDED_RUNS(self._pool, runs_max=runs_max)


class PostgresAutopilotChange:
    """Implements gateway.work.autopilots.autopilots.AutopilotChange within the store's transaction."""

    def __init__(self, conn: TrioConnection[Any]) -> None:
        self._conn = conn

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot | None:
        await _LOCK_AUTOPILOT(self._conn, autopilot_id=autopilot_id)
        return await _GET_AUTOPILOT(self._conn, autopilot_id=autopilot_id, user_id=user_id)

    async def find_assignee(self, workspace_id: UUID, kind: AssigneeKind, assignee_id: UUID) -> AssigneeFound | None:
        return await _GET_AUTOPILOT_AGENT(
            self._conn, workspace_id=workspace_id, assignee_type=kind, assignee_id=assignee_id
        )

    async def has_project(self, workspace_id: UUID, project_id: UUID) -> bool:
        return await _HAS_PROJECT(self._conn, workspace_id=workspace_id, project_id=project_id) is not None

    async def insert(self, autopilot_id: UUID, workspace_id: UUID, draft: AutopilotDraft, user_id: UUID) -> Autopilot:
        await _INSERT_AUTOPILOT(
            self._conn, id=autopilot_id, workspace_id=workspace_id, user_id=user_id, **asdict(draft)
        )
        return await self._reread(autopilot_id, user_id)

    async def update(
        self, autopilot: Autopilot, draft: AutopilotDraft, user_id: UUID, *, assigned_by_id: UUID | None
    ) -> Autopilot:
        await _UPDATE_AUTOPILOT(
            self._conn,
            id=autopilot.id,
            workspace_id=autopilot.workspace_id,
            assigned_by_id=assigned_by_id,
            **asdict(draft),
        )
        return await self._reread(autopilot.id, user_id)

    async def _reread(self, autopilot_id: UUID, user_id: UUID) -> Autopilot:
        autopilot = await _GET_AUTOPILOT(self._conn, autopilot_id=autopilot_id, user_id=user_id)
        if autopilot is None:
            raise StoreConflict("its author left the workspace while the autopilot was written")
        return autopilot
