"""Tasks, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec

from gateway.concurrency import reached
from gateway.errors import StoreConflict
from gateway.ids import new_id
from gateway.postgres.attachment_store import attach_files
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
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

_Q = load("task.sql", TaskClaim, ClaimedMessage, ClaimedRun, ConversationPlace, RuntimeView, Task)

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
        async with self._pool.connection() as conn:
            await _Q.touch_runtime(conn, runtime_id=runtime_id)

    async def register_runtime(
        self, runtime_id: UUID, *, name: str | None, kind: str, version: str
    ) -> RuntimeView | None:
        async with self._pool.connection() as conn, conn.transaction():
            view: RuntimeView | None = await _Q.register_runtime(
                conn, runtime_id=runtime_id, name=name, kind=kind, version=version
            )
            if view is not None:
                await announce(conn, "daemon:register", {"workspace_id": view.workspace_id, "runtime_id": view.id})
            return view

    async def see_tasks(self, runtime_id: UUID, attempts: Sequence[Attempt]) -> set[Attempt]:
        ids, numbers = _columns(attempts)
        async with self._pool.connection() as conn:
            rows = await _Q.see_tasks(conn, runtime_id=runtime_id, task_ids=ids, attempts=numbers)
        return {Attempt(*row) for row in rows}

    async def claim(
        self, runtime_id: UUID, instance: str | None, *, messages_max: int, running_seconds: float
    ) -> HandOut | None:
        async with self._pool.connection() as conn:
            for (agent_id,) in await _Q.claimable_agents(conn, runtime_id=runtime_id):
                async with conn.transaction():
                    task_id = await self._take(conn, agent_id, runtime_id, instance, messages_max)
                    if task_id is not None:
                        claim: TaskClaim = await _Q.get_claim(conn, task_id=task_id, running_seconds=running_seconds)
                        if claim.kind == "autopilot":
                            claim = replace(claim, run=await _Q.get_claimed_run(conn, task_id=task_id))
                        messages: list[ClaimedMessage] = await _Q.list_claimed_messages(conn, task_id=task_id)
                        messages = await attach_files(conn, task_id, messages)
                        place: ConversationPlace | None = await _Q.get_place(conn, task_id=task_id)
                        await announce(conn, "task:dispatch", _dispatch_fields(claim))
                        return HandOut(claim, tuple(messages), place)
        return None

    async def _take(
        self, conn: TrioConnection[Any], agent_id: UUID, runtime_id: UUID, instance: str | None, messages_max: int
    ) -> UUID | None:
        if await _Q.lock_agent(conn, agent_id=agent_id, runtime_id=runtime_id) is None:
            return None
        task_id: UUID | None = await _Q.claim_task(conn, agent_id=agent_id, runtime_id=runtime_id, instance=instance)
        if task_id is not None:
            await _Q.take_messages(conn, task_id=task_id, messages_max=messages_max)
            await _Q.queue_the_rest(conn, id=self._mint(), task_id=task_id)
            await _Q.want_typing(
                conn,
                id=self._mint(),
                task_id=task_id,
                fresh_seconds=TYPING_FRESH_SECONDS,
                channel_types=self._typing_on,
            )
            reached("task.claimed")
        return task_id

    async def seconds_to_next(self, runtime_id: UUID) -> float | None:
        async with self._pool.connection() as conn:
            seconds: float | None = await _Q.seconds_to_next(conn, runtime_id=runtime_id)
            return seconds

    async def find(self, task_id: UUID) -> Task | None:
        async with self._pool.connection() as conn:
            task: Task | None = await _Q.get_task(conn, task_id=task_id)
            return task

    @asynccontextmanager
    async def change(self, task_id: UUID) -> AsyncIterator[PostgresTaskChange | None]:
        async with self._pool.transaction() as conn:
            task: Task | None = await _Q.lock_task(conn, task_id=task_id)
            yield None if task is None else PostgresTaskChange(conn, task, self._mint, self._divide)

    @asynccontextmanager
    async def change_lost(
        self, limits: LossLimits, passed_over: Sequence[UUID]
    ) -> AsyncIterator[PostgresTaskChange | None]:
        async with self._pool.transaction() as conn:
            task: Task | None = await _Q.lock_lost_task(
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
            task: Task | None = await _Q.lock_orphaned_task(
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
        await self._change(_Q.start_task)

    async def record_progress(self, text: str) -> None:
        await self._change(_Q.record_progress, progress=text)

    async def finish(self, status: TaskStatus, end: End) -> None:
        result = None if end.result is None else _json(end.result)
        await self._change(
            _Q.finish_task,
            status=status.value,
            result=result,
            error=end.error,
            failure_reason=end.failure_reason,
            stderr_tail=end.stderr_tail,
        )

    async def note_undelivered(self, in_a_row: int) -> None:
        await self._change(_Q.note_undelivered, undelivered=in_a_row)

    async def requeue(self, end: End, *, delay_seconds: float = 0.0, forgiven: bool, reported: bool) -> bool:
        sibling_id = await _Q.lock_waiting_sibling(self._conn, task_id=self.task.id)
        if sibling_id is not None:
            await _Q.pass_attempt_on(self._conn, sibling_id=sibling_id, task_id=self.task.id, forgiven=forgiven)
            await _Q.release_messages(self._conn, task_id=self.task.id)
            await self.finish(TaskStatus.CANCELLED, end)
            return False
        await self._change(
            _Q.requeue_task,
            forgiven=forgiven,
            reported=reported,
            delay_seconds=delay_seconds,
            error=end.error,
            failure_reason=end.failure_reason,
            stderr_tail=end.stderr_tail,
        )
        return True

    async def _change(self, statement: Callable[..., Awaitable[int]], **values: object) -> None:
        """Run a statement that names the attempt, so that the row decides and not an earlier reading of it.

        Raises StoreConflict when the row has another attempt by now.
        """
        task = self.task
        if await statement(self._conn, task_id=task.id, attempt=task.attempt, **values) != 1:
            raise StoreConflict(f"attempt {task.attempt} of task {task.id} is not what the row says any more")

    async def append_answer(self, text: str) -> UUID:
        message_id = self._mint()
        await _Q.append_answer(self._conn, id=message_id, task_id=self.task.id, content=text)
        return message_id

    async def append_comment(self, text: str, *, by_agent: bool) -> UUID:
        comment_id = self._mint()
        author, kind = ("agent", "comment") if by_agent else ("system", "system")
        await _Q.append_comment(
            self._conn, id=comment_id, task_id=self.task.id, author_type=author, kind=kind, body=text
        )
        return comment_id

    async def send_reply(self, kind: str, text: str) -> bool:
        channel_type: str | None = await _Q.get_reply_channel(self._conn, task_id=self.task.id)
        if channel_type is None:
            return False
        parts = self._divide(channel_type, text)
        queued: int = await _Q.queue_reply(
            self._conn, task_id=self.task.id, kind=kind, ids=[self._mint() for _ in parts], contents=list(parts)
        )
        return queued > 0

    async def announce(self, event: str, fields: JsonObject) -> None:
        await announce(self._conn, event, fields)

    async def ring(self) -> None:
        await ring_runtime(self._conn, self.task.agent_id)


async def announce(conn: TrioConnection[Any], event: str, fields: JsonObject) -> None:
    """Announce an event to live listeners when the transaction commits. `fields` hold ids only."""
    await _Q.announce_event(conn, payload=_json({"event": event, **fields}))


async def ring_runtime(conn: TrioConnection[Any], agent_id: UUID) -> None:
    """Wake the requests that wait for work of this agent, when the transaction commits."""
    await _Q.ring_runtime(conn, agent_id=agent_id)


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


def _json(value: JsonObject) -> str:
    return msgspec.json.encode(value).decode()
