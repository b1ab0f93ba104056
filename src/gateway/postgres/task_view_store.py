"""Tasks as the commands of an operator show them, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.tasks.views import SentForTask, TaskLine, TaskPage

_Q = load("task_view.sql", SentForTask, TaskLine, TaskPage)


class PostgresTaskViews:
    """Implements gateway.work.tasks.views.TaskViewStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find_agents(self, workspace_id: UUID | None, reference: str) -> list[tuple[UUID, str]]:
        async with self._pool.connection() as conn:
            found: list[tuple[UUID, str]] = await _Q.find_agents(conn, workspace_id=workspace_id, reference=reference)
            return found

    async def recent(
        self, *, workspace_id: UUID | None, agent_id: UUID | None, status: str | None, rows_max: int
    ) -> list[TaskLine]:
        async with self._pool.connection() as conn:
            lines: list[TaskLine] = await _Q.list_tasks(
                conn, workspace_id=workspace_id, agent_id=agent_id, status=status, rows_max=rows_max
            )
            return lines

    async def find(self, task_id: UUID) -> tuple[TaskPage, list[SentForTask]] | None:
        async with self._pool.connection() as conn:
            task: TaskPage | None = await _Q.show_task(conn, task_id=task_id)
            if task is None:
                return None
            return task, await _Q.list_messages_of_task(conn, task_id=task_id)
