"""The dispatch of firings: a webhook or a person fires an autopilot, and the firing becomes a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Literal, Protocol
from uuid import UUID

import structlog
import trio

from gateway.concurrency import reached
from gateway.core.autopilot import (
    Assignee,
    Skip,
    cadence,
    content_of,
    describe_run,
    judge_assignee,
    private_skip,
    read_envelope,
    reads_payload,
    render_title,
)
from gateway.errors import Forbidden, StoreError
from gateway.ids import new_id
from gateway.recorder import SILENT, Recorder
from gateway.work.conflicts import despite_conflicts
from gateway.work.issues.issues import Filing, IssueDraft, IssueService, Priority
from gateway.work.people.access import may_use_agent

logger = structlog.get_logger(__name__)

RunSource = Literal["schedule", "manual", "webhook", "api"]
DispatchStatus = Literal["accepted", "skipped", "refused"]
RunStatus = Literal["issue_created", "running", "completed", "failed", "skipped"]

GUARD_SECONDS = 60.0
"""Time in which an autopilot does not file the same issue again while the run of the first one is still open."""


QUICK_PAYLOAD_BYTES_MAX = 8_192
"""The largest payload that is parsed on the event loop."""


@dataclass(frozen=True, slots=True)
class Firing:
    """A request for a run.

    A repeat of the same `delivery_id`, or of the same `idempotency_key` for the same autopilot, gets the run that the
    first one got. `payload` is the envelope {event, eventPayload, request} of a webhook, as JSON that the database can
    hold: most runs only hand it on, so it is parsed only where an issue is described. `actor_id` is the person who
    fires by hand, None for a machine. `again`: a person wants a new run although there was one just now (a replay).
    """

    autopilot_id: UUID
    source: RunSource
    trigger_id: UUID | None = None
    delivery_id: UUID | None = None
    idempotency_key: str | None = None
    actor_id: UUID | None = None
    payload: bytes | None = field(default=None, repr=False)
    again: bool = False


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The outcome of a firing. Only a `refused` firing has no run.

    `accepted`: a run was begun. `skipped`: a run was stored that starts nothing. Its `reason` says why, in words for
    people, and `reason_code` in a code for programs. `refused`: nothing was written, because the trigger or the
    autopilot is off or does not exist. `reason` is then one of `trigger_disabled`, `autopilot_paused`,
    `autopilot_archived`, `trigger_not_found`, `autopilot_not_found`. `repeated`: the run is that of an earlier firing
    with the same delivery or key.
    """

    run_id: UUID | None
    status: DispatchStatus
    reason: str = ""
    reason_code: str = ""
    repeated: bool = False


class Dispatcher(Protocol):
    """The interface for callers that fire autopilots. Implemented by AutopilotDispatcher."""

    async def dispatch(self, firing: Firing) -> Dispatched:
        """Begin a run, or find the one that this firing began before, in one transaction of its own.

        The run, its issue or task, the issue's own task and all their announcements commit together, so a crash leaves
        all of it or nothing. The same firing may be tried again after a failure: it then begins the run, or finds it.

        Must not be called while holding a connection of the pool. Raises StoreUnavailable or StoreConflict. Raises
        Forbidden for a person who may not use a private assignee.
        """


@dataclass(frozen=True, slots=True)
class Order:
    """An autopilot and its assignee, as read when it fires. The trigger's fields are only set if a trigger fired."""

    workspace_id: UUID
    project_id: UUID | None
    title: str
    description: str = field(repr=False)
    priority: Priority
    status: str
    execution_mode: str
    issue_title_template: str
    assignee_type: Literal["agent", "squad"]
    assignee_id: UUID
    # The person whose permission to use a private assignee counts. None for an autopilot made by an agent (by_agent),
    # which needs no permission.
    assigned_by_id: UUID | None
    by_agent: bool
    trigger_found: bool
    trigger_enabled: bool
    timezone: str
    squad_found: bool
    squad_archived: bool
    agent_id: UUID | None
    agent_archived: bool
    agent_visibility: str
    agent_owner_id: UUID | None
    has_leader: bool
    runtime_id: UUID | None
    runtime_online: bool
    fired_at: datetime

    @property
    def assignee(self) -> Assignee:
        return Assignee(
            self.assignee_type,
            squad_found=self.squad_found,
            squad_archived=self.squad_archived,
            has_leader=self.has_leader,
            agent_found=self.agent_id is not None,
            agent_archived=self.agent_archived,
            has_runtime=self.runtime_id is not None,
            runtime_online=self.runtime_online,
        )


@dataclass(frozen=True, slots=True)
class FoundRun:
    """The run that an earlier firing began."""

    id: UUID
    status: str
    reason_code: str | None
    failure_reason: str | None


@dataclass(frozen=True, slots=True)
class RunDraft:
    """A run to be written. `agent_id` is set for a run without an issue. The run's task is then queued with it."""

    id: UUID
    workspace_id: UUID
    status: RunStatus
    issue_id: UUID | None = None
    agent_id: UUID | None = None
    skip: Skip | None = None


class Dispatching(Protocol):
    """One transaction, which commits when its block ends without an exception."""

    async def find_run(self) -> FoundRun | None:
        """Find the run that the same delivery or key got before."""

    async def find_order(self) -> Order | None:
        """Read the autopilot and its assignee. The agent is locked, so it cannot be archived before the commit."""

    async def role_of(self, user_id: UUID) -> str | None:
        """Return a member's role, None for a stranger. A failure of this look-up leaves the transaction usable."""

    async def find_recent_issue(self, title: str, project_id: UUID | None) -> UUID | None:
        """Find the issue that this autopilot filed under that title and for the same payload within GUARD_SECONDS.

        The issue's run must still be open. A concurrent firing that would file the same issue waits here.
        """

    @property
    def filing(self) -> Filing:
        """The interface for filing an issue within this transaction."""

    async def insert_run(self, draft: RunDraft) -> bool:
        """Write the run, and queue its task. False when the same delivery or key got a run in the meantime."""


class DispatchStore(Protocol):
    """The store for dispatching. Every call raises StoreUnavailable, or StoreConflict after a concurrent change."""

    def dispatching(self, firing: Firing) -> AbstractAsyncContextManager[Dispatching]: ...

    async def begin_plain(self, firings: Sequence[Firing]) -> Mapping[UUID, UUID]:
        """Begin, in one statement, the runs that need no further decision. Return their ids by delivery."""

    async def find_run(self, firing: Firing) -> FoundRun | None: ...


class _OvertakenError(Exception):
    """Another transaction committed a run for the same firing, so this one must be rolled back."""


class AutopilotDispatcher:
    """Implements Dispatcher over a store. Issues are filed through IssueService, which holds all rules for filing."""

    def __init__(
        self,
        store: DispatchStore,
        issues: IssueService,
        *,
        recorder: Recorder = SILENT,
        mint: Callable[[], UUID] = new_id,
    ) -> None:
        self._store = store
        self._issues = issues
        self._recorder = recorder
        self._mint = mint

    async def dispatch(self, firing: Firing) -> Dispatched:
        return self._tell(firing, await despite_conflicts(partial(self._attempt, firing)))

    async def dispatch_together(self, firings: Sequence[Firing]) -> list[Dispatched | None]:
        """Begin the runs of several webhooks in one statement. Each firing must have a delivery and a trigger.

        The result is None for a firing that needs a decision or is a repeat. The caller passes it to `dispatch`. Raises
        the same errors as `dispatch`.
        """
        begun = await self._store.begin_plain(firings)
        runs = [None if firing.delivery_id is None else begun.get(firing.delivery_id) for firing in firings]
        for firing, run_id in zip(firings, runs, strict=True):
            if run_id is not None:
                self._count(firing.source)
        # One log line for the whole batch, because under a storm of webhooks one line for each would be too many.
        logger.info("autopilots_fired", firings=len(firings), begun=len(begun))
        return [None if run_id is None else Dispatched(run_id, "accepted") for run_id in runs]

    def _tell(self, firing: Firing, done: Dispatched) -> Dispatched:
        if done.run_id is not None and not done.repeated:
            self._count(firing.source, skipped_because=done.reason_code)
        logger.info(
            "autopilot_fired",
            autopilot_id=str(firing.autopilot_id),
            source=firing.source,
            run_id=None if done.run_id is None else str(done.run_id),
            status=done.status,
            reason=done.reason_code or done.reason,
            repeated=done.repeated,
        )
        return done

    def _count(self, source: str, *, skipped_because: str = "") -> None:
        """Count a new run, after its commit."""
        if skipped_because:
            self._recorder.count("autopilot_run_skipped", cadence=cadence(source), reason=skipped_because)
        else:
            self._recorder.count("autopilot_run_started", cadence=cadence(source), trigger_kind=source)

    async def _attempt(self, firing: Firing) -> Dispatched:
        try:
            async with self._store.dispatching(firing) as change:
                done = await self._dispatch(change, firing)
                reached("autopilot.dispatching")
            return done
        except _OvertakenError:
            return _repeat(await self._store.find_run(firing))

    async def _dispatch(self, change: Dispatching, firing: Firing) -> Dispatched:
        found = await change.find_run()
        if found is not None:
            return _repeat(found)
        order = await change.find_order()
        refusal = _judge_firing(firing, order)
        if order is None or refusal:
            return Dispatched(None, "refused", refusal, refusal)
        draft = await self._draft(change, firing, order)
        reached("autopilot.drafted")
        if not await change.insert_run(draft):
            raise _OvertakenError
        if draft.skip is not None:
            return Dispatched(draft.id, "skipped", draft.skip.text, draft.skip.code)
        return Dispatched(draft.id, "accepted")

    async def _draft(self, change: Dispatching, firing: Firing, order: Order) -> RunDraft:
        skip = judge_assignee(order.assignee, mode=order.execution_mode) or await _judge_access(change, firing, order)
        if skip is not None:
            return RunDraft(self._mint(), order.workspace_id, "skipped", skip=skip)
        if order.execution_mode == "run_only":
            return RunDraft(self._mint(), order.workspace_id, "running", agent_id=order.agent_id)
        return await self._file_issue(change, firing, order)

    async def _file_issue(self, change: Dispatching, firing: Firing, order: Order) -> RunDraft:
        title = await _apart(_titled, firing, order, is_quick=not reads_payload(order.issue_title_template))
        if not firing.again and (recent := await change.find_recent_issue(title, order.project_id)) is not None:
            skip = Skip("duplicate_issue", f"the same issue was filed less than {GUARD_SECONDS:g} s ago")
            return RunDraft(self._mint(), order.workspace_id, "skipped", issue_id=recent, skip=skip)
        draft = await _issue_draft(firing, order, title)
        filed = await self._issues.file_within(change.filing, draft)
        reached("autopilot.issue_filed")
        return RunDraft(self._mint(), order.workspace_id, "issue_created", issue_id=filed.issue.id)


def _described(firing: Firing, order: Order) -> str:
    return describe_run(
        order.description,
        source=firing.source,
        fired_at=order.fired_at,
        timezone=order.timezone,
        content=None if firing.payload is None else content_of(firing.payload),
    )


def _titled(firing: Firing, order: Order) -> str:
    event, payload = (firing.source, b"") if firing.payload is None else read_envelope(firing.payload)
    return render_title(
        order.issue_title_template, order.title, order.fired_at, order.timezone, event=event, payload=payload
    )


async def _apart(compose: Callable[[Firing, Order], str], firing: Firing, order: Order, *, is_quick: bool) -> str:
    """Compose a text, in a thread if the payload is large.

    That takes tens of milliseconds to look through and to lay out, and bots wait for the event loop.
    """
    if is_quick or len(firing.payload or b"") <= QUICK_PAYLOAD_BYTES_MAX:
        return compose(firing, order)
    return await trio.to_thread.run_sync(compose, firing, order)


async def _issue_draft(firing: Firing, order: Order, title: str) -> IssueDraft:
    description = await _apart(_described, firing, order, is_quick=False)
    return IssueDraft(
        order.workspace_id,
        title,
        description,
        priority=order.priority,
        project_id=order.project_id,
        assignee_type=order.assignee_type,
        assignee_id=order.assignee_id,
        creator_type="system" if firing.actor_id is None else "member",
        creator_id=firing.actor_id,
        origin_type="autopilot",
        origin_id=firing.autopilot_id,
        allow_duplicate=True,
    )


def _judge_firing(firing: Firing, order: Order | None) -> str:
    """Return the reason why no run may begin for any assignee, or "" when one may begin."""
    if order is None:
        return "autopilot_not_found"
    if firing.trigger_id is not None and not order.trigger_found:
        return "trigger_not_found"
    if firing.trigger_id is not None and not order.trigger_enabled:
        return "trigger_disabled"
    if order.status == "active":
        return ""
    return "autopilot_archived" if order.status == "archived" else "autopilot_paused"


async def _judge_access(change: Dispatching, firing: Firing, order: Order) -> Skip | None:
    """Check that a private agent may be used by this autopilot, and by the person who fires it by hand.

    Return a Skip when the autopilot may not use it. Raises Forbidden when the person may not. Fails closed:
    when the permissions cannot be read, the agent is not used.
    """
    if order.agent_visibility != "private":
        return None
    try:
        if not order.by_agent and not await _may_use(change, order, order.assigned_by_id):
            return private_skip(order.assignee_type)
        allowed = firing.actor_id is None or await _may_use(change, order, firing.actor_id)
    except StoreError as error:
        logger.warning("autopilot_access_unknown", autopilot_id=str(firing.autopilot_id), error=str(error))
        return private_skip(order.assignee_type, checked=False)
    if not allowed:
        raise Forbidden("private_agent", "the agent is private, and you may not use it")
    return None


async def _may_use(change: Dispatching, order: Order, user_id: UUID | None) -> bool:
    role = None if user_id is None else await change.role_of(user_id)
    return may_use_agent(visibility=order.agent_visibility, owner_id=order.agent_owner_id, user_id=user_id, role=role)


def _repeat(found: FoundRun | None) -> Dispatched:
    if found is None:
        raise StoreError("a run stood in the way and is gone")
    if found.status == "skipped":
        return Dispatched(found.id, "skipped", found.failure_reason or "", found.reason_code or "", repeated=True)
    return Dispatched(found.id, "accepted", repeated=True)
