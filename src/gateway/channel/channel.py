"""What a chat platform implements to be served by the gateway."""

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
    """What the platform is told of an inbound message."""

    SETTLED = "settled"
    """Its outcome is committed: acknowledge, never deliver it again."""
    REDELIVER = "redeliver"
    """Nothing is lost if it comes again: another worker holds it, or the store was away."""


InboundHandler = Callable[[InboundMessage], Awaitable[Verdict]]
"""Decides one message. An exception is an infrastructure failure: the adapter asks for redelivery and lives on."""


class ConnectionState(StrEnum):
    """Whether a bot can hear, as stored and shown."""

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
"""A bot that hears counts as degraded for so long after it asked the platform to send some event again."""


@dataclass(slots=True)
class LinkHealth:
    """What is known of a link, updated in place by the channel and stored by the supervisor on change or every 5 s.

    Times are wall-clock UTC for display; they decide nothing. `asked_again_at` is when the platform was last told to
    send an event again, by the monotonic clock.
    """

    state: ConnectionState = ConnectionState.CONNECTING
    code: int = 0
    detail: str = ""
    last_frame_at: datetime | None = None
    last_event_at: datetime | None = None
    pong_ms: float | None = None
    asked_again_at: float | None = None

    def degraded_seconds(self, now: float) -> float:
        """For how much longer the link counts as degraded; 0 when it does not. `now` is of the monotonic clock."""
        if self.asked_again_at is None or self.state not in HEARING:
            return 0.0
        return max(0.0, self.asked_again_at + DEGRADED_SECONDS - now)


class Fence:
    """The end of the right to speak, delivered synchronously.

    Cancellation asks; a fence does not. A channel registers how to tear its link down without awaiting anything, and
    `fall` calls it at the moment the lease ends, even while a shielded call keeps the channel's own tasks alive.
    """

    def __init__(self) -> None:
        self._fallen = False
        self._teardowns: list[Callable[[], None]] = []

    @property
    def fallen(self) -> bool:
        return self._fallen

    def on_fall(self, teardown: Callable[[], None]) -> Callable[[], None]:
        """Register `teardown`; called at once when the fence fell already. Returns a function that takes it back."""
        if self._fallen:
            teardown()
            return lambda: None
        self._teardowns.append(teardown)
        return lambda: self._teardowns.remove(teardown) if teardown in self._teardowns else None

    def fall(self) -> None:
        """Tear everything down, now and for good. What fails spares nothing else: all of it is raised at the end."""
        self._fallen = True
        teardowns, self._teardowns = self._teardowns, []
        failures = []
        for teardown in teardowns:
            try:
                teardown()
            except Exception as error:  # Whatever it is: the other links must still be cut.
                failures.append(error)
        if failures:
            raise ExceptionGroup("a link could not be torn down", failures)


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """What a factory gets. `raw` is the installation's stored config with secrets opened; only the adapter reads it."""

    type: str
    installation_id: UUID
    raw: dict[str, Any] = field(repr=False)
    handler: InboundHandler
    fence: Fence = field(default_factory=Fence)
    health: LinkHealth = field(default_factory=LinkHealth)


class LinkRefused(GatewayError):
    """The platform will not have this bot: bad secret, forbidden, too many connections. Retried slowly, and shown.

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
        """Hold the link until cancelled; `started()` is called once it is established.

        Resource handling: the link is the channel's own and closed on every way out. Cancellation means hand-over: stop
        reading, settle and acknowledge what was received within one second, close. A channel may be run again.
        Raises LinkRefused or LinkLost when the link cannot be made or ends; never returns otherwise.
        """

    async def send(self, message: OutboundMessage) -> SendResult:
        """Send one message. Raises the PlatformError family; safe to repeat with the same idempotency key."""

    @property
    def capabilities(self) -> Capability: ...


@runtime_checkable
class ReadBack(Protocol):
    """What a channel may be able to do besides: find out whether a message was delivered after all."""

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        """The platform's id of the message if it was delivered after `since`; None: it certainly was not.

        `known` are ids of other messages of ours. Raises the PlatformError family; PlatformRefused when that cannot be
        told.
        """


def read_back_of(channel: Channel) -> ReadBack | None:
    """The channel as one that can read back; None when it cannot."""
    return channel if isinstance(channel, ReadBack) else None


@runtime_checkable
class Typing(Protocol):
    """What a channel with `Capability.TYPING_INDICATOR` can do besides. Both calls raise the PlatformError family."""

    async def show_typing(self, message_id: str) -> str:
        """Let a message show that its answer is being worked on; returns the handle to take that away with.

        Safe to repeat: a message shows it once, and a repeat returns the handle of what is there.
        """

    async def hide_typing(self, message_id: str, handle: str) -> None:
        """Take it away. Nothing to complain about when the message itself is gone."""


def typing_of(channel: Channel) -> Typing | None:
    """The channel as one that can show typing; None when it says that it cannot."""
    able = channel.capabilities.has(Capability.TYPING_INDICATOR)
    return channel if able and isinstance(channel, Typing) else None


ChannelFactory = Callable[[ChannelConfig], Channel]
