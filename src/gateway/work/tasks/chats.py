"""Conversations, as people look at them and put an end to them.

Who sees what: a member of the workspace sees its conversations. One with a private agent is hidden from members other
than the agent's owner and the person it belongs to (the sender of a direct chat, the installer of a group's bot);
owners and admins of the workspace see all. Whoever may see a conversation may read it. Deleting takes more: it is
for the person it belongs to, the agent's owner, and owners and admins. A guest sees their own, owns no agent and
deletes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.errors import RejectedRequest, StoreConflict
from gateway.work.conflicts import despite_conflicts
from gateway.work.tasks.tasks import Ended

DELETE_ATTEMPTS = 10
"""A deletion gives way to runs that are just ending, so it may need more than one attempt in a busy conversation."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, to one viewer: `deletable` is whether they may delete it.

    The channel's fields are None for a conversation that no platform chat leads to.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    agent_name: str
    creator_id: UUID | None
    title: str
    context_generation: int
    channel_type: str | None
    chat_type: str | None
    installation_id: UUID | None
    archived_at: datetime | None
    created_at: datetime
    updated_at: datetime
    deletable: bool


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """What a person, the agent or the gateway said. `task_id` is the run that took a message in, or wrote it."""

    id: UUID
    role: str
    kind: str
    content: str = field(repr=False)
    author_user_id: UUID | None
    author_name: str | None
    task_id: UUID | None
    context_generation: int
    sent_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeletedTask:
    """A task that went with its conversation; `live` when that cut it short, `run_seconds` after its claim."""

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    issue_id: UUID | None
    chat_session_id: UUID
    kind: str
    live: bool
    run_seconds: float | None


class ChatStore(Protocol):
    """Conversations. Every method raises StoreUnavailable. `user_id` is who is looking."""

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Chat], int]:
        """What they may see, the most recently used first, and how many there are in all."""

    async def find(self, chat_id: UUID, user_id: UUID) -> Chat | None:
        """None when there is no such conversation for them."""

    async def messages(
        self, workspace_id: UUID, chat_id: UUID, *, limit: int, offset: int
    ) -> tuple[Sequence[ChatMessage], int]:
        """Oldest first, and how many there are in all."""

    async def delete(self, workspace_id: UUID, chat_id: UUID) -> Sequence[DeletedTask] | None:
        """Delete the conversation with all that hangs on it, in one transaction; None when there was none.

        Its live tasks are announced as cancelled. Raises StoreConflict when a concurrent change stood in the way.
        """


class ChatService:
    """What people may do with conversations. Raises RejectedRequest: 404 for what they may not see, 403 for more."""

    def __init__(self, store: ChatStore, *, ended: Ended) -> None:
        self._store = store
        self._ended = ended

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Chat], int]:
        """For a member of the workspace: the page, and how many there are in all."""
        return await self._store.list(workspace_id, user_id, limit=limit, offset=offset)

    async def find(self, chat_id: UUID, user_id: UUID) -> Chat:
        chat = await self._store.find(chat_id, user_id)
        if chat is None:
            raise RejectedRequest(404, "chat_not_found", "there is no such chat")
        return chat

    async def messages(
        self, chat_id: UUID, user_id: UUID, *, limit: int, offset: int
    ) -> tuple[Sequence[ChatMessage], int]:
        """The page, oldest first, and how many there are in all."""
        chat = await self.find(chat_id, user_id)
        return await self._store.messages(chat.workspace_id, chat_id, limit=limit, offset=offset)

    async def delete(self, chat_id: UUID, user_id: UUID) -> None:
        """Delete a conversation: its messages, its runs, what waits to be sent to it, and its tie to the platform's.

        Issues that were filed from it stay. The next message of the platform's conversation begins a new one. 409 when
        its runs kept beginning and ending all the while.
        """
        chat = await self.find(chat_id, user_id)
        if not chat.deletable:
            message = "only its owner, its agent's owner, and owners and admins of the workspace can delete a chat"
            raise RejectedRequest(403, "role_too_low", message)
        try:
            deleted = await despite_conflicts(
                lambda: self._store.delete(chat.workspace_id, chat_id), attempts=DELETE_ATTEMPTS
            )
        except StoreConflict as error:
            raise RejectedRequest(409, "chat_busy", "the chat is too busy to be deleted; try again") from error
        for task in deleted or ():
            if task.live:
                self._ended(task.kind, "cancelled", task.run_seconds)
