"""What agents' tasks need from a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

JsonObject = Mapping[str, Any]


class TaskStatus(StrEnum):
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Loss(StrEnum):
    """Why a claimed task is not being worked on any more."""

    UNDELIVERED = "undelivered"
    """Dispatched and never started: the answer to the claim was lost."""
    RUNTIME_OFFLINE = "runtime_offline"
    """Its runtime went silent."""
    TIMEOUT = "timeout"
    """It has been running for longer than any run may."""


@dataclass(frozen=True, slots=True)
class LossLimits:
    """When a claimed task counts as lost, in seconds."""

    silent_seconds: float = 150.0
    unstarted_seconds: float = 90.0
    running_seconds: float = 9000.0


@dataclass(frozen=True, slots=True)
class Task:
    """A task as stored, with what decisions about it need.

    `runtime_id` is the runtime that claimed it, None while it waits; `agent_runtime_id` the one that may claim it.
    `language` is the workspace's, `run_seconds` the time since the claim. Only a search for lost tasks sets `loss`.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    runtime_id: UUID | None
    agent_runtime_id: UUID | None
    kind: str
    status: str
    chat_session_id: UUID | None
    issue_id: UUID | None
    attempt: int
    max_attempts: int
    progress: str | None
    result: Any
    error: str | None
    failure_reason: str | None
    available_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    language: str
    run_seconds: float | None
    loss: str | None


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """The autopilot's run that a task is, with what its webhook brought."""

    id: UUID
    title: str
    description: str
    source: str
    triggered_at: datetime
    timezone: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that was just handed out. `deadline` is when it is given up, whatever its runtime says.

    `context_generation` is None unless it is a chat's. It grows with every `/new`: whoever remembers a conversation by
    its `chat_session_id` must forget what they remember under a lower one. `run` is set for an autopilot's task.
    """

    id: UUID
    kind: str
    workspace_id: UUID
    agent_id: UUID
    agent_name: str
    chat_session_id: UUID | None
    issue_id: UUID | None
    issue_key: str | None
    issue_title: str | None
    issue_description: str | None
    issue_status: str | None
    attempt: int
    context_generation: int | None
    deadline: datetime
    run: ClaimedRun | None = None


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """One message that a run has to answer. `age_seconds` is how old it was when the run was handed out."""

    role: str
    author: str
    text: str
    sent_at: datetime
    age_seconds: int


@dataclass(frozen=True, slots=True)
class RuntimeView:
    id: UUID
    workspace_id: UUID
    name: str
    kind: str
    version: str


class TaskChange(Protocol):
    """A task under its row lock, inside a transaction that commits when the block ends without an exception.

    Announcements reach listeners after the commit, in the order in which they were made.
    """

    @property
    def task(self) -> Task: ...

    async def start(self) -> None:
        """From dispatched to running."""

    async def record_progress(self, text: str) -> None: ...

    async def finish(
        self,
        status: TaskStatus,
        *,
        result: JsonObject | None = None,
        error: str | None = None,
        failure_reason: str | None = None,
    ) -> None:
        """Write a terminal status."""

    async def requeue(self, *, attempt: int, delay_seconds: float, error: str | None, failure_reason: str) -> bool:
        """Back to the queue; False when another run already waits there.

        Then that one takes over the messages and, if it has fewer, the attempts; this one is cancelled.
        Raises StoreConflict when such a run appeared meanwhile; trying the whole change again then finds it.
        """

    async def append_answer(self, text: str) -> UUID:
        """The assistant's message in the task's chat session."""

    async def append_comment(self, text: str, *, by_agent: bool) -> UUID:
        """A comment on the task's issue: the agent's, else the gateway's own."""

    async def send_reply(self, kind: str, text: str) -> bool:
        """A row of the outbox for the chat that the session is bound to. False when there is none to send to."""

    async def announce(self, event: str, fields: JsonObject) -> None:
        """Tell live listeners; ids only, never content."""

    async def ring(self) -> None:
        """Wake whoever waits for work of this task's agent."""


class TaskStore(Protocol):
    async def touch_runtime(self, runtime_id: UUID) -> None:
        """The runtime was heard of."""

    async def register_runtime(
        self, runtime_id: UUID, *, name: str | None, kind: str, version: str
    ) -> RuntimeView | None:
        """Describe the runtime, which counts as hearing of it. Without `name` its name stays.

        Raises StoreConflict when the name is taken.
        """

    async def see_tasks(self, runtime_id: UUID, task_ids: Sequence[UUID]) -> list[UUID]:
        """The runtime works on these. Returns those that are indeed dispatched to it or running on it."""

    async def claim(
        self, runtime_id: UUID, *, messages_max: int, running_seconds: float
    ) -> tuple[Claim, list[ClaimedMessage]] | None:
        """Hand out the next task, dispatched to this runtime, with the waiting messages of its conversation.

        None when nothing may run now. Raises StoreConflict when a concurrent change stood in the way.
        """

    async def seconds_to_next(self, runtime_id: UUID) -> float | None:
        """Until the next task that is waiting for its time becomes available; None when no task waits for that."""

    async def find(self, task_id: UUID) -> Task | None: ...

    def change(self, task_id: UUID) -> AbstractAsyncContextManager[TaskChange | None]:
        """None when there is no such task."""

    def change_lost(
        self, limits: LossLimits, passed_over: Sequence[UUID]
    ) -> AbstractAsyncContextManager[TaskChange | None]:
        """The longest lost task that nobody else is changing and that is not among `passed_over`."""
