"""The store that the supervisor needs, as a Protocol, and the records they exchange."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from gateway.channel.channel import Channel, ConnectionState, InboundHandler, LinkHealth


@dataclass(frozen=True, slots=True)
class Installation:
    """An active installation as the sweep reads it. `config` is as stored: its secrets are sealed.

    `lease_seconds` is how long the recorded lease still runs, by the database clock at the time of reading. None means
    that the lease is free.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    channel_type: str
    config: dict[str, Any] = field(repr=False)
    lease_seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Tenure:
    """One period of holding one lease. It begins with an acquire, and its epoch is never used again."""

    installation_id: UUID
    token: str = field(repr=False)
    epoch: int


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another holder has the lease for `seconds` more by the database clock, or longer if it renews.

    `seconds` is 0 when another process won a close race.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class NotServed:
    """The installation is revoked or gone, so its lease cannot be held."""


Grant = Tenure | HeldElsewhere | NotServed
"""The answer to a request for a lease."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The outcome of one renewal, by installation id.

    An id in neither set is undecided, because its row was locked: ask again.
    """

    confirmed: frozenset[UUID]
    lost: frozenset[UUID]


class LeaseStore(Protocol):
    """Leases and the connection state they guard. Every method is one statement and raises StoreUnavailable.

    When a call fails or is cancelled, it is unknown whether it took effect, and it may still take effect later. So each
    statement names token and epoch, and does nothing when the row has moved on.
    """

    async def list_active(self, channel_types: Sequence[str]) -> list[Installation]:
        """List the active installations of these types whose workspace and agent exist."""

    async def acquire(self, installation_id: UUID, token: str, ttl_seconds: float) -> Grant:
        """Take the lease if the row is active and the lease is free, expired by the database clock, or this token's."""

    async def renew(self, tenures: Sequence[Tenure], ttl_seconds: float) -> Renewal:
        """Extend every lease that is still held by its token and epoch on an active row.

        A row that another transaction has locked does not delay the others.
        """

    async def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> bool:
        """End the tenure and announce it. Does nothing and returns False if the row has another token or epoch.

        `epoch` None accepts any epoch of this token. It is for a token whose acquire was never answered. `last` becomes
        the connection state that is shown until the next holder writes its own.
        """

    async def record(self, node_id: str, reports: Sequence[tuple[Tenure, LinkHealth]]) -> None:
        """Store the connection states that holders report. A report of a tenure that has ended changes nothing."""

    async def mark(self, installation_id: UUID, state: ConnectionState, detail: str) -> bool:
        """Store the state of an installation whose lease is free. False if it is held: the holder's report counts then.

        `revoked` is stored only for a revoked row, and no other state is stored for such a row.
        """


OpenSecrets = Callable[[Installation], dict[str, Any]]
"""Returns the config with its secrets opened. Raises gateway.keyring.UnreadableSecret."""

HandlerFor = Callable[[Installation], InboundHandler]

RunOutbox = Callable[[Installation, int, Channel], Awaitable[None]]
"""Sends the waiting rows of this installation, as the holder of this lease epoch, until cancelled.

On cancellation it finishes the sends in flight or leaves them to the next holder. The cancellation comes before the
lease is released.
"""
