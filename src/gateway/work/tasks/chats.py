"""Conversations, for people who read or delete them.

These are the rules of access:

- A conversation belongs to the sender of a direct chat, or to the installer of a group's bot.
- A member of the workspace sees its conversations. A conversation with a private agent is hidden from members other
  than the agent's owner and the person it belongs to. Owners and admins of the workspace see all.
- A person who may see a conversation may read it.
- A conversation may be deleted by the person it belongs to, the agent's owner, and owners and admins.
- A guest sees their own conversations, does not count as the owner of any agent, and deletes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.errors import Conflict, Forbidden, NotFound, StoreConflict
from gateway.recorder import SILENT, Recorder
from gateway.work.conflicts import despite_conflicts
from gateway.work.tasks.tasks import count_ended

DELETE_ATTEMPTS = 10
"""A deletion conflicts with a run that is just ending, so it may need several attempts in a busy conversation."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as one viewer sees it. `deletable`: this viewer may delete it.

    The channel's fields are None for a conversation that is not bound to a platform's chat.
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
    """A message of a person, the agent or the gateway. `task_id` is the run that took the message in, or wrote it."""

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
    """A task that was deleted with its conversation. `live`: it had not ended, and was cut short.

    `run_seconds` is the time since its claim.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    issue_id: UUID | None
    chat_session_id: UUID
    kind: str
    live: bool
    run_seconds: float | None


class ChatStore(Protocol):
    """The store of conversations. Every method raises StoreUnavailable. `user_id` is the viewer."""

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Chat], int]:
        """Return a page of the conversations that the viewer may see, last used first, and their total number."""

    async def find(self, chat_id: UUID, user_id: UUID) -> Chat | None:
        """Find a conversation. None when it does not exist or the viewer may not see it."""

    async def messages(
        self, workspace_id: UUID, chat_id: UUID, *, limit: int, offset: int
    ) -> tuple[Sequence[ChatMessage], int]:
        """Return a page of messages, oldest first, and their total number."""

    async def delete(self, workspace_id: UUID, chat_id: UUID) -> Sequence[DeletedTask] | None:
        """Delete the conversation with all rows that depend on it, in one transaction. None when there was none.

        Its live tasks are announced as cancelled. Raises StoreConflict when a concurrent change interfered.
        """


class ChatService:
    """The actions of people on conversations.

    Raises NotFound for a conversation that they may not see, Forbidden for an action that they may not do.
    """

    def __init__(self, store: ChatStore, *, recorder: Recorder = SILENT) -> None:
        self._store = store
        self._recorder = recorder

    async def list(self, workspace_id: UUID, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Chat], int]:
        """Return a page of conversations and their total number, for a member of the workspace."""
        return await self._store.list(workspace_id, user_id, limit=limit, offset=offset)

    async def find(self, chat_id: UUID, user_id: UUID) -> Chat:
        chat = await self._store.find(chat_id, user_id)
        if chat is None:
            raise NotFound("chat_not_found", "there is no such chat")
        return chat

    async def messages(
        self, chat_id: UUID, user_id: UUID, *, limit: int, offset: int
    ) -> tuple[Sequence[ChatMessage], int]:
        """Return a page of messages, oldest first, and their total number."""
        chat = await self.find(chat_id, user_id)
        return await self._store.messages(chat.workspace_id, chat_id, limit=limit, offset=offset)

    async def delete(self, chat_id: UUID, user_id: UUID) -> None:
        """Delete a conversation: its messages, its runs, its unsent messages, and its binding to the platform's chat.

        Issues that were filed from it stay. The next message in the platform's chat begins a new conversation. Raises
        Conflict when its runs kept beginning and ending during all attempts.
        """
        chat = await self.find(chat_id, user_id)
        if not chat.deletable:
            message = "only its owner, its agent's owner, and owners and admins of the workspace can delete a chat"
            raise Forbidden("role_too_low", message)
        try:
            deleted = await despite_conflicts(
                lambda: self._store.delete(chat.workspace_id, chat_id), attempts=DELETE_ATTEMPTS
            )
        except StoreConflict as error:
            raise Conflict("chat_busy", "the chat is too busy to be deleted; try again") from error
        for task in deleted or ():
            if task.live:
                count_ended(self._recorder, task.kind, "cancelled", task.run_seconds)
