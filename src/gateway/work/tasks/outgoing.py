"""What was said to chats, for those who look after it: what did not arrive, and saying it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.errors import RejectedRequest
from gateway.ids import new_id
from gateway.work.people.access import require_leader
from gateway.work.people.directory import Member

STATUSES = ("queued", "sending", "sent", "failed", "unknown")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to a platform, without its words.

    `failed` was refused or given up, and nothing of it is visible. `unknown` may have arrived: nobody can tell.
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
    """Whose message it is, and the role in which somebody asks for it."""

    id: UUID
    workspace_id: UUID
    role: str


class OutgoingStore(Protocol):
    """Every call raises StoreUnavailable."""

    async def list(
        self, workspace_id: UUID, status: str | None, *, limit: int, offset: int
    ) -> tuple[list[Outgoing], int]:
        """The latest first, and how many there are in all."""

    async def find(self, outgoing_id: UUID, user_id: UUID) -> Owned | None:
        """None when it is not there for that person."""

    async def resend(self, owned: Owned, key: UUID) -> Outgoing | None:
        """Queue it anew under a new key; None when it is not over."""


class OutgoingService:
    """What owners and admins may do. Raises RejectedRequest: 404 for strangers, 403 for other members."""

    def __init__(self, store: OutgoingStore, *, mint: Callable[[], UUID] = new_id) -> None:
        self._store = store
        self._mint = mint

    async def list(self, member: Member, status: str | None, *, limit: int, offset: int) -> tuple[list[Outgoing], int]:
        """The page, and how many there are in all. 400 for a status that does not exist."""
        require_leader(member.role)
        if status is not None and status not in STATUSES:
            message = f"status must be one of {', '.join(STATUSES)}"
            raise RejectedRequest(400, "invalid_parameter", message, field="status")
        return await self._store.list(member.workspace_id, status, limit=limit, offset=offset)

    async def resend(self, outgoing_id: UUID, user_id: UUID) -> Outgoing:
        """Say it again, whatever became of it. 409 when it was sent, or is still being tried.

        For one that is `unknown` this may be a second message in the chat: that is why a person decides it.
        """
        owned = await self._store.find(outgoing_id, user_id)
        if owned is None:
            raise RejectedRequest(404, "message_not_found", "there is no such message")
        require_leader(owned.role)
        again = await self._store.resend(owned, self._mint())
        if again is None:
            raise RejectedRequest(
                409, "not_over", "only a message that failed, or whose fate is unknown, can be resent"
            )
        return again
