"""The lease store in memory: same answers as Postgres, on whatever clock the test runs on.

`LeaseTable` is the database, its methods atomic. `MemoryLeaseStore` is one process's way to it, through a `Wire` that
may be slow, lose requests or answers, or deliver a request long after its sender gave up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, TypeVar, cast
from uuid import UUID

import trio

from gateway.channel.channel import ConnectionState, LinkHealth
from gateway.errors import StoreUnavailable
from gateway.supervisor.ports import ActiveInstallation, Grant, HeldElsewhere, NotServed, Renewal, Tenure

T = TypeVar("T")


@dataclass(slots=True)
class LeaseRow:
    installation: ActiveInstallation
    active: bool = True
    orphan: bool = False
    locked: bool = False
    token: str | None = None
    expires_at: float = 0.0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    state: str
    code: int
    detail: str
    node: str
    epoch: int


@dataclass(slots=True)
class LeaseTable:
    """Rows, connection states, and who listens: `listeners` are called with topic and payload, synchronously."""

    rows: dict[UUID, LeaseRow] = field(default_factory=dict)
    connections: dict[UUID, ConnectionRow] = field(default_factory=dict)
    listeners: list[Callable[[str, str], None]] = field(default_factory=list)

    def now(self) -> float:
        return trio.current_time()

    def announce(self, topic: str, installation_id: UUID) -> None:
        for listener in list(self.listeners):
            listener(topic, str(installation_id))

    def insert(self, installation: ActiveInstallation) -> None:
        self.rows[installation.id] = LeaseRow(installation)
        self.announce("gateway_installation", installation.id)

    def configure(self, installation_id: UUID, **changes: Any) -> None:
        row = self.rows[installation_id]
        row.installation = replace(row.installation, config={**row.installation.config, **changes})
        self.announce("gateway_installation", installation_id)

    def activate(self, installation_id: UUID, active: bool) -> None:
        self.rows[installation_id].active = active
        self.announce("gateway_installation", installation_id)

    def held(self, row: LeaseRow) -> bool:
        return row.token is not None and row.expires_at > self.now()

    def list_active(self, channel_types: Sequence[str]) -> list[ActiveInstallation]:
        return [
            replace(row.installation, lease_seconds=row.expires_at - self.now() if self.held(row) else None)
            for row in self.rows.values()
            if row.active and not row.orphan and row.installation.channel_type in channel_types
        ]

    def acquire(self, installation_id: UUID, token: str, ttl_seconds: float) -> Grant:
        row = self.rows.get(installation_id)
        if row is None or not row.active:
            return NotServed()
        if self.held(row) and row.token != token:
            return HeldElsewhere(row.expires_at - self.now())
        row.token, row.expires_at, row.epoch = token, self.now() + ttl_seconds, row.epoch + 1
        return Tenure(installation_id, token, row.epoch)

    def renew(self, tenures: Sequence[Tenure], ttl_seconds: float) -> Renewal:
        mine = {tenure.installation_id for tenure in tenures if self._is_current(tenure)}
        confirmed = {id_ for id_ in mine if not self.rows[id_].locked}
        for id_ in confirmed:
            self.rows[id_].expires_at = self.now() + ttl_seconds
        return Renewal(frozenset(confirmed), frozenset(tenure.installation_id for tenure in tenures) - mine)

    def _is_current(self, tenure: Tenure) -> bool:
        row = self.rows.get(tenure.installation_id)
        return row is not None and row.active and (row.token, row.epoch) == (tenure.token, tenure.epoch)

    def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> bool:
        row = self.rows.get(installation_id)
        if row is None or row.token != token or epoch not in {None, row.epoch}:
            return False
        row.token, row.epoch = None, row.epoch + 1
        state = last.state if row.active else ConnectionState.REVOKED
        self._note(installation_id, ConnectionRow(state.value, last.code, last.detail, "", row.epoch))
        self.announce("gateway_lease", installation_id)
        return True

    def record(self, node_id: str, reports: Sequence[tuple[Tenure, LinkHealth]]) -> None:
        for tenure, health in reports:
            row = self.rows.get(tenure.installation_id)
            if row is not None and (row.token, row.epoch) == (tenure.token, tenure.epoch):
                said = ConnectionRow(health.state.value, health.code, health.detail, node_id, tenure.epoch)
                self._note(tenure.installation_id, said)

    def mark(self, installation_id: UUID, state: ConnectionState, detail: str) -> bool:
        row = self.rows.get(installation_id)
        if row is None or self.held(row) or row.active == (state is ConnectionState.REVOKED):
            return False
        return self._note(installation_id, ConnectionRow(state.value, 0, detail, "", row.epoch))

    def _note(self, installation_id: UUID, said: ConnectionRow) -> bool:
        known = self.connections.get(installation_id)
        if known is not None and known.epoch > said.epoch:
            return False
        self.connections[installation_id] = said
        return True


class Wire:
    """The way between one process and the database. The plain one is perfect."""

    async def call(self, operation: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return operation()


@dataclass(slots=True, eq=False)
class FaultyWire(Wire):
    """Delays every request and answer, and spoils some calls.

    `cut`: requests vanish and never reach the database. `mute`: answers to calls of these names vanish. `late`: calls
    of these names arrive when their caller has given up. `flaky` is the share of calls that go wrong: an error before
    or after the effect, no answer at all, or an effect that comes seconds after the caller has given up.
    """

    rng: Random
    network: trio.Nursery
    flaky: float = 0.0
    cut: bool = False
    mute: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    latency_seconds: tuple[float, float] = (0.001, 0.03)

    async def call(self, operation: Callable[[], T]) -> T:
        if self.cut:
            await trio.sleep_forever()
        name = cast("partial[T]", operation).func.__name__
        if name in self.mute:
            await _never_answer(self, operation)
        if name in self.late:
            await _arrive_late(self, operation)
        fate = self.rng.choice(_FATES) if self.rng.random() < self.flaky else self._answer
        answer: T = await fate(self, operation)
        return answer

    async def travel(self) -> None:
        await trio.sleep(self.rng.uniform(*self.latency_seconds))

    async def _answer(self, _wire: FaultyWire, operation: Callable[[], T]) -> T:
        await self.travel()
        result = operation()
        await self.travel()
        return result


async def _fail_before(wire: FaultyWire, operation: Callable[[], Any]) -> Any:
    await wire.travel()
    raise StoreUnavailable("refused")


async def _fail_after(wire: FaultyWire, operation: Callable[[], Any]) -> Any:
    await wire.travel()
    operation()
    await wire.travel()
    raise StoreUnavailable("the answer was lost")


async def _vanish(wire: FaultyWire, operation: Callable[[], Any]) -> Any:
    await trio.sleep_forever()


async def _never_answer(wire: FaultyWire, operation: Callable[[], Any]) -> Any:
    await wire.travel()
    operation()
    await trio.sleep_forever()


async def _arrive_late(wire: FaultyWire, operation: Callable[[], Any]) -> Any:
    delay = wire.rng.uniform(0.5, 20)
    wire.network.start_soon(_later, delay, operation)
    await trio.sleep_forever()


async def _later(delay: float, operation: Callable[[], Any]) -> None:
    await trio.sleep(delay)
    operation()


_FATES: tuple[Callable[[FaultyWire, Callable[[], Any]], Awaitable[Any]], ...] = (
    _fail_before,
    _fail_after,
    _vanish,
    _never_answer,
    _arrive_late,
)


class MemoryLeaseStore:
    """Implements gateway.supervisor.ports.LeaseStore on a table that several of them share."""

    def __init__(self, table: LeaseTable, wire: Wire | None = None) -> None:
        self.table = table
        self.wire = wire or Wire()
        self.calls: list[str] = []

    async def _call(self, operation: Callable[..., T], *args: Any) -> T:
        self.calls.append(operation.__name__)
        return await self.wire.call(partial(operation, *args))

    async def list_active(self, channel_types: Sequence[str]) -> list[ActiveInstallation]:
        return await self._call(self.table.list_active, list(channel_types))

    async def acquire(self, installation_id: UUID, token: str, ttl_seconds: float) -> Grant:
        return await self._call(self.table.acquire, installation_id, token, ttl_seconds)

    async def renew(self, tenures: Sequence[Tenure], ttl_seconds: float) -> Renewal:
        return await self._call(self.table.renew, list(tenures), ttl_seconds)

    async def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> bool:
        return await self._call(self.table.release, installation_id, token, epoch, replace(last))

    async def record(self, node_id: str, reports: Sequence[tuple[Tenure, LinkHealth]]) -> None:
        copies = [(tenure, replace(health)) for tenure, health in reports]
        return await self._call(self.table.record, node_id, copies)

    async def mark(self, installation_id: UUID, state: ConnectionState, detail: str) -> bool:
        return await self._call(self.table.mark, installation_id, state, detail)
