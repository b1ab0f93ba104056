"""Tasks, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec

from gateway.concurrency import reached
from gateway.core.autopilot import PAYLOAD_CHARS_MAX
from gateway.errors import StoreConflict
from gateway.ids import new_id
from gateway.postgres.attachment_store import attach_files, attach_shared_files
from gateway.postgres.driver import TrioConnection
from gateway.postgres.events import announce, ring_runtime
from gateway.postgres.pool import Pool
from gateway.postgres.statements import RowCount, SqlFile
from gateway.work.tasks.ports import (
    Attempt,
    ClaimedMessage,
    ClaimedRun,
    ConversationPlace,
    Divide,
    End,
    HandOut,
    JsonObject,
    LossLimits,
    RuntimeView,
    Task,
    TaskClaim,
    TaskStatus,
    undivided,
)

_SQL = SqlFile("task.sql")
_TOUCH_RUNTIME = _SQL.count("touch_runtime")
_REGISTER_RUNTIME = _SQL.one_or_none("register_runtime", RuntimeView)
_SEE_TASKS = _SQL.many("see_tasks", tuple[UUID, int])
_CLAIMABLE_AGENTS = _SQL.column("claimable_agents", UUID)
_LOCK_AGENT = _SQL.value_or_none("lock_agent", UUID)
_CLAIM_TASK = _SQL.value_or_none("claim_task", UUID)
_TAKE_MESSAGES = _SQL.count("take_messages")
_QUEUE_THE_REST = _SQL.count("queue_the_rest")
_WANT_TYPING = _SQL.count("want_typing")
_GET_CLAIM = _SQL.one("get_claim", TaskClaim)
_GET_CLAIMED_RUN = _SQL.one_or_none("get_claimed_run", ClaimedRun)
_LIST_CLAIMED_MESSAGES = _SQL.many("list_claimed_messages", ClaimedMessage)
_GET_PLACE = _SQL.one_or_none("get_place", ConversationPlace)
_SECONDS_TO_NEXT = _SQL.value_or_none("seconds_to_next", float)
_GET_TASK = _SQL.one_or_none("get_task", Task)
_LOCK_TASK = _SQL.one_or_none("lock_task", Task)
_LOCK_LOST_TASK = _SQL.one_or_none("lock_lost_task", Task)
_LOCK_ORPHANED_TASK = _SQL.one_or_none("lock_orphaned_task", Task)
_START_TASK = _SQL.count("start_task")
_RECORD_PROGRESS = _SQL.count("record_progress")
_FINISH_TASK = _SQL.count("finish_task")
_LOCK_WAITING_SIBLING = _SQL.value_or_none("lock_waiting_sibling", UUID)
_PASS_ATTEMPT_ON = _SQL.count("pass_attempt_on")
_RELEASE_MESSAGES = _SQL.count("release_messages")
_NOTE_UNDELIVERED = _SQL.count("note_undelivered")
_REQUEUE_TASK = _SQL.count("requeue_task")
_APPEND_ANSWER = _SQL.count("append_answer")
_APPEND_COMMENT = _SQL.count("append_comment")
_GET_REPLY_CHANNEL = _SQL.value_or_none("get_reply_channel", str)
_QUEUE_REPLY = _SQL.changed("queue_reply")

TYPING_FRESH_SECONDS = 120.0
"""A message that is older than this when its run is handed out gets no typing sign."""


class PostgresTaskStore:
    """Implements gateway.work.tasks.ports.TaskStore on a pool that the caller owns.

    `divide` splits an answer into messages that the platform accepts. `typing_on` lists the platforms that can show a
    typing sign on a message. None means all of them.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        mint: Callable[[], UUID] = new_id,
        divide: Divide = undivided,
        typing_on: Sequence[str] | None = None,
    ) -> None:
        self._pool = pool
        self._mint = mint
        self._divide = divide
        self._typing_on = None if typing_on is None else list(typing_on)

    async def touch_runtime(self, runtime_id: UUID) -> None:
        await _TOUCH_RUNTIME(self._pool, runtime_id=runtime_id)

    async def register_runtime(
        self, runtime_id: UUID, *, name: str | None, kind: str, version: str
    ) -> RuntimeView | None:
        async with self._pool.connection() as conn, conn.transaction():
            view = await _REGISTER_RUNTIME(conn, runtime_id=runtime_id, name=name, kind=kind, version=version)
            if view is not None:
                await announce(conn, "daemon:register", {"workspace_id": view.workspace_id, "runtime_id": view.id})
            return view

    async def see_tasks(self, runtime_id: UUID, attempts: Sequence[Attempt]) -> set[Attempt]:
        ids, numbers = _columns(attempts)
        rows = await _SEE_TASKS(self._pool, runtime_id=runtime_id, task_ids=ids, attempts=numbers)
        return {Attempt(*row) for row in rows}

    async def claim(
        self, runtime_id: UUID, instance: str | None, *, messages_max: int, running_seconds: float
    ) -> HandOut | None:
        async with self._pool.connection() as conn:
            for agent_id in await _CLAIMABLE_AGENTS(conn, runtime_id=runtime_id):
                async with conn.transaction():
                    task_id = await self._take(conn, agent_id, runtime_id, instance, messages_max)
                    if task_id is not None:
                        claim = await _GET_CLAIM(conn, task_id=task_id, running_seconds=running_seconds)
                        if claim.kind == "autopilot":
                            run = await _GET_CLAIMED_RUN(conn, task_id=task_id, payload_chars=PAYLOAD_CHARS_MAX + 1)
                            claim = replace(claim, run=run)
                        messages = await _LIST_CLAIMED_MESSAGES(conn, task_id=task_id)
                        messages = await attach_files(conn, task_id, messages)
                        place = await _GET_PLACE(conn, task_id=task_id)
                        await announce(conn, "task:dispatch", _dispatch_fields(claim))
                        return HandOut(claim, tuple(messages), place)
        return None

    async def attach_shared(self, task_id: UUID, messages: Sequence[ClaimedMessage]) -> list[ClaimedMessage]:
        async with self._pool.connection() as conn, conn.transaction():
            return await attach_shared_files(conn, task_id, messages)

    async def _take(
        self, conn: TrioConnection[Any], agent_id: UUID, runtime_id: UUID, instance: str | None, messages_max: int
    ) -> UUID | None:
        if await _LOCK_AGENT(conn, agent_id=agent_id, runtime_id=runtime_id) is None:
            return None
        task_id = await _CLAIM_TASK(conn, agent_id=agent_id, runtime_id=runtime_id, instance=instance)
        if task_id is not None:
            await _TAKE_MESSAGES(conn, task_id=task_id, messages_max=messages_max)
            await _QUEUE_THE_REST(conn, id=self._mint(), task_id=task_id)
            await _WANT_TYPING(
                conn,
                id=self._mint(),
                task_id=task_id,
                fresh_seconds=TYPING_FRESH_SECONDS,
                channel_types=self._typing_on,
            )
            reached("task.claimed")
        return task_id

    async def seconds_to_next(self, runtime_id: UUID) -> float | None:
        return await _SECONDS_TO_NEXT(self._pool, runtime_id=runtime_id)

    async def find(self, task_id: UUID) -> Task | None:
        return await _GET_TASK(self._pool, task_id=task_id)

    @asynccontextmanager
    async def change(self, task_id: UUID) -> AsyncIterator[PostgresTaskChange | None]:
        async with self._pool.transaction() as conn:
            task = await _LOCK_TASK(conn, task_id=task_id)
            yield None if task is None else PostgresTaskChange(conn, task, self._mint, self._divide)

    @asynccontextmanager
    async def change_lost(
        self, limits: LossLimits, passed_over: Sequence[UUID]
    ) -> AsyncIterator[PostgresTaskChange | None]:
        async with self._pool.transaction() as conn:
            task = await _LOCK_LOST_TASK(
                conn,
                silent_seconds=limits.silent_seconds,
                unstarted_seconds=limits.unstarted_seconds,
                running_seconds=limits.running_seconds,
                passed_over=list(passed_over),
            )
            yield None if task is None else PostgresTaskChange(conn, task, self._mint, self._divide)

    @asynccontextmanager
    async def change_orphaned(
        self, runtime_id: UUID, instance: str, kept: Sequence[Attempt], passed_over: Sequence[UUID]
    ) -> AsyncIterator[PostgresTaskChange | None]:
        ids, numbers = _columns(kept)
        async with self._pool.transaction() as conn:
            task = await _LOCK_ORPHANED_TASK(
                conn,
                runtime_id=runtime_id,
                instance=instance,
                kept_ids=ids,
                kept_attempts=numbers,
                passed_over=list(passed_over),
            )
            yield None if task is None else PostgresTaskChange(conn, task, self._mint, self._divide)


class PostgresTaskChange:
    """Implements gateway.work.tasks.ports.TaskChange within the store's transaction."""

    def __init__(self, conn: TrioConnection[Any], task: Task, mint: Callable[[], UUID], divide: Divide) -> None:
        self._conn = conn
        self._mint = mint
        self._divide = divide
        self.task = task

    async def start(self) -> None:
        await self._change(_START_TASK)

    async def record_progress(self, text: str) -> None:
        await self._change(_RECORD_PROGRESS, progress=text)

    async def finish(self, status: TaskStatus, end: End) -> None:
        result = None if end.result is None else msgspec.json.encode(end.result).decode()
        await self._change(
            _FINISH_TASK,
            status=status.value,
            result=result,
            error=end.error,
            failure_reason=end.failure_reason,
            stderr_tail=end.stderr_tail,
        )

    async def note_undelivered(self, in_a_row: int) -> None:
        await self._change(_NOTE_UNDELIVERED, undelivered=in_a_row)

    async def requeue(self, end: End, *, delay_seconds: float = 0.0, forgiven: bool, reported: bool) -> bool:
        sibling_id = await _LOCK_WAITING_SIBLING(self._conn, task_id=self.task.id)
        if sibling_id is not None:
            await _PASS_ATTEMPT_ON(self._conn, sibling_id=sibling_id, task_id=self.task.id, forgiven=forgiven)
            await _RELEASE_MESSAGES(self._conn, task_id=self.task.id)
            await self.finish(TaskStatus.CANCELLED, end)
            return False
        await self._change(
            _REQUEUE_TASK,
            forgiven=forgiven,
            reported=reported,
            delay_seconds=delay_seconds,
            error=end.error,
            failure_reason=end.failure_reason,
            stderr_tail=end.stderr_tail,
        )
        return True

    async def _change(self, statement: RowCount, **values: object) -> None:
        """Run a statement that names the attempt, so that the row decides and not an earlier reading of it.

        Raises StoreConflict when the row has another attempt by now.
        """
        task = self.task
        if await statement(self._conn, task_id=task.id, attempt=task.attempt, **values) != 1:
            raise StoreConflict(f"attempt {task.attempt} of task {task.id} is not what the row says any more")

    async def append_answer(self, text: str) -> UUID:
        message_id = self._mint()
        await _APPEND_ANSWER(self._conn, id=message_id, task_id=self.task.id, content=text)
        return message_id

    async def append_comment(self, text: str, *, by_agent: bool) -> UUID:
        comment_id = self._mint()
        author, kind = ("agent", "comment") if by_agent else ("system", "system")
        await _APPEND_COMMENT(self._conn, id=comment_id, task_id=self.task.id, author_type=author, kind=kind, body=text)
        return comment_id

    async def send_reply(self, kind: str, text: str) -> bool:
        channel_type = await _GET_REPLY_CHANNEL(self._conn, task_id=self.task.id)
        if channel_type is None:
            return False
        parts = self._divide(channel_type, text)
        return await _QUEUE_REPLY(
            self._conn, task_id=self.task.id, kind=kind, ids=[self._mint() for _ in parts], contents=list(parts)
        )

    async def announce(self, event: str, fields: JsonObject) -> None:
        await announce(self._conn, event, fields)

    async def ring(self) -> None:
        await ring_runtime(self._conn, self.task.agent_id)


def _columns(attempts: Sequence[Attempt]) -> tuple[list[UUID], list[int]]:
    """Return the attempts as two arrays, which a statement unnests."""
    return [attempt.task_id for attempt in attempts], [attempt.number for attempt in attempts]


def _dispatch_fields(claim: TaskClaim) -> JsonObject:
    return {
        "workspace_id": claim.workspace_id,
        "task_id": claim.id,
        "agent_id": claim.agent_id,
        "issue_id": claim.issue_id,
        "chat_session_id": claim.chat_session_id,
        "status": TaskStatus.DISPATCHED,
    }
