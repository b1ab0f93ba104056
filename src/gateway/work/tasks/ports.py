"""The store interfaces for agents' tasks, and the records that pass through them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from gateway.core.attachments import unable_line
from gateway.core.enrichment import SharedFile, neutralise
from gateway.work.tasks.attachments import StoredAttachment

JsonObject = Mapping[str, Any]

Divide = Callable[[str, str], Sequence[str]]
"""Divides a text into the messages that it takes on a platform. Arguments: the platform's slug, and the text."""


def undivided(_channel_type: str, text: str) -> Sequence[str]:
    """Return the text as one message, whatever its length."""
    return [text]


class TaskStatus(StrEnum):
    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Loss(StrEnum):
    """The reason why a claimed task is no longer being worked on."""

    UNDELIVERED = "undelivered"
    """It was dispatched and never started, for example because the answer to the claim was lost."""
    RUNTIME_OFFLINE = "runtime_offline"
    """Its runtime went silent."""
    TIMEOUT = "timeout"
    """It has been running for longer than a run may."""
    RESTARTED = "restarted"
    """Its worker was started again, and no longer works on it."""


SILENT_SECONDS = 150.0
"""A runtime that has been silent for this long counts as absent, unless configured otherwise."""


@dataclass(frozen=True, slots=True)
class LossLimits:
    """The times after which a claimed task counts as lost, in seconds."""

    silent_seconds: float = SILENT_SECONDS
    unstarted_seconds: float = 90.0
    running_seconds: float = 9000.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The identity of a claim. A task is handed out only once under each number.

    Every report names it, so that a worker that comes back late cannot touch the run of another worker.
    """

    task_id: UUID
    number: int


@dataclass(frozen=True, slots=True)
class Task:
    """A stored task, with the fields that decisions about it need.

    `runtime_id` is the runtime that claimed it, None while it waits. `agent_runtime_id` is the runtime that may claim
    it. `attempt` is the number of the last claim, or of the next one while it waits. `forgiven` counts the attempts
    that were never started. They do not count against `max_attempts`. `reported_attempt` is set while the task waits
    because its worker gave that attempt up. `language` is the workspace's. `run_seconds` is the time since the claim.
    `loss` is only set by a search for lost tasks.
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
    def counted_attempts(self) -> int:
        """The attempts that count against `max_attempts`, this one included."""
        return self.attempt - self.forgiven


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run. `stderr_tail` is the end of its program's stderr, which is shown to people and never logged."""

    result: JsonObject | None = None
    error: str | None = None
    failure_reason: str | None = None
    stderr_tail: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """The autopilot's run that a task carries out.

    `event` and `payload` (JSON, cut above PAYLOAD_CHARS_MAX) are those of its webhook, if one fired it.
    """

    id: UUID
    title: str
    description: str
    source: str
    triggered_at: datetime
    timezone: str
    event: str | None
    payload: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class TaskClaim:
    """A task that was just handed out. At `deadline` it is given up, even if its runtime still reports it.

    `context_generation` is set for a chat's task, else None. It grows with every `/new`. An agent that remembers a
    conversation by its `chat_session_id` must then forget what it remembers of lower generations. `run` is set for an
    autopilot's task.
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
    """A message that a run has to answer. `age_seconds` is its age when the run was handed out.

    `message_id` and `quoted_id` are the platform's ids, "" when there is none. A `bundle` contains forwarded messages.
    `additions` is the text of what others said around it (see `core/enrichment.py`). It is never stored. `shared` are
    the files of what it quotes or forwards.
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
    attachments: tuple[StoredAttachment, ...] = ()
    shared: tuple[SharedFile, ...] = ()

    @property
    def missing(self) -> list[str]:
        """A line for each of its files that could not be fetched."""
        return [neutralise(unable_line(file.kind, file.name)) for file in self.attachments if file.failed]

    @property
    def words(self) -> str:
        return "\n".join(part for part in (self.text, *self.missing) if part)

    @property
    def with_additions(self) -> str:
        return with_words(self.additions, self.words)


def with_words(additions: str, words: str) -> str:
    """Join a message's additions and the sender's own words, in this order."""
    return "\n\n".join(part for part in (additions, words) if part)


@dataclass(frozen=True, slots=True)
class ConversationPlace:
    """The place of a run's conversation on its platform. `thread_id` is "" outside a topic.

    `since_id` and `since` are the id and time of the message that last began the conversation anew. Older messages are
    not part of it. Both are None if it was never begun anew.
    """

    installation_id: UUID
    channel_type: str
    chat_id: str
    thread_id: str
    is_group: bool
    since_id: str | None = None
    since: datetime | None = None


Enrich = Callable[[ConversationPlace, Sequence[ClaimedMessage]], Awaitable[Sequence[ClaimedMessage]]]
"""Adds what others said to the messages of a run. It takes seconds at most, and never fails."""


@dataclass(frozen=True, slots=True)
class HandOut:
    """The answer to a claim: the task, its messages, and their place if they came from a platform."""

    claim: TaskClaim
    messages: tuple[ClaimedMessage, ...]
    place: ConversationPlace | None = None


@dataclass(frozen=True, slots=True)
class RuntimeView:
    id: UUID
    workspace_id: UUID
    name: str
    kind: str
    version: str


class TaskChange(Protocol):
    """A task under its row lock, inside a transaction that commits when the block ends without an exception.

    Announcements reach listeners after the commit, in the order in which they were made. Every change applies to the
    attempt that `task` shows. It raises StoreConflict when the row has moved on to another attempt.
    """

    @property
    def task(self) -> Task: ...

    async def start(self) -> None:
        """Move the task from dispatched to running."""

    async def record_progress(self, text: str) -> None: ...

    async def finish(self, status: TaskStatus, end: End) -> None:
        """Write a terminal status."""

    async def note_undelivered(self, in_a_row: int) -> None:
        """Store the number of claims in a row that were not started. Starting the task resets the count."""

    async def requeue(self, end: End, *, delay_seconds: float = 0.0, forgiven: bool, reported: bool) -> bool:
        """Put the task back into the queue as the next attempt. False when another run of its conversation waits there.

        The waiting run then takes over the messages, and also the number of counted attempts if its own is smaller.
        This task is cancelled. `forgiven`: the attempt does not count. `reported`: the task's own worker ended it.
        Raises StoreConflict when such a run appeared in the meantime. Trying the whole change again then finds it.
        """

    async def append_answer(self, text: str) -> UUID:
        """Append the assistant's message to the task's chat session. Return its id."""

    async def append_comment(self, text: str, *, by_agent: bool) -> UUID:
        """Append a comment to the task's issue, in the name of the agent or of the gateway. Return its id."""

    async def send_reply(self, kind: str, text: str) -> bool:
        """Write the outbox rows for the chat that the session is bound to. False when there is no such chat."""

    async def announce(self, event: str, fields: JsonObject) -> None:
        """Tell live listeners. The fields hold ids only, never content."""

    async def ring(self) -> None:
        """Wake the runtime of this task's agent if it waits for work."""


class TaskStore(Protocol):
    async def touch_runtime(self, runtime_id: UUID) -> None:
        """Note a sign of life of the runtime."""

    async def register_runtime(
        self, runtime_id: UUID, *, name: str | None, kind: str, version: str
    ) -> RuntimeView | None:
        """Describe the runtime. This counts as a sign of life, and is announced. Without `name` its name stays.

        Raises StoreConflict when the name is taken.
        """

    async def see_tasks(self, runtime_id: UUID, attempts: Sequence[Attempt]) -> set[Attempt]:
        """Note that the runtime works on these. Return those that are indeed dispatched to it or running on it."""

    async def claim(
        self, runtime_id: UUID, instance: str | None, *, messages_max: int, running_seconds: float
    ) -> HandOut | None:
        """Hand out the next task, dispatched to this runtime, with the waiting messages of its conversation.

        The task's row keeps the `instance` of the runtime that made the claim. None when nothing may run now. Raises
        StoreConflict when a concurrent change interfered.
        """

    async def attach_shared(self, task_id: UUID, messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        """Store the `shared` files of the messages as attachments, and return the messages with all their files.

        A file that a message has already is not stored again. A message has at most PER_MESSAGE_MAX files. No run waits
        for such a file: it is fetched when it is asked for.
        """

    async def seconds_to_next(self, runtime_id: UUID) -> float | None:
        """Return the seconds until the next waiting task reaches its start time. None when no task waits for a time."""

    async def find(self, task_id: UUID) -> Task | None: ...

    def change(self, task_id: UUID) -> AbstractAsyncContextManager[TaskChange | None]:
        """Open a task under its lock. None when there is no such task."""

    def change_lost(
        self, limits: LossLimits, passed_over: Sequence[UUID]
    ) -> AbstractAsyncContextManager[TaskChange | None]:
        """Open the lost task with the oldest claim that is not locked elsewhere and not in `passed_over`."""

    def change_orphaned(
        self, runtime_id: UUID, instance: str, kept: Sequence[Attempt], passed_over: Sequence[UUID]
    ) -> AbstractAsyncContextManager[TaskChange | None]:
        """Open the instance's task with the oldest claim that is not in `kept` and not in `passed_over`."""
