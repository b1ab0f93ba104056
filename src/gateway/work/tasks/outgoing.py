"""Outgoing messages, for the owners and admins of a workspace: the list with its failures, and sending again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.errors import Conflict, Invalid, NotFound
from gateway.ids import new_id
from gateway.work.people.access import require_leader
from gateway.work.people.directory import Member

STATUSES = ("queued", "sending", "sent", "failed", "unknown")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to a platform, without its text.

    A `failed` message was refused or given up, and nothing of it is visible. An `unknown` message may or may not have
    arrived.
    """

    id: UUID
    installation_id: UUID
    chat_session_id: UUID | None
    task_id: UUID | None
    kind: str
    part: int
    recipient_type: str
    recipient_id: str
    status: str
    attempts: int
    error_code: int | None
    error: str | None
    channel_message_id: str | None
    created_at: datetime
    last_attempt_at: datetime | None
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Owned:
    """A message with its workspace, and the role there of the person who asks for it."""

    id: UUID
    workspace_id: UUID
    role: str


class OutgoingStore(Protocol):
    """The store of outgoing messages. Every call raises StoreUnavailable."""

    async def list(
        self, workspace_id: UUID, status: str | None, *, limit: int, offset: int
    ) -> tuple[list[Outgoing], int]:
        """Return a page of messages, the latest first, and their total number."""

    async def find(self, outgoing_id: UUID, user_id: UUID) -> Owned | None:
        """Find a message. None when it does not exist, or the person is not a member of its workspace."""

    async def resend(self, owned: Owned, key: UUID) -> Outgoing | None:
        """Queue the message again under a new key. None when it has not failed and its outcome is not unknown."""


class OutgoingService:
    """The actions of owners and admins. Raises NotFound for strangers, Forbidden for other members."""

    def __init__(self, store: OutgoingStore, *, mint: Callable[[], UUID] = new_id) -> None:
        self._store = store
        self._mint = mint

    async def list(self, member: Member, status: str | None, *, limit: int, offset: int) -> tuple[list[Outgoing], int]:
        """Return a page of messages and their total number. Raises Invalid for an unknown status."""
        require_leader(member.role)
        if status is not None and status not in STATUSES:
            message = f"status must be one of {', '.join(STATUSES)}"
            raise Invalid("invalid_parameter", message, field="status")
        return await self._store.list(member.workspace_id, status, limit=limit, offset=offset)

    async def resend(self, outgoing_id: UUID, user_id: UUID) -> Outgoing:
        """Send a `failed` or `unknown` message again. Raises Conflict when it was sent, or is still being tried.

        An `unknown` message may then appear in the chat twice. That is why a person decides it.
        """
        owned = await self._store.find(outgoing_id, user_id)
        if owned is None:
            raise NotFound("message_not_found", "there is no such message")
        require_leader(owned.role)
        again = await self._store.resend(owned, self._mint())
        if again is None:
            raise Conflict("not_over", "only a message that failed, or whose fate is unknown, can be resent")
        return again
