"""An installation is a bot that was connected to an agent: its row, and the interface of its store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

DEGRADED = "degraded: some events were answered 500 within the last minute, and the platform sends them again"


@dataclass(frozen=True, slots=True)
class AgentHome:
    """The workspace of an agent. `owner_id` is the workspace's first owner, None if it has none left."""

    workspace_id: UUID
    archived: bool
    owner_id: UUID | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class InstallationDraft:
    """An installation that is to be written. `config` holds secrets in sealed form only.

    It replaces the config of the agent's row as a whole. `replaces` is True if it may take the place of another app's
    live bot.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    channel_type: str
    installer_user_id: UUID
    config: dict[str, Any] = field(repr=False)
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class BotInPlace:
    """The live bot of an agent: its app, and how many linked accounts and conversations depend on it."""

    id: UUID
    app_id: str
    accounts: int
    conversations: int


@dataclass(frozen=True, slots=True)
class InstallationView:
    """The parts of an installation and its link that may be shown: no secret, no lease token.

    `state` is the state at this moment: a link whose lease ran out is `standby`, whatever state was stored last.
    `degraded` is True if the bot receives events, and asked the platform within the last minute to send one again.
    `settings` is the stored config without its secrets, and `details` is what the platform's adapter makes of it for
    lists: values by name, in their order. A view that comes from a store has no details yet.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    channel_type: str
    app_id: str
    settings: dict[str, Any] = field(repr=False)
    status: str
    installer_user_id: UUID | None
    installed_at: datetime
    state: str
    code: int
    detail: str
    last_frame_at: datetime | None
    last_event_at: datetime | None
    pong_ms: float | None
    degraded: bool = False
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown_state(self) -> str:
        """The state as lists show it."""
        return f"{self.state} (degraded)" if self.degraded else self.state

    @property
    def shown_detail(self) -> str:
        return self.detail or (DEGRADED if self.degraded else "")

    def public(self) -> dict[str, Any]:
        """Return the JSON object of the API and of `--json`."""
        connection = ("state", "degraded", "code", "last_frame_at", "last_event_at", "pong_ms")
        return {
            **{name: getattr(self, name) for name in ("id", "workspace_id", "agent_id", "app_id")},
            **self.details,
            "status": self.status,
            "connection": {name: getattr(self, name) for name in connection} | {"detail": self.shown_detail},
            "installer_user_id": self.installer_user_id,
            "installed_at": self.installed_at,
        }


@dataclass(frozen=True, slots=True)
class StoredInstallation:
    """The parts of an installation that are needed to speak for it. `config` is as stored: its secrets are sealed."""

    id: UUID
    config: dict[str, Any] = field(repr=False)
    revoked: bool


@dataclass(frozen=True, slots=True)
class AppHolder:
    """The installation that has an app id."""

    id: UUID
    agent_id: UUID
    dead: bool


@dataclass(frozen=True, slots=True)
class DroppedMessage:
    """The record of an event that was dropped, and the reason. It never holds the words of the message."""

    id: UUID
    event_type: str
    drop_reason: str
    channel_chat_id: str
    channel_event_id: str
    channel_message_id: str
    received_at: datetime

    def public(self) -> dict[str, Any]:
        """Return the JSON object of the API."""
        return {
            "id": self.id,
            "event_type": self.event_type,
            "drop_reason": self.drop_reason,
            "chat_id": self.channel_chat_id,
            "event_id": self.channel_event_id,
            "message_id": self.channel_message_id,
            "received_at": self.received_at,
        }


@dataclass(frozen=True, slots=True)
class StoredApp:
    """An installation row as the backfill reads it. `config` holds secrets in sealed form only."""

    id: UUID
    workspace_id: UUID
    app_id: str
    config: dict[str, Any] = field(repr=False)


class InstallationStore(Protocol):
    """Installation rows, without their leases. Every method raises StoreUnavailable."""

    async def agent_home(self, agent_id: UUID) -> AgentHome | None: ...

    async def member_by_email(self, workspace_id: UUID, email: str) -> UUID | None: ...

    async def id_of(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> UUID | None: ...

    async def bot_in_place(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> BotInPlace | None:
        """Return the live bot of an agent; None if it has no bot, or a revoked one."""

    async def save(self, draft: InstallationDraft) -> InstallationView | BotInPlace | None:
        """Write the draft as active and announce it, in one transaction; the lease columns stay as they are.

        First removes a dead row that holds the same app id and is not leased any more, with everything that depends on
        it. A row is dead if it was revoked under another agent, or has no agent or workspace.

        Returns the bot in place, with nothing changed, if that bot is another app's and the draft does not replace it.
        Returns None, with nothing changed, if the agent's row has another id than the draft: the row appeared since
        `id_of` was called. Raises StoreConflict if the app id belongs to a row that was not removed.
        """

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None: ...

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        """Revoke an installation; None if there is no such row in the workspace. Safe to repeat."""

    async def find(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView | None:
        """Return an installation, also one whose agent is gone.

        None if it is unknown, or belongs to another workspace than `workspace_id`.
        """

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        """Return installations, oldest first.

        For one workspace, those whose agent is gone are included. For all workspaces, only those that can be served.
        """

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        """Return the dropped events, newest first."""
