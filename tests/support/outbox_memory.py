"""The stores of the outbox and of typing signs in memory, and a sender at work on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID, uuid4

import trio

from gateway.concurrency import Signal
from gateway.errors import StoreUnavailable
from gateway.lark.chat.channel import KEY_SECONDS, LIMITS
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import STORED, run_outbox
from gateway.outbound.ports import Compose, LeaseEpoch, OutboxRow, OutboxStore, SendingContext, TypingRow, TypingStore
from gateway.outbound.typing import TypingSender
from gateway.recorder import SILENT, Recorder
from support.simulated import EPOCH
from support.toy.channels import ToyChannel, TypingToyChannel
from support.toy.platform import ToyPlatform

INSTALLATION = UUID(int=7)
FRESH_SECONDS = 120.0


@asynccontextmanager
async def sending(
    store: OutboxStore,
    platform: ToyPlatform,
    *,
    installation_id: UUID = INSTALLATION,
    epoch: int = 1,
    concurrency: int = 8,
    composers: Mapping[str, Compose] = STORED,
    typing: TypingStore | None = None,
    channel_type: type[ToyChannel] | None = None,
    key_seconds: float = KEY_SECONDS,
    recorder: Recorder = SILENT,
) -> AsyncIterator[Signal]:
    """An outbox at work, with typing beside it where there are signs to show; cancelled when the block ends.

    The channel can do no more than that needs, unless `channel_type` says otherwise.
    """
    wake = Signal()
    channel = (channel_type or (ToyChannel if typing is None else TypingToyChannel))(platform)
    governor, lease = Governor(recorder, limits=LIMITS), LeaseEpoch(installation_id, epoch)
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
