"""Tasks as the commands of an operator show them, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.tasks.views import SentForTask, TaskLine, TaskPage

_SQL = SqlFile("task_view.sql")
_LIST_TASKS = _SQL.many("list_tasks", TaskLine)
_SHOW_TASK = _SQL.one_or_none("show_task", TaskPage)
_LIST_MESSAGES_OF_TASK = _SQL.many("list_messages_of_task", SentForTask)


class PostgresTaskViews:
    """Implements gateway.work.tasks.views.TaskViewStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def recent(
        self, *, workspace_id: UUID | None, agent_id: UUID | None, status: str | None, rows_max: int
    ) -> list[TaskLine]:
        return await _LIST_TASKS(
            self._pool, workspace_id=workspace_id, agent_id=agent_id, status=status, rows_max=rows_max
        )

    async def find(self, id: UUID) -> tuple[TaskPage, list[SentForTask]] | None:
        async with self._pool.connection() as conn:
            task = await _SHOW_TASK(conn, id=id)
            if task is None:
                return None
            return task, await _LIST_MESSAGES_OF_TASK(conn, task_id=task.id)
