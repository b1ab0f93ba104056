"""Daemons that take turns at one outbox, each with a wire of its own to the store and to the platform."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import trio

from gateway.channel.capability import Capability
from gateway.channel.channel import Channel
from gateway.channel.message import OutboundMessage, SendResult
from gateway.concurrency import Signal, watch_points
from gateway.errors import StoreUnavailable
from gateway.lark.chat.channel import KEY_SECONDS, LIMITS
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import run_outbox
from gateway.outbound.ports import LeaseEpoch, OutboxRow, SendingContext, TypingRow
from gateway.outbound.sending import FAULTS_MAX
from gateway.outbound.typing import TypingSender
from support.chaotic_platform import ChaoticPlatform, Seen
from support.outbox_memory import INSTALLATION, MemoryOutboxStore, MemoryTypingStore, Stored, StoredSign
from support.seeded import run_seeded

T = TypeVar("T")
OPEN = frozenset({"queued", "sending"})
SETTLED = frozenset({"sent", "failed", "unknown"})
HEALING_SECONDS_MAX = 4 * 3600.0


@dataclass(slots=True, eq=False)
class OutboxNode:
    """One process with the right to speak, or with what it takes for it. Nothing of a dead one is heard again."""

    epoch: int
    wake: Signal = field(default_factory=Signal)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    dead: bool = False

    def kill(self) -> None:
        self.dead = True
        self.scope.cancel()

    async def alive(self) -> None:
        if self.dead:
            await trio.sleep_forever()


_running: ContextVar[OutboxNode | None] = ContextVar("_running", default=None)


class StagedPlatform(Protocol):
    """What a story and its checks want of a platform. What people see is `seen`, in order."""

    breaches: list[str]
    storm: float
    away: bool
    barred: set[str]
    unreadable: set[str]
    said_no: set[str]
    faults: Counter[str]

    @property
    def seen(self) -> Sequence[Seen]: ...

    def with_key(self, key: str) -> Sequence[Seen]: ...

    def channel(self, daemon: OutboxNode) -> Channel: ...


class Chaotic(ChaoticPlatform):
    def channel(self, daemon: OutboxNode) -> Channel:
        return Wired(daemon, self)


P = TypeVar("P", bound=StagedPlatform)


class OutboxCluster(Generic[P]):
    """The store, the platform, and the daemons. `trace` tells one run from another."""

    def __init__(self, rng: Random, network: trio.Nursery, platform: P) -> None:
        self.rng = rng
        self.network = network
        self.store = MemoryOutboxStore()
        self.store.owner = 0
        self.typing = MemoryTypingStore(self.store)
        self.platform = platform
        self.store_storm = 0.0
        self.store_down = False
        self.kill_chance = 0.0
        self.killed_at: list[str] = []
        self.daemons: list[OutboxNode] = []
        self.signs: dict[str, StoredSign] = {}
        self.trace: list[tuple[float, str, str]] = []
        self.breaches: list[str] = []
        self.watched = True
        """Whether everything is checked at every write, and not only at the end."""

    @property
    def rows(self) -> list[Stored]:
        return list(self.store.rows.values())

    @property
    def open_rows(self) -> list[Stored]:
        return [stored for stored in self.rows if stored.status in OPEN]

    # -- daemons

    def take_lease(self) -> OutboxNode:
        """Another process becomes the owner; what the former one does from now on is not its right."""
        self.store.owner += 1
        daemon = OutboxNode(self.store.owner)
        self.daemons.append(daemon)
        self.network.start_soon(self._run, daemon)
        return daemon

    async def _run(self, daemon: OutboxNode) -> None:
        _running.set(daemon)
        lease = LeaseEpoch(INSTALLATION, daemon.epoch)
        channel, governor = self.platform.channel(daemon), Governor(limits=LIMITS)
        context = SendingContext(lease, channel, governor, daemon.wake, KEY_SECONDS)
        with daemon.scope:
            await run_outbox(
                context,
                StoreWire(self, daemon),
                typing_sender=TypingSender(context, TypingWire(self, daemon)),
                random_unit=self.rng.random,
            )

    def at_point(self, name: str) -> None:
        daemon = _running.get()
        if daemon is not None and not daemon.dead and self.rng.random() < self.kill_chance:
            self.killed_at.append(name)
            daemon.kill()

    # -- work

    def write(self, chat: str, *texts: str) -> None:
        """An answer of so many parts, written in one transaction."""
        for text in texts:
            self.store.add(text, chat)
        self.ring()

    def begin(self, message_id: str) -> None:
        self.signs[message_id] = self.typing.begin(message_id)
        self.ring()

    def end(self, message_id: str, answer: str) -> None:
        self.typing.end(self.signs.pop(message_id), answer)
        self.ring()

    def ring(self) -> None:
        for daemon in self.daemons:
            daemon.wake.set()

    # -- what must hold

    def check(self) -> None:
        """At any moment."""
        breaches = [*self.breaches, *self.platform.breaches]
        assert not breaches, "\n".join(breaches[:5])
        seq = {stored.row.uuid: stored.seq for stored in self.rows}
        newest: dict[str, int] = {}
        for seen in self.platform.seen:
            assert seq[seen.key] > newest.get(seen.chat, -1), f"{seen} overtook another"
            newest[seen.chat] = seq[seen.key]
        for stored in self.rows:
            self._check_row(stored)

    def watch(self) -> None:
        """As `check`, where nobody would hear of a failure before the next one."""
        try:
            self.check()
        except AssertionError as error:
            self.breaches.append(str(error))

    def _check_row(self, stored: Stored) -> None:
        seen = self.platform.with_key(stored.row.uuid)
        if stored.status == "sent":
            assert len(seen) == 1, f"{stored} is seen {len(seen)} times"
            assert seen[0].message_id == stored.channel_message_id
        if stored.status == "failed":
            assert seen == [], f"{stored} is seen, and shown as failed"
            given_up = self.platform.faults[stored.row.uuid] > 0 and stored.row.attempts >= FAULTS_MAX
            assert given_up or stored.row.uuid in self.platform.said_no, f"{stored} failed without being refused"
        if stored.status == "unknown":
            assert stored.error
            assert stored.row.recipient_id in self.platform.unreadable, f"{stored} could have been found out"

    def check_end(self) -> None:
        self.check()
        assert {stored.status for stored in self.rows} <= SETTLED
        assert {sign.status for sign in self.typing.signs.values()} <= {"wanted", "shown", "gone", "failed"}


@dataclass(slots=True)
class StoreWire:
    """Implements OutboxStore for one daemon: statements take time, and fail before or after they took effect."""

    cluster: OutboxCluster[Any]
    daemon: OutboxNode

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[str], rows_max: int) -> list[OutboxRow]:
        rows = await self._pass(lambda: self.cluster.store.take_due(lease, busy=busy, rows_max=rows_max))
        assert len(rows) <= rows_max
        return rows

    async def seconds_to_next(self, lease: LeaseEpoch, *, busy: Collection[str]) -> float | None:
        return await self._pass(lambda: self.cluster.store.seconds_to_next(lease, busy=busy))

    async def mark_sent(self, lease: LeaseEpoch, row_id: UUID, channel_message_id: str) -> bool:
        return await self._settle(row_id, lambda: self.cluster.store.mark_sent(lease, row_id, channel_message_id))

    async def mark_failed(
        self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str, *, told: Mapping[str, str] | None = None
    ) -> bool:
        return await self._settle(
            row_id, lambda: self.cluster.store.mark_failed(lease, row_id, code, reason, told=told)
        )

    async def mark_unknown(self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str) -> bool:
        return await self._settle(row_id, lambda: self.cluster.store.mark_unknown(lease, row_id, code, reason))

    async def clear_doubt(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await self._settle(row_id, lambda: self.cluster.store.clear_doubt(lease, row_id))

    async def list_sent(self, row: OutboxRow) -> list[str]:
        return await self._pass(lambda: self.cluster.store.list_sent(row))

    async def postpone(
        self, lease: LeaseEpoch, row: OutboxRow, delay_seconds: float, code: int, reason: str, *, doubtful: bool
    ) -> bool:
        return await self._settle(
            row.id,
            lambda: self.cluster.store.postpone(lease, row, delay_seconds, code, reason, doubtful=doubtful),
        )

    async def _settle(self, row_id: UUID, write: Callable[[], Awaitable[bool]]) -> bool:
        """A holder whose row was taken over writes nothing."""

        async def fenced() -> bool:
            stored = self.cluster.store.rows[row_id]
            written = await write()
            if written and stored.epoch > self.daemon.epoch:
                self.cluster.breaches.append(f"a former holder wrote {stored}")
            self.cluster.trace.append((trio.current_time(), stored.row.content, stored.status))
            if self.cluster.watched:
                self.cluster.watch()
            return written

        return await self._pass(fenced)

    async def _pass(self, statement: Callable[[], Awaitable[T]]) -> T:
        return await pass_statement(self.cluster, self.daemon, statement)


async def pass_statement(cluster: OutboxCluster[Any], daemon: OutboxNode, statement: Callable[[], Awaitable[T]]) -> T:
    await trio.sleep(cluster.rng.choice([0.001, 0.005]))
    await daemon.alive()
    if cluster.store_down or cluster.rng.random() < cluster.store_storm:
        raise StoreUnavailable("no connection")
    result = await statement()
    await daemon.alive()
    if cluster.rng.random() < cluster.store_storm:
        raise StoreUnavailable("the connection broke after the commit")
    return result


@dataclass(slots=True)
class TypingWire:
    """Implements TypingStore for one daemon."""

    cluster: OutboxCluster[Any]
    daemon: OutboxNode

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[UUID], rows_max: int) -> list[TypingRow]:
        return await self._pass(lambda: self.cluster.typing.take_due(lease, busy=busy, rows_max=rows_max))

    async def mark_shown(self, lease: LeaseEpoch, row_id: UUID, reaction_id: str) -> bool:
        return await self._pass(lambda: self.cluster.typing.mark_shown(lease, row_id, reaction_id))

    async def mark_gone(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await self._pass(lambda: self.cluster.typing.mark_gone(lease, row_id))

    async def mark_failed(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await self._pass(lambda: self.cluster.typing.mark_failed(lease, row_id))

    async def postpone(self, lease: LeaseEpoch, row: TypingRow, delay_seconds: float) -> bool:
        return await self._pass(lambda: self.cluster.typing.postpone(lease, row, delay_seconds))

    async def _pass(self, statement: Callable[[], Awaitable[T]]) -> T:
        return await pass_statement(self.cluster, self.daemon, statement)


@dataclass(slots=True)
class Wired:
    """Implements Channel, ReadBack and Typing for one daemon."""

    daemon: OutboxNode
    platform: ChaoticPlatform
    type: str = "chaotic"
    capabilities: Capability = Capability.TEXT | Capability.TYPING_INDICATOR

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def send(self, message: OutboundMessage) -> SendResult:
        await self.daemon.alive()
        return await self.platform.send(self.daemon.epoch, message)

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        await self.daemon.alive()
        return await self.platform.find(message, since, known)

    async def show_typing(self, message_id: str) -> str:
        await self.daemon.alive()
        return await self.platform.show(message_id)

    async def hide_typing(self, message_id: str, handle: str) -> None:
        await self.daemon.alive()
        await self.platform.hide(message_id)


def simulate(
    seed: int, story: Callable[[OutboxCluster[P]], Awaitable[None]], platform_of: Callable[[Random, trio.Nursery], P]
) -> OutboxCluster[P]:
    """Let a story happen, then heal everything and wait until nothing is open; the same seed is the same run."""
    clusters: list[OutboxCluster[P]] = []

    async def main() -> None:
        async with trio.open_nursery() as network:
            rng = Random(seed)
            cluster = OutboxCluster(rng, network, platform_of(rng, network))
            clusters.append(cluster)
            watch_points(cluster.at_point)
            await story(cluster)
            await _heal(cluster)
            network.cancel_scope.cancel()

    try:
        run_seeded(seed, main, seconds_max=7 * 24 * 3600.0)
    finally:
        watch_points(None)
    return clusters[0]


async def _heal(cluster: OutboxCluster[Any]) -> None:
    platform = cluster.platform
    platform.storm, platform.away, cluster.store_storm, cluster.store_down, cluster.kill_chance = (
        0.0,
        False,
        0.0,
        False,
        0.0,
    )
    platform.barred.clear()
    for daemon in cluster.daemons:
        daemon.scope.cancel()
    await trio.sleep(1)
    cluster.take_lease()
    for message_id in list(cluster.signs):
        cluster.end(message_id, "the last one")
    with trio.fail_after(HEALING_SECONDS_MAX):
        while cluster.open_rows or any(sign.status == "unwanted" for sign in cluster.typing.signs.values()):
            await trio.sleep(10)
    await trio.sleep(60)  # what was late on the wire arrives
    cluster.check_end()
