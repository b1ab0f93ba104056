"""The ports of sending: the means of one bot, the stores as Protocols, and the records they exchange."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.channel.channel import Channel
from gateway.concurrency import Signal
from gateway.core.replies import Composed
from gateway.outbound.governor import Governor


@dataclass(frozen=True, slots=True)
class LeaseEpoch:
    """The lease under which rows are sent. Writes take effect only while `epoch` is the installation's newest."""

    installation_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class SendingContext:
    """The means by which one bot sends while its lease is held. Messages and typing signs share it.

    `wake` is set when there may be rows to send. `governor` is shared with all other callers in the bot's name.
    `key_seconds` is how long the platform drops a repeated message by its idempotency key. 0 means that it never does:
    a message in doubt is then looked for in the chat instead of being sent again. `attempt_seconds` bounds one call.
    """

    lease: LeaseEpoch
    channel: Channel
    governor: Governor
    wake: Signal
    key_seconds: float
    attempt_seconds: float = 2.5


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row that this lease holder is about to send.

    `attempts` includes the present one. The row is in doubt when the result of an earlier attempt is unknown. The first
    such attempt began at `first_attempt_at`, which is `doubt_seconds` ago. `idle_seconds` is how long ago the attempt
    before this one began, 0 when there was none. `age_seconds` is how long ago the row was written.
    """

    id: UUID
    kind: str
    recipient_type: str
    recipient_id: str
    thread_id: str | None
    reply_to_message_id: str | None
    content: str
    uuid: str
    attempts: int
    first_attempt_at: datetime | None
    doubt_seconds: float | None
    idle_seconds: float
    age_seconds: float
    title: str = ""

    @property
    def in_doubt(self) -> bool:
        return self.doubt_seconds is not None

    @property
    def recipient(self) -> str:
        """The key of the recipient. Rows with the same value are sent one after the other."""
        return f"{self.recipient_type}:{self.recipient_id}"


Compose = Callable[[OutboxRow], Awaitable[Composed | None]]
"""Makes the text of a row that cannot be stored with it, such as one with a secret in it. Called for every attempt.

Returns None when there is nothing to send any more. Raises StoreUnavailable, and then the row is left as it is.
"""


class OutboxStore(Protocol):
    """The store of outbox rows. Every write is fenced by the lease's epoch.

    A write returns False, or no rows, when another process holds the bot's lease now.
    """

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[str], rows_max: int) -> list[OutboxRow]:
        """Mark the next rows `sending`, at most one per recipient and none of the `busy` ones.

        Takes rows that are due, and rows that a former holder left in `sending`. A recipient's later rows wait for its
        first.
        """

    async def seconds_to_next(self, lease: LeaseEpoch, *, busy: Collection[str]) -> float | None:
        """Return the seconds until the first row of any recipient not in `busy` is due; None when there is none."""

    async def mark_sent(self, lease: LeaseEpoch, row_id: UUID, channel_message_id: str) -> bool: ...

    async def mark_failed(
        self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str, *, told: Mapping[str, str] | None = None
    ) -> bool:
        """Mark the row as failed for good.

        `told`, a sentence by language, is queued with it for the same chat and thread, once for each run.
        """

    async def mark_unknown(self, lease: LeaseEpoch, row_id: UUID, code: int, reason: str) -> bool:
        """Mark the row as having an unknown result. It is shown as such, and never sent again automatically."""

    async def clear_doubt(self, lease: LeaseEpoch, row_id: UUID) -> bool:
        """Set the row back to `queued` and due now, because it is certain that no attempt succeeded."""

    async def list_sent(self, row: OutboxRow) -> list[str]:
        """List the platform's ids of other messages that were sent to the same recipient since the first attempt."""

    async def postpone(
        self, lease: LeaseEpoch, row: OutboxRow, delay_seconds: float, code: int, reason: str, *, doubtful: bool
    ) -> bool:
        """Set the row back to `queued`, due after `delay_seconds`.

        `doubtful` is True if this attempt may have succeeded, and False if it certainly sent nothing.
        """


@dataclass(frozen=True, slots=True)
class TypingRow:
    """A typing sign that this lease holder is about to show or, when it is `unwanted`, to remove.

    `reaction_id` is the platform's id of the sign. An unwanted sign without one may be there or not, because an earlier
    attempt to show it was never answered. `attempts` counts the attempts at the same action, the present one included.
    """

    id: UUID
    channel_message_id: str
    reaction_id: str | None
    unwanted: bool
    attempts: int


class TypingStore(Protocol):
    """The store of typing signs. Writes are fenced like those of OutboxStore.

    The end of a run makes its signs unwanted. Another store records that.
    """

    async def take_due(self, lease: LeaseEpoch, *, busy: Collection[UUID], rows_max: int) -> list[TypingRow]:
        """Count one more attempt on the next rows and return them, none of the `busy` ones, unwanted signs first.

        A sign that was not tried before is left out once its message is too old.
        """

    async def mark_shown(self, lease: LeaseEpoch, row_id: UUID, reaction_id: str) -> bool:
        """Store the sign's id. Returns True if it is to be removed at once, because the run ended during the call."""

    async def mark_gone(self, lease: LeaseEpoch, row_id: UUID) -> bool: ...

    async def mark_failed(self, lease: LeaseEpoch, row_id: UUID) -> bool: ...

    async def postpone(self, lease: LeaseEpoch, row: TypingRow, delay_seconds: float) -> bool:
        """Make the row due after `delay_seconds`, unless its run ended meanwhile: then it stays due."""
