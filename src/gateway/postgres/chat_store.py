"""Conversations for people, in Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from gateway.concurrency import reached
from gateway.postgres.driver import TrioConnection
from gateway.postgres.events import announce, ring_runtime
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.tasks.chats import Chat, ChatMessage, DeletedTask
from gateway.work.tasks.ports import TaskStatus

_SQL = SqlFile("chat.sql")
_LIST_CHATS = _SQL.many("list_chats", Chat)
_COUNT_CHATS = _SQL.value("count_chats", int)
_GET_CHAT = _SQL.one_or_none("get_chat", Chat)
_LIST_CHAT_MESSAGES = _SQL.many("list_chat_messages", ChatMessage)
_COUNT_CHAT_MESSAGES = _SQL.value("count_chat_messages", int)
_DELETE_CHAT_TASKS = _SQL.many("delete_chat_tasks", DeletedTask)
_LOCK_CHAT = _SQL.value_or_none("lock_chat", UUID)
_LIMIT_LOCK_WAIT = _SQL.value("limit_lock_wait", str)
_DELETE_CHAT_OUTBOUND = _SQL.count("delete_chat_outbound")
_DETACH_CHAT_OUTBOUND = _SQL.count("detach_chat_outbound")
_DELETE_CHAT_CARDS = _SQL.count("delete_chat_cards")
_DELETE_HELD_COMMANDS = _SQL.count("delete_held_commands")
_DELETE_CHAT_BINDING = _SQL.count("delete_chat_binding")
_DELETE_CHAT_SESSION = _SQL.count("delete_chat_session")

LOCK_MILLISECONDS = 100
"""The time that a deletion which has locked a conversation waits for a run that another transaction is changing."""
_ACTIVE = (TaskStatus.DISPATCHED, TaskStatus.RUNNING)


class PostgresChatStore:
    """Implements gateway.work.tasks.chats.ChatStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Chat], int]:
        seen = {"workspace_id": workspace_id, "user_id": user_id}
        async with self._pool.connection() as conn:
            chats = await _LIST_CHATS(conn, **seen, row_limit=limit, row_offset=offset)
            return chats, await _COUNT_CHATS(conn, **seen)

    async def find(self, chat_id: UUID, user_id: UUID) -> Chat | None:
        return await _GET_CHAT(self._pool, chat_id=chat_id, user_id=user_id)

    async def messages(
        self, workspace_id: UUID, chat_id: UUID, *, limit: int, offset: int
    ) -> tuple[Sequence[ChatMessage], int]:
        place = {"workspace_id": workspace_id, "chat_id": chat_id}
        async with self._pool.connection() as conn:
            messages = await _LIST_CHAT_MESSAGES(conn, **place, row_limit=limit, row_offset=offset)
            return messages, await _COUNT_CHAT_MESSAGES(conn, **place)

    async def delete(self, workspace_id: UUID, chat_id: UUID) -> Sequence[DeletedTask] | None:
        place = {"workspace_id": workspace_id, "chat_id": chat_id}
        async with self._pool.transaction() as conn:
            # Locks are taken in the order of other transactions, to avoid deadlocks. One that ends a run locks its task
            # and then the session. One that appends a message locks the session and then the waiting task. So active
            # tasks come before the session here, and waiting tasks after it.
            tasks = await _delete_tasks(conn, place, _ACTIVE)
            if await _LOCK_CHAT(conn, **place) is None:
                return None
            await _LIMIT_LOCK_WAIT(conn, milliseconds=LOCK_MILLISECONDS)
            tasks += await _delete_tasks(conn, place, TaskStatus)
            await _tell(conn, tasks)
            await _DELETE_CHAT_OUTBOUND(conn, **place)
            await _DETACH_CHAT_OUTBOUND(conn, **place)
            await _DELETE_CHAT_CARDS(conn, **place)
            await _DELETE_HELD_COMMANDS(conn, **place)
            await _DELETE_CHAT_BINDING(conn, **place)
            await _DELETE_CHAT_SESSION(conn, **place)
            reached("chat.deleting")
            return tasks


async def _delete_tasks(
    conn: TrioConnection[Any], place: dict[str, UUID], statuses: Iterable[TaskStatus]
) -> list[DeletedTask]:
    deleted: list[DeletedTask] = []
    while tasks := await _DELETE_CHAT_TASKS(conn, **place, statuses=[status.value for status in statuses]):
        deleted += tasks
    return deleted


async def _tell(conn: TrioConnection[Any], tasks: Sequence[DeletedTask]) -> None:
    for task in tasks:
        if task.live:
            await announce(conn, "task:cancelled", _fields(task))
            await ring_runtime(conn, task.agent_id)


def _fields(task: DeletedTask) -> dict[str, Any]:
    return {
        "workspace_id": task.workspace_id,
        "task_id": task.id,
        "agent_id": task.agent_id,
        "issue_id": task.issue_id,
        "chat_session_id": task.chat_session_id,
        "status": TaskStatus.CANCELLED,
    }
