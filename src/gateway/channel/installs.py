"""Connecting a bot by scanning a code: the session that a scan is, its store, and what the pages for people may ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from gateway.channel.installation import BotInPlace, DroppedMessage, InstallationDraft, InstallationView

SESSION_KEEP_SECONDS = 1800.0
"""How long an ended session still answers what became of it."""


class InstallReason(StrEnum):
    """Why a scan did not connect a bot. Part of the API."""

    EXPIRED = "expired"
    ACCESS_DENIED = "access_denied"
    PROTOCOL_ERROR = "lark_protocol_error"
    BOT_INFO_FAILED = "bot_info_failed"
    INSTALLATION_CONFLICT = "installation_conflict"
    AGENT_HAS_BOT = "agent_has_bot"
    FORBIDDEN = "forbidden"
    INSTALLER_BIND_FAILED = "installer_bind_failed"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """Whose bot it is to be: an agent of a workspace, connected by one of its members.

    `replaces`: it may take the place of another app's live bot. `vouched`: an operator answers for the member, who need
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
class BegunScan:
    """What a person scans, and how long they have."""

    session_id: UUID
    qr_code_url: str = field(repr=False)
    expires_in_seconds: float
    poll_interval_seconds: float

    def public(self) -> dict[str, Any]:
        """The JSON object of the API and of `--json`; seconds are whole."""
        return {
            "session_id": self.session_id,
            "qr_code_url": self.qr_code_url,
            "expires_in_seconds": round(self.expires_in_seconds),
            "poll_interval_seconds": max(1, round(self.poll_interval_seconds)),
        }


@dataclass(frozen=True, slots=True)
class NewScan:
    """A session to be stored. The device code is sealed for the session's id; seconds count from now."""

    id: UUID
    request: ScanRequest
    device_code: bytes = field(repr=False)
    interval_seconds: float
    delay_seconds: float
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class ScanInHand:
    """A pending session whose row lease this process took. Both secrets are sealed for the session's id.

    `polled_region` is the cloud that is asked now, `region` the one that was asked first. `credentials` are those of
    the new app, once it was granted: then nothing is polled any more, and what is left is to store it. `replaces` and
    `vouched` are the request's.
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

    @property
    def moved(self) -> bool:
        return self.polled_region != self.region


@dataclass(frozen=True, slots=True)
class ScanStatus:
    """What became of a session so far. `error_message` of a pending one is the trouble that its last poll had."""

    initiator_user_id: UUID
    status: str
    installation_id: UUID | None
    error_reason: str | None
    error_message: str
    seconds_left: float

    def public(self) -> dict[str, Any]:
        """The JSON object of the API; what is not known is not named."""
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
    """Why a granted app was not stored; nothing was."""

    ROW_CHANGED = "row_changed"
    """The agent's row has another id than the draft's."""
    NOT_BOUND = "not_bound"
    """The installer is no member any more, or the account is somebody else's."""
    FORBIDDEN = "forbidden"
    """Who began may not manage the agent's bot any more."""
    SESSION_OVER = "session_over"
    """The session ended, or another process has it in hand now."""


class InstallStore(Protocol):
    """Sessions. Its clock alone says what is due and what is over. Every method raises StoreUnavailable.

    What changes a session in hand says False, and changes nothing, once it ended or another process took it.
    """

    async def add(self, scan: NewScan, pending_max: int) -> bool:
        """False, and nothing is stored, when its workspace has so many pending ones."""

    async def take(self, poller: UUID, lease_seconds: float, session_id: UUID | None = None) -> ScanInHand | None:
        """A session that is due and in nobody's hand, for `lease_seconds`; of one id, or any. None when none is."""

    async def put_back(
        self, scan: ScanInHand, *, region: str, interval_seconds: float, delay_seconds: float, problem: str
    ) -> bool:
        """Let go of it until it is due again."""

    async def hold(self, scan: ScanInHand, lease_seconds: float) -> bool:
        """Keep it in hand for so long from now; 0 lets go of it as it is."""

    async def grant(self, scan: ScanInHand, *, credentials: bytes, lease_seconds: float, finish_seconds: float) -> bool:
        """Keep what the platform granted, before anything is made of it: a crash from here on costs nothing.

        The session gets at least `finish_seconds` more, and is in hand for `lease_seconds`, whoever took it meanwhile.
        False once it ended, or has the grant of somebody else.
        """

    async def finish(
        self, scan: ScanInHand, draft: InstallationDraft, installer: InstallerAccount
    ) -> InstallationView | BotInPlace | ScanRefusal:
        """All in one transaction: reclaim dead rows, store the bot, bind its installer, end the session, announce it.

        Whether who began may still do so, and whether the agent has another app's bot by now, is judged in it too.
        Raises StoreConflict when the app belongs to a row that stays.
        """

    async def fail(self, scan: ScanInHand, reason: InstallReason, message: str) -> bool:
        """End it without a bot."""

    async def status(self, session_id: UUID, workspace_id: UUID) -> ScanStatus | None:
        """None for another workspace's, and for one that ended too long ago."""

    async def seconds_to_next(self) -> float | None:
        """Until the next session is due or falls out of a lost process' hand. None while there is none."""


class Installs(Protocol):
    """What the pages for people may do with bots."""

    async def begin(self, request: ScanRequest) -> BegunScan:
        """Raises RejectedRequest: 400 for a bad region, 429 for too many at once, 502 when the platform refuses.

        409 when the agent has a live bot that the request does not replace.
        """

    async def status(self, session_id: UUID, workspace_id: UUID) -> ScanStatus | None: ...

    async def list(self, workspace_id: UUID) -> Sequence[InstallationView]:
        """Oldest first, revoked ones and those whose agent is gone too."""

    async def find(self, workspace_id: UUID, installation_id: UUID) -> InstallationView:
        """Raises RejectedRequest (404)."""

    async def revoke(self, workspace_id: UUID, installation_id: UUID) -> InstallationView:
        """Raises RejectedRequest (404)."""

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        """What a bot did not take in, and why, newest first."""

    def console_url(self, view: InstallationView) -> str:
        """Where a person manages the app, at its platform."""
