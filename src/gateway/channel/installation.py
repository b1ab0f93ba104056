"""A bot that was connected to an agent: the row, and what its store can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class AgentHome:
    """Where an agent lives. `owner_id` is the workspace's first owner, None when it has none left."""

    workspace_id: UUID
    archived: bool
    owner_id: UUID | None


@dataclass(frozen=True, slots=True)
class InstallationDraft:
    """What an installation is to become. `config` holds secrets in sealed form only."""

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    channel_type: str
    installer_user_id: UUID
    config: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class InstallationView:
    """What may be shown of an installation and its link: no secret, no lease token.

    `state` is what is true now: a link whose holder let the lease run out is `standby`, whatever was stored last.
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

    def public(self) -> dict[str, Any]:
        """The JSON object of the API and of `--json`."""
        connection = ("state", "code", "detail", "last_frame_at", "last_event_at", "pong_ms")
        top = ("id", "workspace_id", "agent_id", "app_id", "region", "event_mode", "status", "bot_open_id")
        return {
            **{name: getattr(self, name) for name in top},
            "connection": {name: getattr(self, name) for name in connection},
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


class InstallationStore(Protocol):
    """Installation rows, without their leases. Every method raises StoreUnavailable."""

    async def agent_home(self, agent_id: UUID) -> AgentHome | None: ...

    async def member_by_email(self, workspace_id: UUID, email: str) -> UUID | None: ...

    async def id_of(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> UUID | None: ...

    async def save(self, draft: InstallationDraft) -> InstallationView | None:
        """Write the draft as active, in one transaction; the lease columns stay as they are.

        A dead row that holds the same app id (revoked under another agent, or without agent or workspace), and is not
        leased any more, goes first with everything that hangs on it. None when the agent's row has another id than
        the draft's: it appeared since `id_of`. Raises StoreConflict when the app id belongs to a row that stays.
        """

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None: ...

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        """None when there is no such row in the workspace. Revoking twice is revoking once."""

    async def find(self, installation_id: UUID) -> InstallationView | None: ...

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        """Oldest first, of one workspace or of all; without rows whose agent or workspace is gone."""
