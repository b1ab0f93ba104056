"""A platform that honours idempotency keys, as seen by the outbox, and a store in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import trio

from gateway.channel.capability import Capability
from gateway.channel.message import OutboundMessage, SendResult
from gateway.concurrency import Signal
from gateway.errors import StoreUnavailable
from gateway.lark.chat.channel import KEY_SECONDS, LIMITS
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import STORED, run_outbox
from gateway.outbound.ports import Compose, LeaseEpoch, OutboxRow, OutboxStore, SendingContext, TypingStore
from gateway.outbound.typing import TypingSender
from gateway.recorder import SILENT, Recorder

INSTALLATION = UUID(int=7)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""What the wall clock says when trio's says 0."""


@dataclass
class Toy:
    """The platform. What a person sees is `visible`; `calls` has every call, `trouble` what a text provokes."""

    visible: list[tuple[str, str]] = field(default_factory=list)
    calls: list[OutboundMessage] = field(default_factory=list)
    call_times: list[float] = field(default_factory=list)
    before: dict[str, list[Callable[[], Awaitable[None]]]] = field(default_factory=lambda: defaultdict(list))
    after: dict[str, list[Callable[[], Awaitable[None]]]] = field(default_factory=lambda: defaultdict(list))
    in_flight: int = 0
    in_flight_max: int = 0
    _keys: dict[str, str] = field(default_factory=dict)

    def texts(self, chat_id: str) -> list[str]:
        return [text for chat, text in self.visible if chat == chat_id]

    def channel(self) -> ToyChannel:
        return ToyChannel(self)

    async def deliver(self, message: OutboundMessage) -> SendResult:
        self.calls.append(message)
        self.call_times.append(trio.current_time())
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        try:
            await self._trouble(self.before, message.text)
            if message.idempotency_key not in self._keys:
                self._keys[message.idempotency_key] = f"om_{len(self._keys)}"
                self.visible.append((message.chat_id or message.user_id, message.text))
            await self._trouble(self.after, message.text)
        finally:
            self.in_flight -= 1
        return SendResult(self._keys[message.idempotency_key])

    async def _trouble(self, planned: dict[str, list[Callable[[], Awaitable[None]]]], text: str) -> None:
        await trio.lowlevel.checkpoint()
        if planned[text]:
            await planned[text].pop(0)()


@dataclass
class ReadableToy(Toy):
    """A platform that forgets keys after an hour, and whose chats can be read; `reading` is what that provokes."""

    reading: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    _said_at: dict[str, float] = field(default_factory=dict)

    def channel(self) -> ToyChannel:
        return ReadableToyChannel(self)

    async def deliver(self, message: OutboundMessage) -> SendResult:
        key, now = message.idempotency_key, trio.current_time()
        if now - self._said_at.get(key, now) > 3600:
            del self._keys[key]
        visible = len(self.visible)
        try:
            return await super().deliver(message)
        finally:
            if len(self.visible) > visible:
                self._said_at[key] = now

    async def find(self, message: OutboundMessage) -> str | None:
        self.reads.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.reading:
            await self.reading.pop(0)()
        return self._keys.get(message.idempotency_key)


@dataclass
class ToyChannel:
    """Implements gateway.channel.Channel, as far as the outbox uses it."""

    platform: Toy
    type: str = "toy"
    capabilities: Capability = Capability.TEXT

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def send(self, message: OutboundMessage) -> SendResult:
        return await self.platform.deliver(message)


@dataclass
class ReadableToyChannel(ToyChannel):
    """Implements ReadBack as well."""

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        assert isinstance(self.platform, ReadableToy)
        found = await self.platform.find(message)
        assert found is None or found not in known
        return found


def raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def raise_it() -> None:
        raise error

    return raise_it


def sleeping(seconds: float) -> Callable[[], Awaitable[None]]:
    async def sleep() -> None:
        await trio.sleep(seconds)

    return sleep


@asynccontextmanager
async def sending(
    store: OutboxStore,
    platform: Toy,
    *,
    installation_id: UUID = INSTALLATION,
    epoch: int = 1,
    concurrency: int = 8,
    composers: Mapping[str, Compose] = STORED,
    typing: TypingStore | None = None,
    key_seconds: float = KEY_SECONDS,
    recorder: Recorder = SILENT,
) -> AsyncIterator[Signal]:
    """An outbox at work, with typing beside it where there are signs to show; cancelled when the block ends."""
    wake = Signal()
    channel, governor, lease = platform.channel(), Governor(recorder, limits=LIMITS), LeaseEpoch(installation_id, epoch)
    context = SendingContext(lease, channel, governor, wake, key_seconds)
    typing_sender = None if typing is None else TypingSender(context, typing, recorder)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await run_outbox(
            context,
            store,
            concurrency=concurrency,
            recorder=recorder,
            composers=composers,
            typing_sender=typing_sender,
            random_unit=lambda: 0.5,
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield wake
        nursery.cancel_scope.cancel()


@dataclass
class Stored:
    row: OutboxRow
    seq: int
    status: str = "queued"
    available_at: float = 0
    first_attempt_at: float | None = None
    epoch: int = 0
    error: str = ""
    channel_message_id: str = ""
    added_at: float = 0


class MemoryOutboxStore:
    """Implements OutboxStore on trio's clock. `owner` is the epoch of the installation's lease.

    `held_until` is what a row waits for besides its own time; `trouble` is what the next calls raise. What chats are
    told of a row that failed is kept in `told`, and not sent.
    """

    def __init__(self) -> None:
        self.held_until: Callable[[UUID], float] = lambda _row_id: 0.0
        self.rows: dict[UUID, Stored] = {}
        self.owner = 1
        self.down = False
        self.trouble: list[Exception] = []
        self.told: list[tuple[UUID, str]] = []

    def add(self, text: str, chat_id: str = "oc_1", *, age_seconds: float = 0.0) -> Stored:
        row_id = uuid4()
        row = OutboxRow(
            row_id, "answer", "chat", chat_id, None, None, text, str(row_id), 0, None, None, 0.0, age_seconds
        )
        self.rows[row_id] = Stored(row, len(self.rows), added_at=trio.current_time())
        return self.rows[row_id]

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[str], rows_max: int) -> list[OutboxRow]:
        await self._reach()
        due = [stored for stored in self._heads(lease, busy) if self._due_at(stored) <= trio.current_time()]
        return [self._take(stored, lease) for stored in due[:rows_max]]

    def _take(self, stored: Stored, lease: LeaseEpoch) -> OutboxRow:
        now, first = trio.current_time(), stored.first_attempt_at
        stored.row = replace(
            stored.row,
            attempts=stored.row.attempts + 1,
            age_seconds=stored.row.age_seconds + now - stored.added_at,
            first_attempt_at=None if first is None else EPOCH + timedelta(seconds=first),
            doubt_seconds=None if first is None else now - first,
            idle_seconds=now - stored.added_at if stored.row.attempts else 0.0,
        )
        stored.added_at = now
        stored.status, stored.epoch = "sending", lease.epoch
        stored.first_attempt_at = now if first is None else first
        return stored.row

    async def seconds_to_next(self, lease: LeaseEpoch, *, busy: Collection[str]) -> float | None:
        await self._reach()
        return min((self._due_at(stored) - trio.current_time() for stored in self._heads(lease, busy)), default=None)

    async def mark_sent(self, lease: LeaseEpoch, row_id: UUID, channel_message_id: str) -> bool:
        await self._reach()
        return self._settle(lease, row_id, "sent", channel_message_id=channel_message_id)

    async def mark_failed(
        self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str, *, told: Mapping[str, str] | None = None
    ) -> bool:
        await self._reach()
        settled = self._settle(lease, row_id, "failed", error=reason)
        if settled and told is not None:
            self.told.append((row_id, told["en"]))
        return settled

    async def mark_unknown(self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str) -> bool:
        await self._reach()
        return self._settle(lease, row_id, "unknown", error=reason)

    async def clear_doubt(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        await self._reach()
        if not self._settle(lease, row_id, "queued"):
            return False
        stored = self.rows[row_id]
        stored.available_at, stored.first_attempt_at = trio.current_time(), None
        stored.row = replace(stored.row, first_attempt_at=None, doubt_seconds=None)
        return True

    async def list_sent(self, row: OutboxRow) -> list[str]:
        await self._reach()
        sent = (stored for stored in self.rows.values() if stored.row.recipient == row.recipient)
        return [stored.channel_message_id for stored in sent if stored.status == "sent"]

    async def postpone(
        self, lease: LeaseEpoch, row: OutboxRow, delay_seconds: float, code: int, reason: str, *, doubtful: bool
    ) -> bool:
        await self._reach()
        if not self._settle(lease, row.id, "queued", error=reason):
            return False
        stored = self.rows[row.id]
        stored.available_at = trio.current_time() + delay_seconds
        if not doubtful and not row.in_doubt:
            stored.first_attempt_at = None
        return True

    def _settle(
        self, lease: LeaseEpoch, row_id: UUID, status: str, *, error: str = "", channel_message_id: str = ""
    ) -> bool:
        stored = self.rows[row_id]
        if stored.epoch != lease.epoch or stored.status != "sending":
            return False
        stored.status, stored.error, stored.channel_message_id = status, error, channel_message_id
        return True

    def _open(self, lease: LeaseEpoch, busy: Collection[str]) -> list[Stored]:
        if lease.epoch != self.owner:
            return []
        rows = sorted(self.rows.values(), key=lambda stored: stored.seq)
        return [
            stored for stored in rows if stored.status in {"queued", "sending"} and stored.row.recipient not in busy
        ]

    def _heads(self, lease: LeaseEpoch, busy: Collection[str]) -> list[Stored]:
        heads: dict[str, Stored] = {}
        for stored in self._open(lease, busy):
            heads.setdefault(stored.row.recipient, stored)
        return list(heads.values())

    def _due_at(self, stored: Stored) -> float:
        return max(stored.available_at if stored.status == "queued" else 0.0, self.held_until(stored.row.id))

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.trouble:
            raise self.trouble.pop()
        if self.down:
            raise StoreUnavailable("the store is down")
