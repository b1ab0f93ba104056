"""Tasks from claim to one answer: what a runtime may do with them, and what becomes of those it lets down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NoReturn
from uuid import UUID

import structlog
import trio

from gateway.concurrency import Signal, Topics, reached
from gateway.core.autopilot import describe_run
from gateway.core.enrichment import as_label
from gateway.core.markdown import is_blank
from gateway.core.replies import Reply, say
from gateway.errors import RejectedRequest, StoreConflict, StoreUnavailable
from gateway.work.conflicts import despite_conflicts
from gateway.work.directory import RuntimePrincipal
from gateway.work.failures import RUNTIME_OFFLINE, TIMEOUT, apology, failure_comment, judge_failure, reason_of
from gateway.work.ports import (
    ClaimedMessage,
    ClaimedRun,
    Enrich,
    HandOut,
    JsonObject,
    Loss,
    LossLimits,
    RuntimeView,
    Task,
    TaskChange,
    TaskStatus,
    TaskStore,
    with_words,
)

logger = structlog.get_logger(__name__)

WAIT_SECONDS_MAX = 60.0
RECHECK_SECONDS = 15.0
"""A long poll looks again this often although nobody rang: for what nobody announces, such as a raised capacity."""
MESSAGES_MAX = 200
ERROR_CHARS_MAX = 8_000
PROGRESS_CHARS_MAX = 4_000
UNDELIVERED_MAX = 5
"""Claims in a row that were not started; so many cost an attempt."""
TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})

ALLOWED_FROM: dict[str, frozenset[TaskStatus]] = {
    "start": frozenset({TaskStatus.DISPATCHED}),
    "progress": frozenset({TaskStatus.RUNNING}),
    "complete": frozenset({TaskStatus.RUNNING}),
    "fail": frozenset({TaskStatus.DISPATCHED, TaskStatus.RUNNING}),
}
"""What a runtime may ask for, by the status of the task. Ending what has ended is allowed too, and changes nothing."""


Ended = Callable[[str, str, float | None], None]
"""Told of every run that ended, after the commit: the task's kind, its status, seconds since its claim."""


def _unheard(_kind: str, _status: str, _run_seconds: float | None) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a run. `failure_reason` is "" when it did not fail; one that failed may be queued again."""

    status: TaskStatus
    failure_reason: str = ""


@dataclass(frozen=True, slots=True)
class Assignment(HandOut):
    """A claimed task with everything its run needs."""

    @property
    def prompt(self) -> str:
        """Everything as one text. In a group, where several people may speak, it says who said what."""
        if self.claim.kind == "issue":
            missing = "\n".join(line for message in self.messages for line in message.missing)
            parts = (self.claim.issue_title, self.claim.issue_description, missing)
            return "\n\n".join(part for part in parts if part)
        if self.claim.run is not None:
            return _run_prompt(self.claim.run)
        shared = self.place is not None and self.place.is_group
        told = (with_words(each.additions, _spoken(each) if shared else each.words) for each in self.messages)
        return "\n\n".join(text for text in told if text)


def _spoken(message: ClaimedMessage) -> str:
    words = message.words
    return f"[{as_label(message.author)}]: {words}" if message.author and words else words


def _run_prompt(run: ClaimedRun) -> str:
    words = run.description if run.description.strip() else run.title
    return describe_run(words, source=run.source, fired_at=run.triggered_at, timezone=run.timezone, payload=run.payload)


class TaskService:
    """What runtimes may do. Raises RejectedRequest: 404 for what is not theirs, 409 for a task in the wrong status.

    Somebody must ring `queue` with a runtime's id (as text) when work for it appears, and everything at once after
    notifications may have been missed.
    """

    def __init__(
        self,
        store: TaskStore,
        queue: Topics,
        *,
        limits: LossLimits | None = None,
        ended: Ended = _unheard,
        enrich: Enrich | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._limits = limits or LossLimits()
        self._ended = ended
        self._enrich = enrich
        self._draining = False

    def drain(self) -> None:
        """From now on nobody waits for work: long polls return at once, with what there is. For a shutdown."""
        self._draining = True
        self._queue.ring_all()

    async def register(
        self, runtime: RuntimePrincipal, workspace_id: UUID | None, *, name: str | None, kind: str, version: str
    ) -> RuntimeView:
        if workspace_id not in {None, runtime.workspace_id}:
            _absent("workspace")
        try:
            view = await self._store.register_runtime(runtime.runtime_id, name=name, kind=kind, version=version)
        except StoreConflict as error:
            message = f"another runtime of this workspace is called {name!r}"
            raise RejectedRequest(409, "name_taken", message, field="name") from error
        return view or _absent("runtime")

    async def heartbeat(
        self, runtime: RuntimePrincipal, runtime_id: UUID, working_on: Sequence[UUID] = ()
    ) -> list[UUID]:
        """Note that the runtime lives, and which tasks it works on. Returns those of them that it should stop."""
        self._require_self(runtime, runtime_id)
        await self._store.touch_runtime(runtime_id)
        if not working_on:
            return []
        held = set(await self._store.see_tasks(runtime_id, working_on))
        return [task_id for task_id in working_on if task_id not in held]

    async def claim(self, runtime: RuntimePrincipal, runtime_id: UUID, wait_seconds: float = 0.0) -> Assignment | None:
        """The runtime's next task, waiting for one at most `wait_seconds`; the claim counts as a heartbeat.

        What others said around its messages is looked up once it is claimed, so the answer may take seconds longer.
        No connection is held while waiting or looking up. A cancelled call may leave a task dispatched that nobody
        heard of: it returns to the queue as undelivered.
        """
        self._require_self(runtime, runtime_id)
        assignment = await self._next(runtime_id, wait_seconds)
        if assignment is None or assignment.place is None or self._enrich is None:
            return assignment
        enriched = await self._enrich(assignment.place, assignment.messages)
        return replace(assignment, messages=tuple(enriched))

    async def _next(self, runtime_id: UUID, wait_seconds: float) -> Assignment | None:
        deadline = trio.current_time() + min(wait_seconds, WAIT_SECONDS_MAX)
        with self._queue.hear(str(runtime_id)) as rung:
            while True:
                await self._store.touch_runtime(runtime_id)
                assignment = await self._claim_once(runtime_id)
                if assignment is not None or self._draining or trio.current_time() >= deadline:
                    return assignment
                await self._wait_for_work(runtime_id, rung, deadline)

    async def _wait_for_work(self, runtime_id: UUID, rung: Signal, deadline: float) -> None:
        pauses = [RECHECK_SECONDS, deadline - trio.current_time()]
        due = await self._store.seconds_to_next(runtime_id)
        if due is not None:
            # A hair more than asked, so that the next look does not come a rounding error too early.
            pauses.append(max(due, 0.0) + 0.005)
        await rung.wait(min(pauses))

    async def _claim_once(self, runtime_id: UUID) -> Assignment | None:
        async def attempt() -> Assignment | None:
            found = await self._store.claim(
                runtime_id, messages_max=MESSAGES_MAX, running_seconds=self._limits.running_seconds
            )
            return None if found is None else Assignment(found.claim, found.messages, found.place)

        return await despite_conflicts(attempt)

    async def start(self, runtime: RuntimePrincipal, task_id: UUID) -> TaskStatus:
        async with self._change(runtime, task_id) as change:
            _require_status(change.task, "start")
            await change.start()
            await change.announce("task:running", event_fields(change.task, TaskStatus.RUNNING))
        return TaskStatus.RUNNING

    async def progress(self, runtime: RuntimePrincipal, task_id: UUID, text: str) -> TaskStatus:
        async with self._change(runtime, task_id) as change:
            _require_status(change.task, "progress")
            await change.record_progress(storable(text)[:PROGRESS_CHARS_MAX])
            await change.announce("task:progress", event_fields(change.task, TaskStatus.RUNNING))
        return TaskStatus.RUNNING

    async def complete(self, runtime: RuntimePrincipal, task_id: UUID, output: str) -> TaskStatus:
        """End the run with its answer. One transaction: status, message or comment, row of the outbox, events."""

        async def attempt() -> TaskStatus:
            async with self._change(runtime, task_id) as change:
                if change.task.status in TERMINAL:
                    return TaskStatus(change.task.status)
                _require_status(change.task, "complete")
                await self._complete(change, storable(output))
                reached("task.completing")
            return self._tell(change.task, Fate(TaskStatus.COMPLETED))

        return await despite_conflicts(attempt)

    async def _complete(self, change: TaskChange, output: str) -> None:
        task = change.task
        await change.finish(TaskStatus.COMPLETED, result={"output": output})
        if task.kind == "chat":
            done: dict[str, object] = {
                "workspace_id": task.workspace_id,
                "chat_session_id": task.chat_session_id,
                "task_id": task.id,
            }
            if is_blank(output):
                # Somebody asked and waits: silence would look like a run that never ends.
                await change.send_reply("notice", say(Reply.NO_ANSWER, task.language))
            else:
                done["message_id"] = await change.append_answer(output)
                await change.send_reply("answer", output)
            await change.announce("chat:done", done)
        if task.kind == "issue" and not is_blank(output):
            await _comment(change, output, by_agent=True)
        await change.announce("task:completed", event_fields(task, TaskStatus.COMPLETED))
        await change.ring()

    async def fail(
        self, runtime: RuntimePrincipal, task_id: UUID, error: str, failure_reason: str | None = None
    ) -> TaskStatus:
        """End the run without an answer: try again when that may help, else tell the person once.

        Without a reason of the closed vocabulary the error says which one it is.
        """
        words = storable(error)
        reason = reason_of(failure_reason, words)

        async def attempt() -> TaskStatus:
            async with self._change(runtime, task_id) as change:
                if change.task.status in TERMINAL:
                    return TaskStatus(change.task.status)
                _require_status(change.task, "fail")
                fate = await _fail(change, reason, words)
            return self._tell(change.task, fate)

        return await despite_conflicts(attempt)

    async def find(self, runtime: RuntimePrincipal, task_id: UUID) -> Task:
        task = await self._store.find(task_id)
        return task if task is not None and _is_of(task, runtime) else _absent("task")

    async def return_lost(self, batch_max: int = 100) -> int:
        """Deal with claimed tasks that nobody works on any more, each in a transaction of its own; how many.

        A task that cannot be dealt with is logged and passed over, so that it does not stand before the others.
        Raises StoreUnavailable.
        """
        seen: list[UUID] = []
        failed = 0
        while len(seen) < batch_max:
            before = len(seen)
            try:
                async with self._store.change_lost(self._limits, seen) as change:
                    if change is None:
                        break
                    seen.append(change.task.id)
                    fate = await _return(change)
                self._tell(change.task, fate)
            except StoreUnavailable:
                raise
            except Exception:
                if len(seen) == before:
                    raise
                failed += 1
                logger.exception("lost_task_not_returned", task_id=str(seen[-1]))
        return len(seen) - failed

    @asynccontextmanager
    async def _change(self, runtime: RuntimePrincipal, task_id: UUID) -> AsyncIterator[TaskChange]:
        async with self._store.change(task_id) as change:
            yield change if change is not None and _is_of(change.task, runtime) else _absent("task")

    def _tell(self, task: Task, fate: Fate) -> TaskStatus:
        """After the commit. Of an error's words only the reason that was read from them may stand in a log."""
        if fate.failure_reason:
            logger.warning(
                "task_failed",
                task_id=str(task.id),
                agent_id=str(task.agent_id),
                kind=task.kind,
                attempt=task.attempt,
                failure_reason=fate.failure_reason,
                status=str(fate.status),
            )
        if fate.status in TERMINAL:
            self._ended(task.kind, fate.status, task.run_seconds)
        return fate.status

    def _require_self(self, runtime: RuntimePrincipal, runtime_id: UUID) -> None:
        if runtime.runtime_id != runtime_id:
            _absent("runtime")


async def _fail(change: TaskChange, reason: str, error: str) -> Fate:
    task = change.task
    error = error[-ERROR_CHARS_MAX:]
    retry = judge_failure(reason, kind=task.kind, attempt=task.attempt, max_attempts=task.max_attempts)
    if retry is not None:
        await change.announce("task:failed", _failure_fields(task, reason, retry_pending=True))
        return Fate(await _requeue(change, task.attempt + 1, retry.delay_seconds, reason, error), reason)
    await change.finish(TaskStatus.FAILED, error=error, failure_reason=reason)
    if task.kind == "chat":
        await change.send_reply("error", apology(reason, task.language))
    if task.kind == "issue":
        await _comment(change, failure_comment(reason, task.language), by_agent=False)
    await change.ring()
    await change.announce("task:failed", _failure_fields(task, reason, retry_pending=False))
    return Fate(TaskStatus.FAILED, reason)


async def _comment(change: TaskChange, text: str, *, by_agent: bool) -> None:
    """What the run of an issue came to, where people look for it. No chat hears of it: that turn is over."""
    task = change.task
    comment_id = await change.append_comment(text, by_agent=by_agent)
    fields = {"workspace_id": task.workspace_id, "issue_id": task.issue_id, "comment_id": comment_id}
    await change.announce("comment:created", fields)


async def _requeue(change: TaskChange, attempt: int, delay_seconds: float, reason: str, error: str) -> TaskStatus:
    """Back to the queue, or into the run that already waits there. The person is told nothing: nothing is decided."""
    queued = await change.requeue(attempt=attempt, delay_seconds=delay_seconds, error=error, failure_reason=reason)
    status = TaskStatus.QUEUED if queued else TaskStatus.CANCELLED
    await change.announce(f"task:{status}", event_fields(change.task, status))
    await change.ring()
    return status


async def _return(change: TaskChange) -> Fate:
    """A lost task: one that never started loses no attempt, because nothing was tried. Not for ever, though."""
    task = change.task
    logger.warning("task_lost", task_id=str(task.id), loss=task.loss, attempt=task.attempt)
    if task.loss == Loss.UNDELIVERED:
        return await _return_undelivered(change, task.undelivered + 1)
    if task.loss == Loss.TIMEOUT:
        return await _fail(change, TIMEOUT, "it ran for longer than any run may")
    return await _fail(change, RUNTIME_OFFLINE, "its runtime went silent")


async def _return_undelivered(change: TaskChange, in_a_row: int) -> Fate:
    """A runtime that ends on reading the task, say, would be handed it again and again."""
    if in_a_row >= UNDELIVERED_MAX:
        await change.note_undelivered(0)
        return await _fail(change, RUNTIME_OFFLINE, f"its runtime did not start it {in_a_row} times in a row")
    await change.note_undelivered(in_a_row)
    return Fate(await _requeue(change, change.task.attempt, 0.0, RUNTIME_OFFLINE, "its runtime never started it"))


def event_fields(task: Task, status: TaskStatus) -> JsonObject:
    """What every event of a task carries: ids and the status, no content."""
    return {
        "workspace_id": task.workspace_id,
        "task_id": task.id,
        "agent_id": task.agent_id,
        "issue_id": task.issue_id,
        "chat_session_id": task.chat_session_id,
        "status": status,
    }


def _failure_fields(task: Task, reason: str, *, retry_pending: bool) -> JsonObject:
    status = TaskStatus.QUEUED if retry_pending else TaskStatus.FAILED
    return {**event_fields(task, status), "failure_reason": reason, "retry_pending": retry_pending}


def storable(text: str) -> str:
    """`text` as Postgres can keep it: no NUL, no half of a surrogate pair."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _is_of(task: Task, runtime: RuntimePrincipal) -> bool:
    """Whether the runtime may know of the task: it claimed it, or would be the one to claim it."""
    owner = task.runtime_id or task.agent_runtime_id
    return task.workspace_id == runtime.workspace_id and owner == runtime.runtime_id


def _require_status(task: Task, action: str) -> None:
    if task.status not in ALLOWED_FROM[action]:
        allowed = " or ".join(sorted(ALLOWED_FROM[action]))
        message = f"a task that is {task.status} cannot be asked to {action}; it must be {allowed}"
        raise RejectedRequest(409, "wrong_status", message, task_status=task.status)


def _absent(what: str) -> NoReturn:
    raise RejectedRequest(404, "not_found", f"no such {what}")
