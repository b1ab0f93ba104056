"""The records of a check-up by an operator: the state of bots and runtimes, waiting work, and recent failures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

OVERDUE_SECONDS = 600.0
"""A task that has waited this long although its runtime is online is reported."""
TROUBLE_SECONDS = 24 * 3600.0
"""Troubles that are older than a day are not counted."""


@dataclass(frozen=True, slots=True)
class Link:
    """The last stored state of a bot's connection.

    `over_seconds` is the time since its lease ran out, None when there never was a lease. `unheard_seconds` is the time
    since the last frame.
    """

    id: UUID
    stored_state: str | None
    node: str
    leased: bool
    over_seconds: float | None
    unheard_seconds: float | None


@dataclass(frozen=True, slots=True)
class RuntimeHealth:
    """A runtime and its agents. Without an `id` it stands for the agents of a workspace that have no runtime.

    `bots` counts those of its agents that people can write to. `waiting` counts the tasks that could be claimed right
    now.
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
        """True if tasks wait for the runtime, or people can write to one of its agents."""
        return self.waiting > 0 or self.bots > 0


@dataclass(frozen=True, slots=True)
class Troubles:
    """Counts of the last day: messages that were refused, messages with an unknown outcome, and failed runs.

    `triggers` is the number of enabled triggers.
    """

    refused: int
    unknown: int
    failed_runs: int
    triggers: int
