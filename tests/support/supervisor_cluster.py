"""Several daemons' supervisors in one trio run: one table, one platform, and a wire for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import trio

from gateway.channel.channel import Channel
from gateway.channel.registry import Registry, Traits
from gateway.concurrency import Signal, Topics
from gateway.core.lease import LeaseSettings
from gateway.keyring import UnreadableSecret
from gateway.supervisor.fleet import Fleet
from gateway.supervisor.lease import Leases
from gateway.supervisor.ports import ActiveInstallation, Serving
from gateway.supervisor.sweep import run_supervisor
from support.lease_memory import FaultyWire, LeaseRow, LeaseTable, MemoryLeaseStore
from support.recording import Recording
from support.seeded import run_seeded
from support.toy.channels import ToyChannel, settled
from support.toy.platform import ToyLink, ToyPlatform

TOY = "toy"
IDENTITY_KEYS = ("app_id", "bot_open_id", "region", "event_mode")
DIAL_SECONDS = (0.01, 0.1)
UNREADABLE = "sealed with another key"


def open_toy_secrets(installation: ActiveInstallation) -> dict[str, Any]:
    """Sealing is a random prefix: what counts is what follows the colon."""
    sealed = installation.config["sealed"]
    if sealed == UNREADABLE:
        raise UnreadableSecret("its key is not on the ring")
    return {**installation.config, "secret": sealed.partition(":")[2]}


@dataclass(slots=True)
class OutboxLog:
    """Which sender runs for which installation; `parking_seconds` is what a sender takes to stop."""

    running: list[tuple[UUID, int]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)

    async def run(self, installation: ActiveInstallation, epoch: int, _channel: Channel) -> None:
        if any(id_ == installation.id for id_, _ in self.running):
            self.breaches.append(f"two senders of {installation.id}")
        self.running.append((installation.id, epoch))
        try:
            await trio.sleep_forever()
        finally:
            self.running.remove((installation.id, epoch))


@dataclass(slots=True, eq=False)
class SupervisorNode:
    """One process. A crash cuts its wire and its sockets in the same instant; nothing of it is heard again."""

    name: str
    wire: FaultyWire
    store: MemoryLeaseStore
    platform: ToyPlatform
    stop: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    fleet: Fleet | None = None
    recorder: Recording = field(default_factory=Recording)

    def crash(self) -> None:
        self.wire.cut = True
        self.platform.unplug(self.name)
        self.scope.cancel()


@dataclass(slots=True, eq=False)
class SupervisorCluster:
    """A table, a platform that watches, and the daemons that were started."""

    rng: Random
    network: trio.Nursery
    settings: LeaseSettings
    table: LeaseTable = field(default_factory=LeaseTable)
    platform: ToyPlatform = field(default_factory=lambda: ToyPlatform(dial_seconds=DIAL_SECONDS))
    outbox: OutboxLog = field(default_factory=OutboxLog)
    daemons: list[SupervisorNode] = field(default_factory=list)

    def new_id(self) -> UUID:
        return UUID(int=self.rng.getrandbits(128))

    def add_bot(self, secret: str = "s1", channel_type: str = TOY) -> UUID:
        installation = ActiveInstallation(
            id=self.new_id(),
            workspace_id=self.new_id(),
            agent_id=self.new_id(),
            channel_type=channel_type,
            config={"app_id": f"app{len(self.table.rows)}", "sealed": f"x:{secret}"},
        )
        self.table.insert(installation)
        return installation.id

    def row(self, installation_id: UUID) -> LeaseRow:
        return self.table.rows[installation_id]

    async def start(self, name: str = "") -> SupervisorNode:
        wire = FaultyWire(self.rng, self.network)
        node = f"{name or 'node'}{len(self.daemons)}"
        daemon = SupervisorNode(node, wire, MemoryLeaseStore(self.table, wire), self.platform)
        self.daemons.append(daemon)
        await self.network.start(self._run, daemon)
        return daemon

    async def _run(
        self, daemon: SupervisorNode, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        wake, releases, registry = Signal(), Topics(), Registry()
        factory = partial(ToyChannel, self.platform, node=daemon.name)
        registry.register(TOY, factory, Traits(identity_keys=IDENTITY_KEYS))

        def deliver(topic: str, payload: str) -> None:
            if topic == "gateway_installation":
                wake.set()
            else:
                releases.ring(payload)

        def listen(topic: str, payload: str) -> None:
            if not daemon.wire.cut:
                self.network.start_soon(self._notify, daemon, deliver, topic, payload)

        serve = partial(
            run_supervisor,
            Leases(daemon.store, self.settings, daemon.recorder),
            Serving(registry, open_toy_secrets, lambda _installation: settled, self.outbox.run),
            node_id=daemon.name,
            wake=wake,
            releases=releases,
            stop=daemon.stop,
            jitter=self.rng.random,
        )
        self.table.listeners.append(listen)
        try:
            with daemon.scope:
                async with trio.open_nursery() as nursery:
                    daemon.fleet = await nursery.start(serve)
                    task_status.started()
        finally:
            self.table.listeners.remove(listen)
            daemon.ended.set()

    async def _notify(
        self, daemon: SupervisorNode, deliver: Callable[[str, str], None], topic: str, payload: str
    ) -> None:
        await daemon.wire.travel()
        deliver(topic, payload)

    def witness(self, event: str, link: ToyLink) -> str:
        """While a link is live its process holds a lease that nobody else could take, by the database's clock."""
        row = self.row(link.installation_id)
        if event == "open" and not (row.token or "").startswith(f"{link.node}-g"):
            return "the lease is somebody else's"
        if (row.token or "").startswith(f"{link.node}-g") and row.expires_at <= self.table.now():
            return "the lease could have been taken already"
        return ""

    def check(self) -> None:
        assert self.platform.breaches == []
        assert self.outbox.breaches == []


@asynccontextmanager
async def open_cluster(seed: int = 0, settings: LeaseSettings | None = None) -> AsyncIterator[SupervisorCluster]:
    """Everything ends with the block. The invariants are checked on the way out of a block that did not fail."""
    rng = Random(seed)
    async with trio.open_nursery() as network:
        cluster = SupervisorCluster(rng, network, settings or LeaseSettings())
        cluster.platform.rng = rng
        cluster.platform.witness = cluster.witness
        yield cluster
        cluster.check()
        network.cancel_scope.cancel()


Scenario = Callable[[SupervisorCluster], Awaitable[None]]


def simulate(seed: int, scenario: Scenario, *, settings: LeaseSettings | None = None) -> SupervisorCluster:
    """Run a scenario under a clock that jumps, with a schedule that the seed decides; the same seed is the same run."""
    clusters = []

    async def main() -> None:
        async with open_cluster(seed, settings) as cluster:
            clusters.append(cluster)
            await scenario(cluster)

    run_seeded(seed, main, seconds_max=100_000)
    return clusters[0]
