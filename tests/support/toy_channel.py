"""A chat platform in a few lines, which watches that nobody ever has two live links of one bot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import trio

from gateway.channel.capability import Capability
from gateway.channel.channel import ChannelConfig, ChannelFactory, LinkLost
from gateway.channel.message import OutboundMessage, SendResult
from gateway.concurrency import finishing

TOY = "toy"


@dataclass(slots=True, eq=False)
class ToyLink:
    """One live link. `secret` is what it logged in with; `ending` carries what the platform ends it with."""

    platform: ToyPlatform
    installation_id: UUID
    node: str
    secret: str
    opened_at: float
    closed_at: float | None = None
    dropped: trio.Event = field(default_factory=trio.Event)
    ending: Exception | None = None

    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = trio.current_time()
            self.platform.note("close", self)
            self.platform.live[self.installation_id].remove(self)

    def drop(self, error: Exception) -> None:
        self.ending = error
        self.dropped.set()


@dataclass(slots=True)
class ToyPlatform:
    """Where links are. Breaches of the invariants are collected: raised in a channel, a supervisor would survive them.

    `witness` is asked at every open and close and returns what is wrong in words, or "". `trace` is for comparing runs.
    """

    rng: Random = field(default_factory=lambda: Random(0))
    dial_seconds: tuple[float, float] = (0.01, 0.1)
    settle_seconds: tuple[float, float] = (0.0, 0.0)
    shield_seconds: float = 1.0
    judge: Callable[[UUID, dict[str, Any]], Exception | None] = lambda _id, _config: None
    witness: Callable[[str, ToyLink], str] = lambda _event, _link: ""
    live: dict[UUID, list[ToyLink]] = field(default_factory=lambda: defaultdict(list))
    links: list[ToyLink] = field(default_factory=list)
    attempts: list[tuple[float, UUID]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    trace: list[tuple[float, str, str, UUID]] = field(default_factory=list)
    _moved: trio.Event = field(default_factory=trio.Event)

    def factory(self, node: str) -> ChannelFactory:
        return lambda config: ToyChannel(self, node, config)

    def open(self, installation_id: UUID, node: str, secret: str) -> ToyLink:
        link = ToyLink(self, installation_id, node, secret, trio.current_time())
        if others := self.live[installation_id]:
            self.breaches.append(f"{node} opened a second link at {link.opened_at}, beside {[o.node for o in others]}")
        self.live[installation_id].append(link)
        self.links.append(link)
        self.note("open", link)
        return link

    def note(self, event: str, link: ToyLink) -> None:
        self.trace.append((trio.current_time(), event, link.node, link.installation_id))
        if wrong := self.witness(event, link):
            self.breaches.append(f"at {trio.current_time()}, {event} by {link.node}: {wrong}")
        self._moved.set()
        self._moved = trio.Event()

    def sole(self, installation_id: UUID) -> ToyLink | None:
        return next(iter(self.live[installation_id]), None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a link opened or closed and `condition` holds."""
        while not condition():
            await self._moved.wait()

    async def until_live(self, installation_id: UUID, *, on: str = "", since: float = -1.0) -> ToyLink:
        def is_live() -> bool:
            link = self.sole(installation_id)
            return link is not None and link.opened_at > since and on in {"", link.node}

        await self.until(is_live)
        link = self.sole(installation_id)
        assert link is not None
        return link

    def unplug(self, node: str) -> None:
        """A process died: the kernel closes its sockets."""
        for links in list(self.live.values()):
            for link in [link for link in links if link.node == node]:
                link.close()


class ToyChannel:
    """Dials, holds, and takes its time to settle when it is cancelled, as a real one does."""

    type = TOY
    capabilities = Capability.TEXT

    def __init__(self, platform: ToyPlatform, node: str, config: ChannelConfig) -> None:
        self._platform = platform
        self._node = node
        self._config = config

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        platform, config = self._platform, self._config
        platform.attempts.append((trio.current_time(), config.installation_id))
        await trio.sleep(platform.rng.uniform(*platform.dial_seconds))
        if (refusal := platform.judge(config.installation_id, config.raw)) is not None:
            raise refusal
        link = platform.open(config.installation_id, self._node, config.raw["secret"])
        keep = config.fence.on_fall(link.close)
        try:
            task_status.started()
            await link.dropped.wait()
            raise link.ending or LinkLost("dropped")
        finally:
            with finishing(platform.shield_seconds):
                await trio.sleep(platform.rng.uniform(*platform.settle_seconds))
            link.close()
            keep()

    async def send(self, message: OutboundMessage) -> SendResult:
        await trio.lowlevel.checkpoint()
        return SendResult("m")
