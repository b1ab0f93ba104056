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
from gateway.postgres.statements import load
from gateway.work.autopilots.autopilots import AssigneeFound, AssigneeKind, Autopilot, AutopilotDraft, EndedRun, Run

_Q = load("autopilot.sql", AssigneeFound, Autopilot, EndedRun, Run)


class PostgresAutopilotStore:
    """Implements gateway.work.autopilots.autopilots.AutopilotStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[PostgresAutopilotChange]:
        async with self._pool.transaction() as conn:
            yield PostgresAutopilotChange(conn)

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot | None:
        async with self._pool.connection() as conn:
            autopilot: Autopilot | None = await _Q.get_autopilot(conn, autopilot_id=autopilot_id, user_id=user_id)
            return autopilot

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Autopilot], int]:
        async with self._pool.connection() as conn:
            found: list[Autopilot] = await _Q.list_autopilots(
                conn, workspace_id=workspace_id, user_id=user_id, limit=limit, offset=offset
            )
            total: int = await _Q.count_autopilots(conn, workspace_id=workspace_id)
            return found, total

    async def runs(self, autopilot: Autopilot, *, limit: int, offset: int) -> tuple[Sequence[Run], int]:
        place = {"workspace_id": autopilot.workspace_id, "autopilot_id": autopilot.id}
        async with self._pool.connection() as conn:
            found: Sequence[Run] = await _Q.list_runs(conn, **place, limit=limit, offset=offset)
            total: int = await _Q.count_runs(conn, **place)
            return found, total

    async def run(self, autopilot: Autopilot, run_id: UUID) -> Run | None:
        async with self._pool.connection() as conn:
            run: Run | None = await _Q.get_run(
                conn, workspace_id=autopilot.workspace_id, autopilot_id=autopilot.id, run_id=run_id
            )
            return run

    async def take_ended(self, runs_max: int) -> Sequence[EndedRun]:
        async with self._pool.connection() as conn:
            ended: Sequence[EndedRun] = await _Q.take_ended_runs(conn, runs_max=runs_max)
            return ended


class PostgresAutopilotChange:
    """Implements gateway.work.autopilots.autopilots.AutopilotChange within the store's transaction."""

    def __init__(self, conn: TrioConnection[Any]) -> None:
        self._conn = conn

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot | None:
        await _Q.lock_autopilot(self._conn, autopilot_id=autopilot_id)
        autopilot: Autopilot | None = await _Q.get_autopilot(self._conn, autopilot_id=autopilot_id, user_id=user_id)
        return autopilot

    async def find_assignee(self, workspace_id: UUID, kind: AssigneeKind, assignee_id: UUID) -> AssigneeFound | None:
        found: AssigneeFound | None = await _Q.get_autopilot_agent(
            self._conn, workspace_id=workspace_id, assignee_type=kind, assignee_id=assignee_id
        )
        return found

    async def has_project(self, workspace_id: UUID, project_id: UUID) -> bool:
        return await _Q.has_project(self._conn, workspace_id=workspace_id, project_id=project_id) is not None

    async def insert(self, autopilot_id: UUID, workspace_id: UUID, draft: AutopilotDraft, user_id: UUID) -> Autopilot:
        await _Q.insert_autopilot(
            self._conn, id=autopilot_id, workspace_id=workspace_id, user_id=user_id, **asdict(draft)
        )
        return await self._reread(autopilot_id, user_id)

    async def update(
        self, autopilot: Autopilot, draft: AutopilotDraft, user_id: UUID, *, assigned_by_id: UUID | None
    ) -> Autopilot:
        await _Q.update_autopilot(
            self._conn,
            id=autopilot.id,
            workspace_id=autopilot.workspace_id,
            assigned_by_id=assigned_by_id,
            **asdict(draft),
        )
        return await self._reread(autopilot.id, user_id)

    async def _reread(self, autopilot_id: UUID, user_id: UUID) -> Autopilot:
        autopilot: Autopilot | None = await _Q.get_autopilot(self._conn, autopilot_id=autopilot_id, user_id=user_id)
        if autopilot is None:
            raise StoreConflict("its author left the workspace while the autopilot was written")
        return autopilot
