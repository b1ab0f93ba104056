"""A platform that shows typing, and a store of signs in memory beside the one of the outbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import trio

from gateway.channel.capability import Capability
from gateway.channel.message import OutboundMessage, SendResult
from gateway.errors import StoreUnavailable
from gateway.outbound.ports import LeaseEpoch, TypingRow
from support.outbox_channel import MemoryOutboxStore, Toy, ToyChannel

Trouble = Callable[[], Awaitable[None]]
FRESH_SECONDS = 120.0


@dataclass
class TypingToy(Toy):
    """`log` has what people saw happen, in order; `calls_made` the calls. What is planned befalls the next calls."""

    log: list[tuple[str, str]] = field(default_factory=list)
    calls_made: list[str] = field(default_factory=list)
    signs: dict[str, str] = field(default_factory=dict)
    before_show: list[Trouble] = field(default_factory=list)
    after_show: list[Trouble] = field(default_factory=list)
    before_hide: list[Trouble] = field(default_factory=list)
    after_hide: list[Trouble] = field(default_factory=list)
    able: bool = True
    typing_in_flight: int = 0
    typing_in_flight_max: int = 0

    def channel(self) -> ToyChannel:
        able = Capability.TYPING_INDICATOR if self.able else Capability(0)
        return TypingToyChannel(self, capabilities=Capability.TEXT | able)

    async def deliver(self, message: OutboundMessage) -> SendResult:
        result = await super().deliver(message)
        self.log.append(("answer", message.text))
        return result

    async def call(self, name: str, before: list[Trouble], act: Callable[[], None], after: list[Trouble]) -> None:
        self.calls_made.append(name)
        self.typing_in_flight += 1
        self.typing_in_flight_max = max(self.typing_in_flight, self.typing_in_flight_max)
        try:
            await trio.lowlevel.checkpoint()
            if before:
                await before.pop(0)()
            act()
            if after:
                await after.pop(0)()
        finally:
            self.typing_in_flight -= 1

    def show(self, message_id: str) -> None:
        if message_id not in self.signs:
            self.signs[message_id] = f"sign of {message_id}"
            self.log.append(("show", message_id))

    def hide(self, message_id: str) -> None:
        if self.signs.pop(message_id, None):
            self.log.append(("hide", message_id))


@dataclass
class TypingToyChannel(ToyChannel):
    """Implements gateway.channel.channel.Typing."""

    platform: TypingToy

    async def show_typing(self, message_id: str) -> str:
        toy = self.platform
        await toy.call("show", toy.before_show, lambda: toy.show(message_id), toy.after_show)
        return f"sign of {message_id}"

    async def hide_typing(self, message_id: str, handle: str) -> None:
        assert handle == f"sign of {message_id}"
        toy = self.platform
        await toy.call("hide", toy.before_hide, lambda: toy.hide(message_id), toy.after_hide)


@dataclass
class StoredSign:
    id: UUID
    message_id: str
    show_before: float
    status: str = "wanted"
    reaction_id: str | None = None
    attempts: int = 0
    available_at: float = 0.0
    epoch: int = 0


class MemoryTypingStore:
    """Implements TypingStore on trio's clock, and what the database does when a run begins or ends.

    `outbox` holds back an answer as the outbox's statements do; its `owner` is the epoch of the lease.
    """

    def __init__(self, outbox: MemoryOutboxStore) -> None:
        self.signs: dict[UUID, StoredSign] = {}
        self.looks = 0
        self.down = False
        self._outbox = outbox
        self._waiting: dict[UUID, tuple[StoredSign, float]] = {}
        outbox.held_until = self._held_until

    def begin(self, message_id: str) -> StoredSign:
        sign = StoredSign(uuid4(), message_id, trio.current_time() + FRESH_SECONDS)
        self.signs[sign.id] = sign
        return sign

    def end(self, sign: StoredSign, answer: str = "") -> None:
        """The run ends, with an answer in its outbox or without one."""
        if sign.status in {"wanted", "shown"}:
            sign.status = "unwanted" if sign.attempts else "gone"
            sign.attempts, sign.available_at = 0, trio.current_time()
        if answer:
            stored = self._outbox.add(answer, f"oc_{sign.message_id}")
            self._waiting[stored.row.id] = (sign, trio.current_time())

    def _held_until(self, row_id: UUID) -> float:
        sign, written_at = self._waiting.get(row_id, (None, 0.0))
        if sign is None or sign.status != "unwanted" or sign.available_at > trio.current_time():
            return 0.0
        return written_at + 1.0

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[UUID], rows_max: int) -> list[TypingRow]:
        self.looks += 1
        await self._reach()
        if lease.epoch != self._outbox.owner:
            return []
        due = [sign for sign in self.signs.values() if sign.id not in busy and self._is_due(sign, lease)]
        due.sort(key=lambda sign: sign.status)  # "unwanted" before "wanted"
        return [self._take(sign, lease) for sign in due[:rows_max]]

    def _is_due(self, sign: StoredSign, lease: LeaseEpoch) -> bool:
        now = trio.current_time()
        if sign.status != "unwanted" and not (sign.status == "wanted" and sign.show_before > now):
            return False
        return sign.available_at <= now or sign.epoch < lease.epoch

    def _take(self, sign: StoredSign, lease: LeaseEpoch) -> TypingRow:
        sign.attempts, sign.epoch = sign.attempts + 1, lease.epoch
        sign.available_at = min(sign.available_at, trio.current_time())
        return TypingRow(sign.id, sign.message_id, sign.reaction_id, sign.status == "unwanted", sign.attempts)

    async def mark_shown(self, lease: LeaseEpoch, row_id: UUID, reaction_id: str) -> bool:
        sign = await self._held(lease, row_id, "wanted", "unwanted")
        if sign is None:
            return False
        sign.reaction_id = reaction_id
        sign.status = "shown" if sign.status == "wanted" else sign.status
        return sign.status == "unwanted"

    async def mark_gone(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await self._settle(lease, row_id, "gone", "unwanted")

    async def mark_failed(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        return await self._settle(lease, row_id, "failed", "wanted", "unwanted")

    async def postpone(self, lease: LeaseEpoch, row: TypingRow, delay_seconds: float) -> bool:
        sign = await self._held(lease, row.id, "unwanted" if row.unwanted else "wanted")
        if sign is not None:
            sign.available_at = trio.current_time() + delay_seconds
        return sign is not None

    async def _settle(self, lease: LeaseEpoch, row_id: UUID, status: str, *before: str) -> bool:
        sign = await self._held(lease, row_id, *before)
        if sign is not None:
            sign.status = status
        return sign is not None

    async def _held(self, lease: LeaseEpoch, row_id: UUID, *statuses: str) -> StoredSign | None:
        await self._reach()
        sign = self.signs[row_id]
        return sign if sign.epoch == lease.epoch and sign.status in statuses else None

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise StoreUnavailable("the store is down")
