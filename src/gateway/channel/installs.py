"""Bots that a platform is connecting while a person gives their consent there: the sessions, and their store.

What such a session says to the platform, and how it can end, is the platform's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from gateway.channel.installation import BotInPlace, InstallationDraft, InstallationView

SESSION_KEEP_SECONDS = 1800.0
"""The time for which the status of an ended session can still be read."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """The agent that is to get a bot, its workspace, and the member who connects it.

    `region` is the platform's own name for the one of its clouds that is asked first. `replaces` is True if the new bot
    may take the place of another app's live bot. `vouched` is True if an operator answers for the member, who then need
    not manage the agent.
    """

    workspace_id: UUID
    agent_id: UUID
    agent_name: str
    initiator_user_id: UUID
    region: str
    replaces: bool = False
    vouched: bool = False


@dataclass(frozen=True, slots=True)
class NewScan:
    """A session that is to be stored. The device code is sealed for the session's id; seconds count from now."""

    id: UUID
    request: ScanRequest
    device_code: bytes = field(repr=False)
    interval_seconds: float
    delay_seconds: float
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class ScanInHand:
    """A pending session whose row lease this process took. Both secrets are sealed for the session's id.

    `polled_region` is the cloud that is asked now, and `region` is the one that was asked first. `credentials` are
    those of the new app, once the platform granted it: polling is then over, and only storing the app is left.
    `replaces` and `vouched` are the request's.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    initiator_user_id: UUID
    region: str
    polled_region: str
    device_code: bytes = field(repr=False)
    credentials: bytes | None = field(repr=False)
    interval_seconds: float
    seconds_left: float
    poller: UUID
    replaces: bool
    vouched: bool


@dataclass(frozen=True, slots=True)
class ScanStatus:
    """The state of a session. `error_message` of a pending one is the problem of its last poll."""

    initiator_user_id: UUID
    status: str
    installation_id: UUID | None
    error_reason: str | None
    error_message: str
    seconds_left: float

    def public(self) -> dict[str, Any]:
        """Return the JSON object of the API; keys without a value are left out."""
        optional = {
            "installation_id": self.installation_id,
            "error_reason": self.error_reason,
            "error_message": self.error_message,
        }
        return {"status": self.status, **{name: value for name, value in optional.items() if value}}


@dataclass(frozen=True, slots=True)
class InstallerAccount:
    """The person who scanned: a platform account, and the member that it belongs to."""

    channel_user_id: str
    user_id: UUID
    binding_id: UUID


class ScanRefusal(StrEnum):
    """The reason that a granted app was not stored. Nothing at all was stored then."""

    ROW_CHANGED = "row_changed"
    """The agent's row has another id than the draft's."""
    NOT_BOUND = "not_bound"
    """The installer is no member any more, or the account is bound to another person."""
    FORBIDDEN = "forbidden"
    """The member who began the scan may not manage the agent's bot any more."""
    SESSION_OVER = "session_over"
    """The session ended, or another process holds its lease now."""


class InstallStore(Protocol):
    """The store of sessions. Every method raises StoreUnavailable.

    The clock of the store alone decides which sessions are due and which are over. A method that changes a session in
    hand returns False, and changes nothing, once the session ended or another process took it.
    """

    async def add(self, scan: NewScan, pending_max: int) -> bool:
        """Store a session. False, with nothing stored, if its workspace has `pending_max` pending ones already."""

    async def take(self, poller: UUID, lease_seconds: float, session_id: UUID | None = None) -> ScanInHand | None:
        """Lease a due session that no process holds, for `lease_seconds`: the one of `session_id`, or any.

        None if there is no such session.
        """

    async def put_back(
        self, scan: ScanInHand, *, region: str, interval_seconds: float, delay_seconds: float, problem: str
    ) -> bool:
        """Release the session until it is due again after `delay_seconds`, and store the other values in it."""

    async def hold(self, scan: ScanInHand, lease_seconds: float) -> bool:
        """Renew the lease for `lease_seconds` from now; 0 releases the session unchanged."""

    async def grant(self, scan: ScanInHand, *, credentials: bytes, lease_seconds: float, finish_seconds: float) -> bool:
        """Store the credentials that the platform granted, before anything else is done with them.

        A crash after this call loses nothing. The session gets at least `finish_seconds` more. This process holds it
        for `lease_seconds`, even if another process took it meanwhile. False if the session ended, or already has the
        grant of another process.
        """

    async def finish(
        self, scan: ScanInHand, draft: InstallationDraft, installer: InstallerAccount
    ) -> InstallationView | BotInPlace | ScanRefusal:
        """Reclaim dead rows, store the bot, bind its installer, end the session, and announce it, in one transaction.

        The same transaction checks that the member who began the scan may still connect the bot, and whether the agent
        has another app's bot by now. Raises StoreConflict if the app belongs to a row that was not removed.
        """

    async def fail(self, scan: ScanInHand, reason: str, message: str) -> bool:
        """End the session without a bot. The reason is for programs, the message for people."""

    async def status(self, session_id: UUID, workspace_id: UUID) -> ScanStatus | None:
        """Return the state of a session.

        None for a session of another workspace, and for one that ended more than `SESSION_KEEP_SECONDS` ago.
        """

    async def seconds_to_next(self) -> float | None:
        """Return the seconds until a session is due, or until the lease on it runs out. None if there is no session."""
