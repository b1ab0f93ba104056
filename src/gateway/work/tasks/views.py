"""Tasks as an operator sees them: the outcome of a run and its reason, without the content of conversations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.errors import NotFound


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task in a list. `runtime` is the runtime that claimed it, or else the one that it waits for."""

    id: UUID
    workspace_id: UUID
    workspace: str
    agent_id: UUID
    agent: str
    kind: str
    status: str
    attempt: int
    max_attempts: int
    failure_reason: str | None
    chat_session_id: UUID | None
    issue_id: UUID | None
    issue_key: str | None
    autopilot_run_id: UUID | None
    runtime_id: UUID | None
    runtime: str | None
    runtime_last_heartbeat_at: datetime | None
    created_at: datetime
    available_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskPage(TaskLine):
    """A single task with its details. `undelivered` counts claims in a row that were not started."""

    undelivered: int
    error: str | None
    stderr_tail: str | None


@dataclass(frozen=True, slots=True)
class SentForTask:
    """One message to the task's chat, without its text."""

    id: UUID
    kind: str
    part: int
    status: str
    attempts: int
    error_code: int | None
    error: str | None
    created_at: datetime
    sent_at: datetime | None


class TaskViewStore(Protocol):
    """The store of task views. Every call raises StoreUnavailable."""

    async def recent(
        self, *, workspace_id: UUID | None, agent_id: UUID | None, status: str | None, rows_max: int
    ) -> list[TaskLine]:
        """Return tasks, the latest first."""

    async def find(self, id: UUID) -> tuple[TaskPage, list[SentForTask]] | None:
        """Find a task by its id, or the latest task of an autopilot's run by the id of the run."""


class TaskViews:
    """Finds tasks."""

    def __init__(self, store: TaskViewStore) -> None:
        self._store = store

    async def recent(
        self,
        *,
        workspace_id: UUID | None = None,
        agent_id: UUID | None = None,
        status: str | None = None,
        rows_max: int = 50,
    ) -> list[TaskLine]:
        """Return tasks, the latest first."""
        return await self._store.recent(workspace_id=workspace_id, agent_id=agent_id, status=status, rows_max=rows_max)

    async def find(self, id: UUID) -> tuple[TaskPage, list[SentForTask]]:
        """Return a task and its messages to the chat.

        `id` is the task's, or that of an autopilot's run, whose latest task is meant. Raises NotFound for any other,
        and for a run that never had a task.
        """
        found = await self._store.find(id)
        if found is None:
            raise NotFound("task_not_found", f"there is no task {id}, and no run of an autopilot with a task")
        return found
