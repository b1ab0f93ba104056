"""Whether those who should work are there, and what waits for them: as an operator asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

OVERDUE_SECONDS = 600.0
"""What has been waiting for so long although its runtime is there is worth a word."""


@dataclass(frozen=True, slots=True)
class Link:
    """A bot's link as it was stored last.

    `over_seconds` is how long ago its lease ran out, None when nobody ever held one; `unheard_seconds` how long ago the
    last frame came.
    """

    id: UUID
    stored_state: str | None
    node: str
    leased: bool
    over_seconds: float | None
    unheard_seconds: float | None


@dataclass(frozen=True, slots=True)
class RuntimeHealth:
    """A runtime and its agents; without an id: a workspace's agents that have none.

    `bots` counts those of its agents that people may write to, `waiting` the tasks that might be claimed right now.
    """

    id: UUID | None
    workspace: str
    name: str | None
    last_heartbeat_at: datetime | None
    unheard_seconds: float | None
    online: bool
    waiting: int
    running: int
    oldest_waiting_seconds: float | None
    bots: int
    agents: list[str]

    @property
    def needed(self) -> bool:
        """Whether somebody may be waiting for it."""
        return self.waiting > 0 or self.bots > 0


@dataclass(frozen=True, slots=True)
class Troubles:
    """Of the last day: messages that were refused or may have arrived, runs that failed. And the enabled triggers."""

    refused: int
    unknown: int
    failed_runs: int
    triggers: int
