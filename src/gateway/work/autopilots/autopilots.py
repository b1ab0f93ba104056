"""The management of autopilots: people set them up, start them by hand and look at their runs.

Every member of the workspace may look. The person who made an autopilot may change and start it, and so may owners and
admins. A person cannot save it with a private agent that they may not use themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from gateway.core.autopilot import cadence, run_error_type, template_problem
from gateway.core.naming import checked_name
from gateway.errors import Conflict, Forbidden, Invalid, NotFound
from gateway.ids import new_id
from gateway.recorder import SILENT, Recorder
from gateway.work.autopilots.dispatch import Dispatcher, Firing
from gateway.work.issues.issues import Priority
from gateway.work.people.access import may_change, may_use_agent, require_writer
from gateway.work.tasks.tasks import storable

AutopilotStatus = Literal["active", "paused", "archived"]
ExecutionMode = Literal["create_issue", "run_only"]
ConcurrencyPolicy = Literal["skip", "queue", "replace"]
AssigneeKind = Literal["agent", "squad"]

TITLE_CHARS_MAX = 500
DESCRIPTION_CHARS_MAX = 100_000
IDEMPOTENCY_KEY_CHARS_MAX = 255
ENDED_MAX = 500


@dataclass(frozen=True, slots=True)
class AutopilotDraft:
    """The fields of an autopilot that a person may set."""

    title: str
    assignee_id: UUID
    assignee_type: AssigneeKind = "agent"
    description: str = field(default="", repr=False)
    project_id: UUID | None = None
    priority: Priority = "medium"
    status: AutopilotStatus = "active"
    execution_mode: ExecutionMode = "create_issue"
    issue_title_template: str = ""
    concurrency_policy: ConcurrencyPolicy = "skip"


@dataclass(frozen=True, slots=True)
class Autopilot:
    """A stored autopilot. `role` is the role of the member who looks at it."""

    id: UUID
    workspace_id: UUID
    project_id: UUID | None
    title: str
    description: str = field(repr=False)
    assignee_type: AssigneeKind
    assignee_id: UUID
    assigned_by_id: UUID | None
    priority: Priority
    status: AutopilotStatus
    execution_mode: ExecutionMode
    issue_title_template: str
    concurrency_policy: ConcurrencyPolicy
    created_by_type: str
    created_by_id: UUID | None
    last_run_at: datetime | None
    created_at: datetime
    updated_at: datetime
    role: str


@dataclass(frozen=True, slots=True)
class Run:
    """A stored run. `trigger_payload` is JSON, and None if it is large: in a list sooner than for a run alone."""

    id: UUID
    autopilot_id: UUID
    trigger_id: UUID | None
    source: str
    status: str
    issue_id: UUID | None
    task_id: UUID | None
    triggered_at: datetime
    completed_at: datetime | None
    reason_code: str | None
    failure_reason: str | None
    trigger_payload: str | None = field(repr=False)
    result: Any = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run whose end was not counted before."""

    id: UUID
    source: str
    status: str
    reason_code: str | None
    failure_reason: str | None


@dataclass(frozen=True, slots=True)
class AssigneeFound:
    """The agent that would work: the assigned agent, or the squad's leader.

    For a squad without a leader `agent_id` is None, and the assignee is never private.
    """

    agent_id: UUID | None
    visibility: str
    owner_id: UUID | None


class AutopilotChange(Protocol):
    """One transaction, which commits when its block ends without an exception."""

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot | None:
        """Find an autopilot and lock its row. None when it does not exist, or for a stranger."""

    async def find_assignee(self, workspace_id: UUID, kind: AssigneeKind, assignee_id: UUID) -> AssigneeFound | None:
        """Find an assignee. None when this workspace does not have it."""

    async def has_project(self, workspace_id: UUID, project_id: UUID) -> bool: ...

    async def insert(
        self, autopilot_id: UUID, workspace_id: UUID, draft: AutopilotDraft, user_id: UUID
    ) -> Autopilot: ...

    async def update(
        self, autopilot: Autopilot, draft: AutopilotDraft, user_id: UUID, *, assigned_by_id: UUID | None
    ) -> Autopilot: ...


class AutopilotStore(Protocol):
    """The store of autopilots.

    Every call raises StoreUnavailable. `user_id` is the viewer: a stranger finds nothing.
    """

    def changing(self) -> AbstractAsyncContextManager[AutopilotChange]: ...

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot | None: ...

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Autopilot], int]:
        """Return a page of autopilots, the newest first, and their total number."""

    async def runs(self, autopilot: Autopilot, *, limit: int, offset: int) -> tuple[Sequence[Run], int]:
        """Return a page of runs, the newest first, and their total number."""

    async def run(self, autopilot: Autopilot, run_id: UUID) -> Run | None: ...

    async def take_ended(self, runs_max: int) -> Sequence[EndedRun]:
        """Take runs that ended and were not counted yet. From now on they count as counted, for every process."""


class AutopilotService:
    """The actions of people on autopilots.

    Raises Invalid for a bad value, with its field; Forbidden for an action that the person may not do; NotFound for an
    object that does not exist or that the person may not see; Conflict for an action that the present state does not
    allow.
    """

    def __init__(
        self,
        store: AutopilotStore,
        dispatcher: Dispatcher,
        *,
        recorder: Recorder = SILENT,
        mint: Callable[[], UUID] = new_id,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._mint = mint

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Autopilot], int]:
        """Return a page of autopilots and their total number, for a member of the workspace."""
        return await self._store.list(workspace_id, user_id, limit=limit, offset=offset)

    async def find(self, autopilot_id: UUID, user_id: UUID) -> Autopilot:
        return _found(await self._store.find(autopilot_id, user_id))

    async def find_writable(self, autopilot_id: UUID, user_id: UUID) -> Autopilot:
        """Find an autopilot for a person who wants to change it or its parts. Raises Forbidden if they may not."""
        return _require_writable(await self.find(autopilot_id, user_id), user_id)

    async def create(self, workspace_id: UUID, user_id: UUID, role: str, draft: AutopilotDraft) -> Autopilot:
        require_writer(role)
        draft = _checked(draft)
        async with self._store.changing() as change:
            await _check_place(change, workspace_id, draft)
            await _check_access(change, workspace_id, draft, user_id, role)
            return await change.insert(self._mint(), workspace_id, draft, user_id)

    async def update(
        self, autopilot_id: UUID, user_id: UUID, amend: Callable[[AutopilotDraft], AutopilotDraft]
    ) -> Autopilot:
        """Change an autopilot. `amend` gets the present settings and returns the new ones.

        A person who sets another assignee becomes the assigner. From then on their own permission to use the assignee
        counts.
        """
        async with self._store.changing() as change:
            autopilot = _require_writable(_found(await change.find(autopilot_id, user_id)), user_id)
            before = _settings(autopilot)
            draft = _checked(amend(before))
            await _check_place(change, autopilot.workspace_id, draft)
            # Only to switch it off needs no access to the agent, because the agent may have become private since.
            if draft != replace(before, status=draft.status) or draft.status == "active":
                await _check_access(change, autopilot.workspace_id, draft, user_id, autopilot.role)
            same = (draft.assignee_type, draft.assignee_id) == (before.assignee_type, before.assignee_id)
            assigned_by = autopilot.assigned_by_id if same else user_id
            return await change.update(autopilot, draft, user_id, assigned_by_id=assigned_by)

    async def trigger(self, autopilot_id: UUID, user_id: UUID, idempotency_key: str | None) -> Run:
        """Start an autopilot by hand. The same idempotency key again gets the same run.

        Also raises StoreConflict, when concurrent changes interfered in every attempt.
        """
        key = (idempotency_key or "").strip()
        if len(key) > IDEMPOTENCY_KEY_CHARS_MAX:
            message = f"the Idempotency-Key has {len(key)} characters, more than {IDEMPOTENCY_KEY_CHARS_MAX}"
            raise Invalid("invalid_idempotency_key", message, field="Idempotency-Key")
        autopilot = await self.find_writable(autopilot_id, user_id)
        done = await self._dispatcher.dispatch(
            Firing(autopilot.id, "manual", idempotency_key=storable(key) or None, actor_id=user_id)
        )
        if done.run_id is None:
            raise _refusal(done.reason)
        return await self.run(autopilot_id, done.run_id, user_id)

    async def runs(self, autopilot_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[Sequence[Run], int]:
        """Return a page of runs, the newest first, and their total number."""
        return await self._store.runs(await self.find(autopilot_id, user_id), limit=limit, offset=offset)

    async def run(self, autopilot_id: UUID, run_id: UUID, user_id: UUID) -> Run:
        run = await self._store.run(await self.find(autopilot_id, user_id), run_id)
        if run is None:
            raise NotFound("run_not_found", "this autopilot has no such run")
        return run

    async def count_ended(self) -> int:
        """Count the runs that have ended since the last call, in any process. Return their number."""
        ended = await self._store.take_ended(ENDED_MAX)
        for run in ended:
            self._count(run)
        return len(ended)

    def _count(self, run: EndedRun) -> None:
        source, status = run.source, run.status
        self._recorder.count(
            "autopilot_run_terminal", cadence=cadence(source), trigger_kind=source, terminal_status=status
        )
        if status == "failed":
            error_type = run_error_type(run.reason_code, run.failure_reason)
            self._recorder.count("autopilot_run_failed", trigger_kind=source, error_type=error_type)


def _found(autopilot: Autopilot | None) -> Autopilot:
    if autopilot is None:
        raise NotFound("autopilot_not_found", "there is no such autopilot")
    return autopilot


def is_writable(autopilot: Autopilot, user_id: UUID) -> bool:
    """True if the person may change the autopilot and its parts. It must have been read with this person's role."""
    creator_id = autopilot.created_by_id if autopilot.created_by_type == "member" else None
    return may_change(creator_id=creator_id, user_id=user_id, role=autopilot.role)


def _require_writable(autopilot: Autopilot, user_id: UUID) -> Autopilot:
    if not is_writable(autopilot, user_id):
        message = "only who made the autopilot, and owners and admins of the workspace, can do this"
        raise Forbidden("role_too_low", message)
    return autopilot


def _refusal(reason: str) -> NotFound | Conflict:
    if reason == "autopilot_not_found":
        return NotFound(reason, "there is no such autopilot")
    state = reason.removeprefix("autopilot_")
    return Conflict(reason, f"the autopilot is {state}: set its status to active first")


def _settings(autopilot: Autopilot) -> AutopilotDraft:
    names = AutopilotDraft.__dataclass_fields__
    return AutopilotDraft(**{name: getattr(autopilot, name) for name in names})


def _checked(draft: AutopilotDraft) -> AutopilotDraft:
    draft = replace(
        draft,
        title=checked_name(draft.title, "title", chars_max=TITLE_CHARS_MAX),
        description=storable(draft.description),
        issue_title_template=storable(draft.issue_title_template).strip(),
    )
    _require_length(draft.description, "description", 0, DESCRIPTION_CHARS_MAX)
    _require_length(draft.issue_title_template, "issue_title_template", 0, TITLE_CHARS_MAX)
    problem = template_problem(draft.issue_title_template)
    if problem is not None:
        raise Invalid("unknown_placeholder", problem, field="issue_title_template")
    return draft


def _require_length(text: str, name: str, least: int, most: int) -> None:
    if not least <= len(text) <= most:
        message = f"{name} has {len(text)} characters; it takes {least} to {most}"
        raise Invalid(f"invalid_{name}", message, field=name)


async def _check_place(change: AutopilotChange, workspace_id: UUID, draft: AutopilotDraft) -> None:
    if draft.project_id is not None and not await change.has_project(workspace_id, draft.project_id):
        message = f"this workspace has no project {draft.project_id}"
        raise Invalid("unknown_project", message, field="project_id")


async def _check_access(
    change: AutopilotChange, workspace_id: UUID, draft: AutopilotDraft, user_id: UUID, role: str
) -> None:
    found = await change.find_assignee(workspace_id, draft.assignee_type, draft.assignee_id)
    if found is None:
        message = f"this workspace has no {draft.assignee_type} {draft.assignee_id}"
        raise Invalid("unknown_assignee", message, field="assignee_id")
    if not may_use_agent(visibility=found.visibility, owner_id=found.owner_id, user_id=user_id, role=role):
        whose = "the leader of this squad" if draft.assignee_type == "squad" else "this agent"
        raise Forbidden("private_agent", f"{whose} is private, and you may not use it", field="assignee_id")
