"""What the supervisor needs from a store and from whoever watches it, and the records they exchange."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from gateway.channel.channel import Channel, ConnectionState, InboundHandler, LinkHealth


@dataclass(frozen=True, slots=True)
class Installation:
    """An active installation as the sweep reads it. `config` is as stored: its secrets are sealed.

    `lease_seconds` is how long, by the database clock at that moment, the recorded lease still runs; None when nobody
    holds one.
    """

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    channel_type: str
    config: dict[str, Any] = field(repr=False)
    lease_seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Tenure:
    """One period of holding one lease: it begins with an acquire, and its epoch is never used again."""

    installation_id: UUID
    token: str = field(repr=False)
    epoch: int


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Somebody else's, for `seconds` more by the database clock unless it is renewed. 0 when that was a close race."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NotServed:
    """The installation is revoked or gone: nobody may hold it."""


Grant = Tenure | HeldElsewhere | NotServed
"""The answer to a request for a lease."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of the leases of one renewal. An id in neither set is unknown: its row was locked. Ask again."""

    confirmed: frozenset[UUID]
    lost: frozenset[UUID]


class LeaseStore(Protocol):
    """Leases and the connection state they guard. Every method is one statement and raises StoreUnavailable.

    When a call fails or is cancelled, whether it took effect is unknown, and it may still take effect later. That is
    why each of them names token and epoch, and does nothing when the row has moved on.
    """

    async def list_active(self, channel_types: Sequence[str]) -> list[Installation]:
        """Active installations of these types whose workspace and agent exist."""

    async def acquire(self, installation_id: UUID, token: str, ttl_seconds: float) -> Grant:
        """Take the lease if the row is active and the lease is free, expired by the database clock, or this token's."""

    async def renew(self, tenures: Sequence[Tenure], ttl_seconds: float) -> Renewal:
        """Extend every lease that is still held by its token and epoch on an active row.

        A row that somebody has locked does not hold up the others.
        """

    async def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> bool:
        """End the tenure and announce it; False, and nothing done, when the row is not this token's and epoch's.

        `epoch` None stands for whichever this token has, for a token whose acquire was never answered. `last` becomes
        the connection state that is shown until the next holder writes its own.
        """

    async def record(self, node_id: str, reports: Sequence[tuple[Tenure, LinkHealth]]) -> None:
        """Store what holders know of their links. A tenure that has ended changes nothing."""

    async def mark(self, installation_id: UUID, state: ConnectionState, detail: str) -> bool:
        """Store the state of an installation that nobody holds; False when somebody does, whose word counts then.

        `revoked` is stored only for a revoked row, and nothing else is stored for one.
        """


OpenSecrets = Callable[[Installation], dict[str, Any]]
"""The config with its secrets opened. Raises gateway.keyring.UnreadableSecret."""

HandlerFor = Callable[[Installation], InboundHandler]

RunOutbox = Callable[[Installation, int, Channel], Awaitable[None]]
"""Send what waits for this installation, as the holder of this lease epoch, until cancelled.

Cancellation means: finish or park the send in flight. It comes before the lease is released.
"""


class Observer(Protocol):
    """Told what happens, for metrics. Must not raise or wait; vocabularies are small and closed."""

    def lease_operation(self, operation: str, outcome: str) -> None:
        """`acquire`, `renew`, `release` ended `ok`, `held`, `lost` or `error`; renewals count once per lease."""

    def owners(self, count: int) -> None:
        """How many leases this process holds now."""

    def renewed(self) -> None:
        """The database confirmed a renewal just now."""

    def took_over(self, seconds: float) -> None:
        """A lease of somebody else's became ours, so long after it was free to take."""

    def unexpected_error(self, unit: str) -> None:
        """An exception nobody planned for ended one unit of work: `installation` or `sweep`."""


class Unobserved:
    """The observer for when nobody watches."""

    def lease_operation(self, operation: str, outcome: str) -> None: ...

    def owners(self, count: int) -> None: ...

    def renewed(self) -> None: ...

    def took_over(self, seconds: float) -> None: ...

    def unexpected_error(self, unit: str) -> None: ...
