"""Tasks from the claim to the answer: the actions of a runtime on them, and the return of tasks that it lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn
from uuid import UUID

import structlog
import trio

from gateway.concurrency import Signal, Topics, reached
from gateway.core.autopilot import WebhookContent, describe_run
from gateway.core.enrichment import as_label
from gateway.core.markdown import is_blank
from gateway.core.plain import plain
from gateway.core.replies import Reply, say
from gateway.errors import Conflict, NotFound, StoreConflict, StoreError, StoreUnavailable
from gateway.recorder import SILENT, Recorder
from gateway.work.conflicts import despite_conflicts
from gateway.work.people.directory import RuntimePrincipal
from gateway.work.tasks.failures import (
    RUNTIME_OFFLINE,
    RUNTIME_RECOVERY,
    TIMEOUT,
    apology,
    failure_comment,
    judge_failure,
    reason_of,
)
from gateway.work.tasks.ports import (
    Attempt,
    ClaimedMessage,
    ClaimedRun,
    End,
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
"""Interval at which a long poll looks again without a notification.

Some changes, such as a raised capacity, cause none.
"""
MESSAGES_MAX = 200
ERROR_CHARS_MAX = 8_000
PROGRESS_CHARS_MAX = 4_000
STDERR_TAIL_BYTES_MAX = 4_096
ORPHANS_MAX = 1_000
"""Tasks that one registration gives back. Tasks beyond that return when the sweep finds them lost."""
UNDELIVERED_MAX = 5
"""After this many claims in a row that were not started, an attempt is counted."""
TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})

ALLOWED_FROM: dict[str, frozenset[TaskStatus]] = {
    "start": frozenset({TaskStatus.DISPATCHED}),
    "progress": frozenset({TaskStatus.RUNNING}),
    "complete": frozenset({TaskStatus.RUNNING}),
    "fail": frozenset({TaskStatus.DISPATCHED, TaskStatus.RUNNING}),
}
"""The statuses from which a runtime may ask for each action.

To end a task that has ended already is allowed too, and changes nothing.
"""

OpenLost = Callable[[Sequence[UUID]], AbstractAsyncContextManager[TaskChange | None]]
"""Opens the next lost task under its lock. The argument lists the tasks to pass over."""


@dataclass(frozen=True, slots=True)
class Fate:
    """The outcome of a run. `failure_reason` is "" when it did not fail. A failed run may be queued again."""

    status: TaskStatus
    failure_reason: str = ""


BARE_MENTION = "[You were mentioned without any words.]"
NO_WORDS = "[The message has no words.]"


@dataclass(frozen=True, slots=True)
class AssignedTask(HandOut):
    """A claimed task with everything its run needs."""

    @property
    def prompt(self) -> str:
        """The whole assignment as one text.

        In a group, where several people may speak, each message names its author. The prompt is never empty: messages
        without any words, such as a bare mention of the bot, are described.
        """
        if self.claim.kind == "issue":
            missing = "\n".join(line for message in self.messages for line in message.missing)
            parts = (self.claim.issue_title, self.claim.issue_description, missing)
            return "\n\n".join(part for part in parts if part)
        if self.claim.run is not None:
            return _run_prompt(self.claim.run)
        shared = self.place is not None and self.place.is_group
        told = (with_words(each.additions, _spoken(each) if shared else each.words) for each in self.messages)
        prompt = "\n\n".join(text for text in told if text)
        return (BARE_MENTION if shared else NO_WORDS) if is_blank(prompt) else prompt


def _spoken(message: ClaimedMessage) -> str:
    words = message.words
    return f"[{as_label(message.author)}]: {words}" if message.author and not is_blank(words) else words


def _run_prompt(run: ClaimedRun) -> str:
    words = run.description if run.description.strip() else run.title
    content = None if run.payload is None else WebhookContent(run.event or "", run.payload)
    return describe_run(words, source=run.source, fired_at=run.triggered_at, timezone=run.timezone, content=content)


async def _always() -> bool:
    return True


class TaskService:
    """The actions of runtimes. Raises NotFound for a foreign task or runtime, Conflict for the wrong status.

    Every report about a claimed task names its attempt. For an older attempt the Conflict is `attempt_over`, and for
    one that was never handed out `attempt_unknown`. Neither changes anything.

    The owner of `queue` must ring it with a runtime's id (as text) when work for that runtime appears. It must ring
    all topics after notifications may have been missed.
    """

    def __init__(
        self,
        store: TaskStore,
        queue: Topics,
        *,
        limits: LossLimits | None = None,
        recorder: Recorder = SILENT,
        enrich: Enrich | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._limits = limits or LossLimits()
        self._recorder = recorder
        self._enrich = enrich
        self._draining = False

    def drain(self) -> None:
        """End all waiting, for a shutdown. From now on long polls return at once, with a task if there is one."""
        self._draining = True
        self._queue.ring_all()

    async def register(
        self,
        runtime: RuntimePrincipal,
        workspace_id: UUID | None,
        *,
        name: str | None,
        kind: str,
        version: str,
        instance: str | None = None,
        working_on: Sequence[Attempt] = (),
    ) -> RuntimeView:
        """Describe the runtime, and return the tasks to the queue that `instance` claimed and no longer works on.

        `instance` is the name of one worker of the runtime. The worker keeps the name when it is started again.
        `working_on` lists the claims that it still works on.
        """
        if workspace_id not in {None, runtime.workspace_id}:
            _raise_not_found("workspace")
        try:
            view = await self._store.register_runtime(runtime.runtime_id, name=name, kind=kind, version=version)
        except StoreConflict as error:
            message = f"another runtime of this workspace is called {name!r}"
            raise Conflict("name_taken", message, field="name") from error
        if view is None:
            _raise_not_found("runtime")
        if instance is not None:
            orphaned = partial(self._store.change_orphaned, runtime.runtime_id, instance, working_on)
            await self._return_each(orphaned, ORPHANS_MAX)
        return view

    async def heartbeat(
        self, runtime: RuntimePrincipal, runtime_id: UUID, working_on: Sequence[Attempt] = ()
    ) -> list[Attempt]:
        """Note that the runtime lives, and the attempts it works on. Return the attempts that it should stop."""
        self._require_self(runtime, runtime_id)
        await self._store.touch_runtime(runtime_id)
        if not working_on:
            return []
        held = await self._store.see_tasks(runtime_id, working_on)
        return [attempt for attempt in working_on if attempt not in held]

    async def claim(
        self,
        runtime: RuntimePrincipal,
        runtime_id: UUID,
        wait_seconds: float = 0.0,
        *,
        instance: str | None = None,
        may_go_on: Callable[[], Awaitable[bool]] = _always,
    ) -> AssignedTask | None:
        """Claim the runtime's next task, waiting for one at most `wait_seconds`. The claim counts as a heartbeat.

        `may_go_on` is asked after each wait. False ends the call without a task: the caller's token was revoked.

        After the claim, the context of the task's messages is looked up, so the call may take seconds longer. No
        database connection is held while waiting or looking up. A cancelled call may leave a task dispatched whose
        assignment never reached the runtime. That task returns to the queue as undelivered.
        """
        self._require_self(runtime, runtime_id)
        assignment = await self._next(runtime_id, instance, wait_seconds, may_go_on)
        if assignment is None or assignment.place is None or self._enrich is None:
            return assignment
        enriched = await self._enrich(assignment.place, assignment.messages)
        if any(message.shared for message in enriched):
            enriched = await self._attach_shared(assignment.claim.id, enriched)
        return replace(assignment, messages=tuple(enriched))

    async def _attach_shared(self, task_id: UUID, messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        """Make the files of what was quoted and forwarded files of the task. Without the database it runs without."""
        try:
            return await self._store.attach_shared(task_id, messages)
        except StoreError as error:
            logger.warning("shared_files_not_attached", task_id=str(task_id), error=str(error))
            return messages

    async def _next(
        self, runtime_id: UUID, instance: str | None, wait_seconds: float, may_go_on: Callable[[], Awaitable[bool]]
    ) -> AssignedTask | None:
        deadline = trio.current_time() + min(wait_seconds, WAIT_SECONDS_MAX)
        with self._queue.hear(str(runtime_id)) as rung:
            while True:
                await self._store.touch_runtime(runtime_id)
                assignment = await self._claim_once(runtime_id, instance)
                if assignment is not None or self._draining or trio.current_time() >= deadline:
                    return assignment
                await self._wait_for_work(runtime_id, rung, deadline)
                if not await may_go_on():
                    return None

    async def _wait_for_work(self, runtime_id: UUID, rung: Signal, deadline: float) -> None:
        pauses = [RECHECK_SECONDS, deadline - trio.current_time()]
        due = await self._store.seconds_to_next(runtime_id)
        if due is not None:
            # A few milliseconds more, so that the next look does not come too early by a rounding error.
            pauses.append(max(due, 0.0) + 0.005)
        await rung.wait(min(pauses))

    async def _claim_once(self, runtime_id: UUID, instance: str | None) -> AssignedTask | None:
        async def attempt() -> AssignedTask | None:
            found = await self._store.claim(
                runtime_id, instance, messages_max=MESSAGES_MAX, running_seconds=self._limits.running_seconds
            )
            return None if found is None else AssignedTask(found.claim, found.messages, found.place)

        return await despite_conflicts(attempt)

    async def start(self, runtime: RuntimePrincipal, attempt: Attempt) -> TaskStatus:
        async with self._change(runtime, attempt) as change:
            _require_status(change.task, "start")
            await change.start()
            await change.announce("task:running", event_fields(change.task, TaskStatus.RUNNING))
        return TaskStatus.RUNNING

    async def progress(self, runtime: RuntimePrincipal, attempt: Attempt, text: str) -> TaskStatus:
        async with self._change(runtime, attempt) as change:
            _require_status(change.task, "progress")
            await change.record_progress(plain(text)[:PROGRESS_CHARS_MAX])
            await change.announce("task:progress", event_fields(change.task, TaskStatus.RUNNING))
        return TaskStatus.RUNNING

    async def complete(
        self, runtime: RuntimePrincipal, attempt: Attempt, output: str, *, stderr_tail: str | None = None
    ) -> TaskStatus:
        """End the run with its answer: status, message or comment, outbox row and events, in one transaction."""
        words = plain(output)
        end = End(result={"output": words}, stderr_tail=bounded_tail(stderr_tail))

        async def finish() -> TaskStatus:
            async with self._change(runtime, attempt, ends=True) as change:
                if _has_ended(change.task, attempt):
                    return TaskStatus(change.task.status)
                _require_status(change.task, "complete")
                await self._complete(change, words, end)
                reached("task.completing")
            return self._report(change.task, Fate(TaskStatus.COMPLETED))

        return await despite_conflicts(finish)

    async def _complete(self, change: TaskChange, output: str, end: End) -> None:
        task = change.task
        await change.finish(TaskStatus.COMPLETED, end)
        if task.kind == "chat":
            done: dict[str, object] = {
                "workspace_id": task.workspace_id,
                "chat_session_id": task.chat_session_id,
                "task_id": task.id,
            }
            if is_blank(output):
                # The person who asked still waits. Without a message the run would seem never to end.
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
        self,
        runtime: RuntimePrincipal,
        attempt: Attempt,
        error: str,
        failure_reason: str | None = None,
        *,
        stderr_tail: str | None = None,
    ) -> TaskStatus:
        """End the run without an answer. Queue it again if that may help, else tell the person once.

        Without a `failure_reason` of the closed vocabulary, the reason is derived from the text of the error.
        """
        words = plain(error)
        reason = reason_of(failure_reason, words)
        end = End(error=words[-ERROR_CHARS_MAX:], failure_reason=reason, stderr_tail=bounded_tail(stderr_tail))

        async def finish() -> TaskStatus:
            async with self._change(runtime, attempt, ends=True) as change:
                if _has_ended(change.task, attempt):
                    return TaskStatus(change.task.status)
                _require_status(change.task, "fail")
                fate = await _fail(change, reason, end, reported=True)
            return self._report(change.task, fate)

        return await despite_conflicts(finish)

    async def find(self, runtime: RuntimePrincipal, task_id: UUID) -> Task:
        task = await self._store.find(task_id)
        if task is None or not _is_of(task, runtime):
            _raise_not_found("task")
        return task

    async def return_lost(self, batch_max: int = 100) -> int:
        """Return or fail claimed tasks that no runtime works on any more. Return their number.

        Each task is handled in a transaction of its own. A task whose handling fails is logged and passed over, so that
        it does not block the others. Raises StoreUnavailable.
        """
        return await self._return_each(partial(self._store.change_lost, self._limits), batch_max)

    async def _return_each(self, open_lost: OpenLost, batch_max: int) -> int:
        seen: list[UUID] = []
        failed = 0
        while len(seen) < batch_max:
            before = len(seen)
            try:
                if not await self._return_next(open_lost, seen):
                    break
            except StoreUnavailable:
                raise
            except Exception:
                if len(seen) == before:
                    # No task was opened, so there is none to pass over: the next look would fail in the same way.
                    raise
                failed += 1
                logger.exception("lost_task_not_returned", task_id=str(seen[-1]))
        return len(seen) - failed

    async def _return_next(self, open_lost: OpenLost, seen: list[UUID]) -> bool:
        """Handle one task that is not in `seen`, and add it there. False when there is none."""
        before = len(seen)

        async def attempt() -> bool:
            # After a conflict the attempt is repeated: forget the task that the last attempt added.
            del seen[before:]
            async with open_lost(seen) as change:
                if change is None:
                    return False
                seen.append(change.task.id)
                fate = await _return(change)
            self._report(change.task, fate)
            return True

        return await despite_conflicts(attempt)

    @asynccontextmanager
    async def _change(
        self, runtime: RuntimePrincipal, attempt: Attempt, *, ends: bool = False
    ) -> AsyncIterator[TaskChange]:
        """Lock the task of an attempt for the block. `ends`: the report ends the run, and may arrive twice."""
        async with self._store.change(attempt.task_id) as change:
            if change is None or not _is_of(change.task, runtime):
                _raise_not_found("task")
            if not (ends and _has_ended(change.task, attempt)):
                require_attempt(change.task, attempt.number)
            yield change

    def _report(self, task: Task, fate: Fate) -> TaskStatus:
        """Log and count the outcome, after the commit.

        Of an error's text only the reason derived from it may be logged.
        """
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
            count_ended(self._recorder, task.kind, fate.status, task.run_seconds)
        return fate.status

    def _require_self(self, runtime: RuntimePrincipal, runtime_id: UUID) -> None:
        if runtime.runtime_id != runtime_id:
            _raise_not_found("runtime")


async def _fail(change: TaskChange, reason: str, end: End, *, reported: bool = False) -> Fate:
    task = change.task
    retry = judge_failure(reason, kind=task.kind, attempt=task.counted_attempts, max_attempts=task.max_attempts)
    if retry is not None:
        await change.announce("task:failed", _failure_fields(task, reason, retry_pending=True))
        queued = await change.requeue(end, delay_seconds=retry.delay_seconds, forgiven=False, reported=reported)
        return Fate(await _tell_requeued(change, queued=queued), reason)
    await change.finish(TaskStatus.FAILED, end)
    if task.kind == "chat":
        await change.send_reply("error", apology(reason, task.language))
    if task.kind == "issue":
        await _comment(change, failure_comment(reason, task.language), by_agent=False)
    await change.ring()
    await change.announce("task:failed", _failure_fields(task, reason, retry_pending=False))
    return Fate(TaskStatus.FAILED, reason)


async def _comment(change: TaskChange, text: str, *, by_agent: bool) -> None:
    """Write the outcome of an issue's run as a comment on the issue. No chat gets it, because its turn is over."""
    task = change.task
    comment_id = await change.append_comment(text, by_agent=by_agent)
    fields = {"workspace_id": task.workspace_id, "issue_id": task.issue_id, "comment_id": comment_id}
    await change.announce("comment:created", fields)


async def _tell_requeued(change: TaskChange, *, queued: bool) -> TaskStatus:
    """Announce a run that is back in the queue, or was merged into the run that waits there.

    The person is told nothing, because the outcome is still open.
    """
    status = TaskStatus.QUEUED if queued else TaskStatus.CANCELLED
    await change.announce(f"task:{status}", event_fields(change.task, status))
    await change.ring()
    return status


async def _return(change: TaskChange) -> Fate:
    """Return a lost task to the queue, or fail it.

    A task that was never started loses no attempt, because nothing was tried. This holds for up to UNDELIVERED_MAX
    claims in a row.
    """
    task = change.task
    logger.warning("task_lost", task_id=str(task.id), loss=task.loss, attempt=task.attempt)
    if task.loss == Loss.UNDELIVERED:
        return await _return_undelivered(change, task.undelivered + 1)
    reason, words = _LOST[Loss(task.loss or Loss.RUNTIME_OFFLINE)]
    return await _fail(change, reason, End(error=words, failure_reason=reason))


_LOST = {
    Loss.TIMEOUT: (TIMEOUT, "it ran for longer than any run may"),
    Loss.RUNTIME_OFFLINE: (RUNTIME_OFFLINE, "its runtime went silent"),
    Loss.RESTARTED: (RUNTIME_RECOVERY, "its worker was started again"),
}


async def _return_undelivered(change: TaskChange, in_a_row: int) -> Fate:
    """Return a task that was never started. After UNDELIVERED_MAX times in a row this counts as a failed attempt.

    Otherwise a runtime that crashes on reading the task, for example, would be handed it again and again.
    """
    if in_a_row >= UNDELIVERED_MAX:
        await change.note_undelivered(0)
        words = f"its runtime did not start it {in_a_row} times in a row"
        return await _fail(change, RUNTIME_OFFLINE, End(error=words, failure_reason=RUNTIME_OFFLINE))
    await change.note_undelivered(in_a_row)
    end = End(error="its runtime never started it", failure_reason=RUNTIME_OFFLINE)
    return Fate(await _tell_requeued(change, queued=await change.requeue(end, forgiven=True, reported=False)))


def event_fields(task: Task, status: TaskStatus) -> JsonObject:
    """Return the fields of every event of a task: ids and the status, no content."""
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
    """Return `text` in a form that Postgres can store: without NUL and lone halves of surrogate pairs."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def bounded_tail(text: str | None) -> str | None:
    """Return the end of `text` in at most STDERR_TAIL_BYTES_MAX bytes. None when there is no text."""
    tail = plain(text or "").strip().encode()[-STDERR_TAIL_BYTES_MAX:].decode(errors="ignore")
    return tail or None


def count_ended(recorder: Recorder, kind: str, status: str, run_seconds: float | None) -> None:
    """Count a run that ended, after the commit. `run_seconds` is the time since its claim, None without a claim."""
    recorder.count("agent_task_terminal", kind=kind, status=status)
    if run_seconds is not None:
        recorder.observe("agent_task_run_seconds", run_seconds, kind=kind)


def _has_ended(task: Task, attempt: Attempt) -> bool:
    """True if this very attempt was ended before, so that ending it again changes nothing.

    An attempt that its own worker ended is remembered until the task is claimed again. The answer to that report may
    have been lost, and the worker may repeat it.
    """
    if task.attempt == attempt.number:
        return task.status in TERMINAL
    return task.status == TaskStatus.QUEUED and task.reported_attempt == attempt.number


def require_attempt(task: Task, number: int) -> None:
    """Raise Conflict unless `number` is the task's present attempt."""
    if number != task.attempt:
        old = number < task.attempt
        code, state = ("attempt_over", "is over") if old else ("attempt_unknown", "was never handed out")
        message = f"attempt {number} of this task {state}; it is at attempt {task.attempt}"
        raise Conflict(code, message, attempt=task.attempt, task_status=task.status)


def _is_of(task: Task, runtime: RuntimePrincipal) -> bool:
    """True if the runtime claimed the task, or is the runtime that may claim it."""
    owner = task.runtime_id or task.agent_runtime_id
    return task.workspace_id == runtime.workspace_id and owner == runtime.runtime_id


def _require_status(task: Task, action: str) -> None:
    if task.status not in ALLOWED_FROM[action]:
        allowed = " or ".join(sorted(ALLOWED_FROM[action]))
        message = f"a task that is {task.status} cannot be asked to {action}; it must be {allowed}"
        raise Conflict("wrong_status", message, task_status=task.status)


def _raise_not_found(what: str) -> NoReturn:
    raise NotFound("not_found", f"no such {what}")
