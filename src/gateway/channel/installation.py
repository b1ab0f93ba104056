"""A bot that was connected to an agent: the row, and what its store can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

DEGRADED = "degraded: some events were answered 500 within the last minute, and the platform sends them again"


@dataclass(frozen=True, slots=True)
class AgentHome:
    """Where an agent lives. `owner_id` is the workspace's first owner, None when it has none left."""

    workspace_id: UUID
    archived: bool
    owner_id: UUID | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class InstallationDraft:
    """What an installation is to become. `config` holds secrets in sealed form only.

    `replaces`: it may take the place of another app's live bot.
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
    """The live bot of an agent: its app, and how many linked accounts and conversations hang on it."""

    id: UUID
    app_id: str
    accounts: int
    conversations: int


@dataclass(frozen=True, slots=True)
class InstallationView:
    """What may be shown of an installation and its link: no secret, no lease token.

    `state` is what is true now: a link whose holder let the lease run out is `standby`, whatever was stored last.
    `degraded`: it hears, and asked the platform within the last minute to send some event again.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    channel_type: str
    app_id: str
    region: str
    event_mode: str
    bot_open_id: str
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

    @property
    def shown_state(self) -> str:
        """The state in the words of a list."""
        return f"{self.state} (degraded)" if self.degraded else self.state

    @property
    def shown_detail(self) -> str:
        return self.detail or (DEGRADED if self.degraded else "")

    def public(self) -> dict[str, Any]:
        """The JSON object of the API and of `--json`."""
        connection = ("state", "degraded", "code", "last_frame_at", "last_event_at", "pong_ms")
        top = ("id", "workspace_id", "agent_id", "app_id", "region", "event_mode", "status", "bot_open_id")
        return {
            **{name: getattr(self, name) for name in top},
            "connection": {name: getattr(self, name) for name in connection} | {"detail": self.shown_detail},
            "installer_user_id": self.installer_user_id,
            "installed_at": self.installed_at,
        }


@dataclass(frozen=True, slots=True)
class StoredInstallation:
    """What speaking for an installation takes. `config` is as stored: its secrets are sealed."""

    id: UUID
    config: dict[str, Any] = field(repr=False)
    revoked: bool


@dataclass(frozen=True, slots=True)
class AppHolder:
    """The installation that has an app id. `leased`: a process may still hold its link."""

    id: UUID
    agent_id: UUID
    dead: bool
    leased: bool


@dataclass(frozen=True, slots=True)
class DroppedMessage:
    """That something was not taken in, and why; never what it said."""

    id: UUID
    event_type: str
    drop_reason: str
    channel_chat_id: str
    channel_event_id: str
    channel_message_id: str
    received_at: datetime

    def public(self) -> dict[str, Any]:
        """The JSON object of the API."""
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
    """A row as a job in the background finds it. `config` holds secrets in sealed form only."""

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
        """None when the agent has no bot, or a revoked one."""

    async def save(self, draft: InstallationDraft) -> InstallationView | BotInPlace | None:
        """Write the draft as active and announce it, in one transaction; the lease columns stay as they are.

        A dead row that holds the same app id (revoked under another agent, or without agent or workspace), and is not
        leased any more, goes first with everything that hangs on it. The bot in place, with nothing changed, when it is
        another app's and the draft does not replace. None, with nothing changed, when the agent's row has another id
        than the draft's: it appeared since `id_of`. Raises StoreConflict when the app id belongs to a row that stays.
        """

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None: ...

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        """None when there is no such row in the workspace. Revoking twice is revoking once."""

    async def find(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView | None:
        """Also one whose agent is gone. None for another workspace's than the one named."""

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        """Oldest first. Of one workspace, also those whose agent is gone; of all, only what can be served."""

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        """What was not taken in, newest first."""


class BackfillStore(Protocol):
    """What older versions did not store. Every method raises StoreUnavailable."""

    async def unlabelled(self, channel_type: str) -> Sequence[StoredApp]:
        """Rows whose region is the default, or none."""

    async def without_union_id(self, channel_type: str) -> Sequence[StoredApp]:
        """Active rows that lack it."""

    async def set_key(self, app: StoredApp, key: str, value: str, *, default: str = "") -> bool:
        """Set one key of a row's config, if the row still belongs to that app and the key is still at its default."""
