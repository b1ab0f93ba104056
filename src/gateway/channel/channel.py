"""Interfaces that a chat platform implements to be served by the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

import trio

from gateway.channel.capability import Capability
from gateway.channel.message import InboundMessage, OutboundMessage, SendResult
from gateway.errors import GatewayError


class Verdict(Enum):
    """The answer to the platform about an inbound message."""

    SETTLED = "settled"
    """The outcome of the message is committed: acknowledge it, so that it is never delivered again."""
    REDELIVER = "redeliver"
    """The message has to be delivered again: another worker holds it, or the store was unavailable."""


InboundHandler = Callable[[InboundMessage], Awaitable[Verdict]]
"""Decides one message. An exception is an infrastructure failure: the adapter asks for redelivery and goes on."""


class ConnectionState(StrEnum):
    """The state of a bot's link, as stored and shown; `HEARING` are the states in which events arrive."""

    CONNECTING = "connecting"
    LIVE = "live"
    DEAF = "deaf"
    REFUSED = "refused"
    STANDBY = "standby"
    HTTP = "http"
    UNREADABLE_SECRET = "unreadable_secret"  # noqa: S105
    REVOKED = "revoked"


HEARING = frozenset({ConnectionState.LIVE, ConnectionState.HTTP})
DEGRADED_SECONDS = 60.0
"""A bot that receives events counts as degraded for this long after it asked the platform to send one again."""


@dataclass(slots=True)
class LinkHealth:
    """Observations about a link, updated in place by the channel. The supervisor stores them on change or every 5 s.

    Times are wall-clock UTC, for display only. The exception is `asked_again_at`: it is the time, by the monotonic
    clock, at which the platform was last told to send an event again.
    """

    state: ConnectionState = ConnectionState.CONNECTING
    code: int = 0
    detail: str = ""
    last_frame_at: datetime | None = None
    last_event_at: datetime | None = None
    pong_ms: float | None = None
    asked_again_at: float | None = None

    def degraded_seconds(self, now: float) -> float:
        """Return for how many more seconds the link counts as degraded; 0 if it does not.

        `now` is a time of the monotonic clock.
        """
        if self.asked_again_at is None or self.state not in HEARING:
            return 0.0
        return max(0.0, self.asked_again_at + DEGRADED_SECONDS - now)


class Fence:
    """Cuts a channel's link synchronously when the lease ends, and with it the right to speak for the bot.

    Cancellation takes effect only at a checkpoint outside a shield; a fence takes effect at once. A channel registers a
    function that tears its link down without awaiting anything. `fall` calls that function at the moment the lease
    ends, even while a shielded call keeps the channel's own tasks alive.
    """

    def __init__(self) -> None:
        self._fallen = False
        self._teardowns: list[Callable[[], None]] = []

    @property
    def fallen(self) -> bool:
        return self._fallen

    def on_fall(self, teardown: Callable[[], None]) -> Callable[[], None]:
        """Register `teardown`, or call it at once if the fence has fallen. Return a function that unregisters it."""
        if self._fallen:
            teardown()
            return lambda: None
        self._teardowns.append(teardown)
        return lambda: self._teardowns.remove(teardown) if teardown in self._teardowns else None

    def fall(self) -> None:
        """Call every registered teardown, now and for good.

        A teardown that raises does not stop the others. Raises all their exceptions as a group at the end.
        """
        self._fallen = True
        teardowns, self._teardowns = self._teardowns, []
        failures = []
        for teardown in teardowns:
            try:
                teardown()
            except Exception as error:  # Of any kind: the other teardowns must still run.
                failures.append(error)
        if failures:
            raise ExceptionGroup("a link could not be torn down", failures)


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """The arguments of a factory. `raw` is the stored config of the installation with its secrets opened.

    Only the adapter reads `raw`.
    """

    type: str
    installation_id: UUID
    raw: dict[str, Any] = field(repr=False)
    handler: InboundHandler
    fence: Fence = field(default_factory=Fence)
    health: LinkHealth = field(default_factory=LinkHealth)


class LinkRefused(GatewayError):
    """The platform rejects this bot: bad secret, forbidden, too many connections. Retried slowly, and shown.

    `code` and `reason` are the platform's own.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the platform refused the connection ({code}): {reason}")
        self.code = code
        self.reason = reason


class LinkLost(GatewayError):
    """The link ended, or never came up, for a reason that may pass. Retried with back-off.

    `deaf` tells a link that went silent from one that was closed or could not be made.
    """

    def __init__(self, reason: str, *, deaf: bool = False) -> None:
        super().__init__(reason)
        self.deaf = deaf


class Channel(Protocol):
    """One bot on one platform."""

    @property
    def type(self) -> str:
        """The platform's slug: stored in the database, and the registry's key."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the link until cancelled; call `started()` once it is established.

        Resource handling: the channel owns the link and closes it on every way out. Cancellation means hand-over: the
        channel stops reading, settles and acknowledges what it received within one second, and closes. A channel may be
        run again. Raises LinkRefused or LinkLost when the link cannot be made or ends. Never returns.
        """

    async def send(self, message: OutboundMessage) -> SendResult:
        """Send one message. Raises the PlatformError family; safe to repeat with the same idempotency key."""

    @property
    def capabilities(self) -> Capability: ...


@runtime_checkable
class ReadBack(Protocol):
    """An optional ability of a channel: to find out whether a message in doubt was delivered."""

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        """Return the platform's id of the message if it was delivered after `since`; None if it certainly was not.

        `known` are ids of other messages that the bot sent. Raises the PlatformError family; PlatformRefused means that
        the question cannot be answered.
        """


def read_back_of(channel: Channel) -> ReadBack | None:
    """Return the channel as a `ReadBack`; None if it does not implement it."""
    return channel if isinstance(channel, ReadBack) else None


@runtime_checkable
class Typing(Protocol):
    """The additional calls of a channel with `Capability.TYPING_INDICATOR`. Both raise the PlatformError family."""

    async def show_typing(self, message_id: str) -> str:
        """Show on a message that its answer is being worked on. Return the handle for `hide_typing`.

        Safe to repeat: a message shows the sign once, and a repeat returns the handle of the sign that is there.
        """

    async def hide_typing(self, message_id: str, handle: str) -> None:
        """Remove the sign. Raises nothing if the message itself is gone."""


def typing_of(channel: Channel) -> Typing | None:
    """Return the channel as a `Typing`; None if its capabilities lack the typing indicator."""
    able = channel.capabilities.has(Capability.TYPING_INDICATOR)
    return channel if able and isinstance(channel, Typing) else None


ChannelFactory = Callable[[ChannelConfig], Channel]
