"""What agents' tasks need from a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from gateway.core.attachments import unable_line
from gateway.core.enrichment import neutralise
from gateway.work.tasks.attachments import Attachment

JsonObject = Mapping[str, Any]

Divide = Callable[[str, str], Sequence[str]]
"""The texts of the messages that a text takes on a platform: (the platform's slug, the text)."""


def undivided(_channel_type: str, text: str) -> Sequence[str]:
    """One message, however long."""
    return [text]


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
    RESTARTED = "restarted"
    """Its worker was started again, and does not work on it."""


SILENT_SECONDS = 150.0
"""A runtime that was not heard of for so long is not there, unless configured otherwise."""


@dataclass(frozen=True, slots=True)
class LossLimits:
    """When a claimed task counts as lost, in seconds."""

    silent_seconds: float = SILENT_SECONDS
    unstarted_seconds: float = 90.0
    running_seconds: float = 9000.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The identity of a claim: a task is handed out under each number once.

    Every report gives it, so that a worker that comes back late cannot touch the run of another one.
    """

    task_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Task:
    """A task as stored, with what decisions about it need.

    `runtime_id` is the runtime that claimed it, None while it waits; `agent_runtime_id` the one that may claim it.
    `attempt` is the number of the last claim, or of the next one while it waits; `forgiven` of them were never started
    and do not count against `max_attempts`. `reported_attempt` is set while it waits because its worker gave it up.
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
    forgiven: int
    reported_attempt: int | None
    max_attempts: int
    progress: str | None
    result: Any
    error: str | None
    failure_reason: str | None
    stderr_tail: str | None
    available_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    undelivered: int
    language: str
    run_seconds: float | None
    loss: str | None

    @property
    def tries(self) -> int:
        """The attempts that count against `max_attempts`, this one included."""
        return self.attempt - self.forgiven


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended. `stderr_tail` is the end of what its program wrote there: shown to people, never logged."""

    result: JsonObject | None = None
    error: str | None = None
    failure_reason: str | None = None
    stderr_tail: str | None = None


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

    @property
    def identity(self) -> Attempt:
        return Attempt(self.id, self.attempt)


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """One message that a run has to answer. `age_seconds` is how old it was when the run was handed out.

    `message_id` and `quoted_id` are the platform's, "" when there is none; a `bundle` wraps forwarded messages.
    `additions` is what others said around it (see `core/enrichment.py`): nobody stores it.
    """

    role: str
    author: str
    text: str = field(repr=False)
    sent_at: datetime
    age_seconds: int
    message_id: str = ""
    quoted_id: str = ""
    bundle: bool = False
    additions: str = field(default="", repr=False)
    row_id: UUID | None = None
    attachments: tuple[Attachment, ...] = ()

    @property
    def missing(self) -> list[str]:
        """A line for each of its files that could not be had."""
        return [neutralise(unable_line(file.kind, file.name)) for file in self.attachments if file.failed]

    @property
    def words(self) -> str:
        return "\n".join(part for part in (self.text, *self.missing) if part)

    @property
    def with_additions(self) -> str:
        return with_words(self.additions, self.words)


def with_words(additions: str, words: str) -> str:
    """What others said, then the sender's own words."""
    return "\n\n".join(part for part in (additions, words) if part)


@dataclass(frozen=True, slots=True)
class Place:
    """Where on its platform a run's conversation is. `thread_id` is "" outside a topic.

    `since_id` and `since` are the message with which the conversation was begun anew and its time, None when it never
    was: what is older is not part of it.
    """

    installation_id: UUID
    channel_type: str
    chat_id: str
    thread_id: str
    is_group: bool
    since_id: str | None = None
    since: datetime | None = None


Enrich = Callable[[Place, Sequence[ClaimedMessage]], Awaitable[Sequence[ClaimedMessage]]]
"""Add what others said to the messages of a run: within seconds, and without ever failing."""


@dataclass(frozen=True, slots=True)
class HandOut:
    """What a runtime gets: the task, its messages, and where they came from if that is a platform."""

    claim: Claim
    messages: tuple[ClaimedMessage, ...]
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class RuntimeView:
    id: UUID
    workspace_id: UUID
    name: str
    kind: str
    version: str


class TaskChange(Protocol):
    """A task under its row lock, inside a transaction that commits when the block ends without an exception.

    Announcements reach listeners after the commit, in the order in which they were made. Every change is made to the
    attempt that `task` shows, and raises StoreConflict when the row has gone on to another one.
    """

    @property
    def task(self) -> Task: ...

    async def start(self) -> None:
        """From dispatched to running."""

    async def record_progress(self, text: str) -> None: ...

    async def finish(self, status: TaskStatus, end: End) -> None:
        """Write a terminal status."""

    async def note_undelivered(self, in_a_row: int) -> None:
        """So many claims of it, one after the other, were not started. Starting it begins the count anew."""

    async def requeue(self, end: End, *, delay_seconds: float = 0.0, forgiven: bool, reported: bool) -> bool:
        """Back to the queue as the next attempt; False when another run already waits there.

        Then that one takes over the messages and, if it has fewer, the tries; this one is cancelled. `forgiven`: the
        attempt does not count. `reported`: its own worker ended it.
        Raises StoreConflict when such a run appeared meanwhile; trying the whole change again then finds it.
        """

    async def append_answer(self, text: str) -> UUID:
        """The assistant's message in the task's chat session."""

    async def append_comment(self, text: str, *, by_agent: bool) -> UUID:
        """A comment on the task's issue: the agent's, else the gateway's own."""

    async def send_reply(self, kind: str, text: str) -> bool:
        """The rows of the outbox for the chat that the session is bound to. False when there is none to send to."""

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
        """Describe the runtime, which counts as hearing of it and is announced. Without `name` its name stays.

        Raises StoreConflict when the name is taken.
        """

    async def see_tasks(self, runtime_id: UUID, attempts: Sequence[Attempt]) -> set[Attempt]:
        """The runtime works on these. Returns those that are indeed dispatched to it or running on it."""

    async def claim(
        self, runtime_id: UUID, instance: str | None, *, messages_max: int, running_seconds: float
    ) -> HandOut | None:
        """Hand out the next task, dispatched to this runtime, with the waiting messages of its conversation.

        The row says which `instance` of the runtime made the claim. None when nothing may run now. Raises StoreConflict
        when a concurrent change stood in the way.
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

    def change_orphaned(
        self, runtime_id: UUID, instance: str, kept: Sequence[Attempt], passed_over: Sequence[UUID]
    ) -> AbstractAsyncContextManager[TaskChange | None]:
        """The longest claimed task of that instance of the runtime that is not `kept` and not among `passed_over`."""
