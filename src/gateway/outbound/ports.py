"""What sending needs from a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Lease:
    """In whose name rows are sent. Everything is written only while `epoch` is the installation's newest."""

    installation_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row that this lease holder is about to send.

    `attempts` counts this one. It is in doubt when the result of an earlier attempt is unknown: since
    `first_attempt_at`, which is `doubt_seconds` ago. `idle_seconds` is how long ago the attempt before this one began,
    0 when there was none, and `age_seconds` how long ago the row was written.
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

    @property
    def in_doubt(self) -> bool:
        return self.doubt_seconds is not None

    @property
    def recipient(self) -> str:
        """Rows with the same value leave one after the other."""
        return f"{self.recipient_type}:{self.recipient_id}"


Compose = Callable[[OutboxRow], Awaitable[str | None]]
"""Makes the text of a row that could not be stored with it, such as one with a secret in it; called for every attempt.

None: there is nothing to say any more. Raises StoreUnavailable, and then the row is left as it is.
"""


class OutboxStore(Protocol):
    """Every write is fenced by the lease's epoch: False, or nothing, says that somebody else speaks for the bot now."""

    async def take_due(self, lease: Lease, *, busy: Collection[str], rows_max: int) -> list[OutboxRow]:
        """Mark the next rows `sending`, at most one per recipient and none of the `busy` ones.

        Takes what is due, and what a former holder left in `sending`. A recipient's later rows wait for its first.
        """

    async def seconds_to_next(self, lease: Lease, *, busy: Collection[str]) -> float | None:
        """Until the next recipient's first row is due; None when there is none."""

    async def mark_sent(self, lease: Lease, row_id: UUID, channel_message_id: str) -> bool: ...

    async def mark_failed(
        self, lease: Lease, row_id: UUID, code: int, reason: str, *, told: Mapping[str, str] | None = None
    ) -> bool:
        """Final. `told`, a sentence by language, is queued with it for the same place: once for each run."""

    async def mark_unknown(self, lease: Lease, row_id: UUID, code: int, reason: str) -> bool:
        """Nobody knows what became of it: it is shown, and never sent again by itself."""

    async def clear_doubt(self, lease: Lease, row_id: UUID) -> bool:
        """Back to `queued`, due now: it is certain that no attempt succeeded."""

    async def list_sent(self, row: OutboxRow) -> list[str]:
        """The platform's ids of what else is known to have been sent to its recipient since its first attempt."""

    async def postpone(
        self, lease: Lease, row: OutboxRow, delay_seconds: float, code: int, reason: str, *, doubtful: bool
    ) -> bool:
        """Back to `queued` for later. `doubtful`: this attempt may have succeeded. Else nothing was sent by it."""


@dataclass(frozen=True, slots=True)
class TypingRow:
    """A sign that this lease holder is about to show or, when it is `unwanted`, to take away.

    `reaction_id` is how the platform calls it. Without one an unwanted sign may be there or not: an earlier attempt to
    show it never had an answer. `attempts` counts this one, among those to do the same.
    """

    id: UUID
    channel_message_id: str
    reaction_id: str | None
    unwanted: bool
    attempts: int


class TypingStore(Protocol):
    """A run's end makes its signs unwanted; that is not done here. Writes are fenced as those of OutboxStore are."""

    async def take_due(self, lease: Lease, *, busy: Collection[UUID], rows_max: int) -> list[TypingRow]:
        """Note one more attempt for the next rows, none of the `busy` ones; what is unwanted goes first.

        Nothing that nobody tried yet is shown once its message is too old.
        """

    async def mark_shown(self, lease: Lease, row_id: UUID, reaction_id: str) -> bool:
        """Whether it is to be taken away at once, because the run ended during the call."""

    async def mark_gone(self, lease: Lease, row_id: UUID) -> bool: ...

    async def mark_failed(self, lease: Lease, row_id: UUID) -> bool: ...

    async def postpone(self, lease: Lease, row: TypingRow, delay_seconds: float) -> bool:
        """Try again later, unless the run ended meanwhile: then the row is due as it is."""
