"""Puts events together again that the platform split over several frames.

Every frame of a split event carries the same transport id, the number of pieces, and its own index. The pieces may
arrive in any order. Nothing is acknowledged before the set is complete, and the platform sends an incomplete set again
as a whole; so it is always safe to forget a set. One assembler serves one connection.

The number of pieces that a peer claims allocates no memory. Memory grows only with the bytes that arrived, and it is
bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class AssemblerLimits:
    """The bounds of an assembler.

    `ttl_seconds` runs from the last piece of an incomplete set, and from the completion of a complete one.
    """

    ttl_seconds: float = 5.0
    pieces_max: int = 1024
    messages_max: int = 64
    bytes_max: int = 4 * 2**20
    completed_max: int = 1024
    message_id_bytes_max: int = 256


class Piece(Enum):
    """The outcome of a piece that did not complete its set."""

    WAITING = auto()
    """The piece was kept; more are to come. It must not be acknowledged."""
    IGNORED = auto()
    """The piece is malformed, contradicts earlier ones, or there is no room. It must not be acknowledged."""
    LATE = auto()
    """The set was completed a moment ago. It is not delivered again; the piece gets the answer of that delivery."""


_PIECE_OVERHEAD_BYTES = 128  # the memory that even an empty piece takes


@dataclass(slots=True)
class _Partial:
    total: int
    expires_at: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    cost_bytes: int = 0


class Assembler:
    """Holds incomplete sets, and the ids of those just completed. Times are seconds of one monotonic clock."""

    def __init__(self, limits: AssemblerLimits | None = None) -> None:
        self._limits = limits or AssemblerLimits()
        self._partials: dict[bytes, _Partial] = {}
        self._completed: dict[bytes, float] = {}
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """The memory that the kept pieces take, overhead included."""
        return self._held_bytes

    def admit(self, message_id: bytes, total: int, index: int, payload: bytes, now: float) -> bytes | Piece:
        """Take one piece. Return the whole payload if it was the last one missing.

        A repeated piece only extends the set's life. An empty piece counts like any other.
        """
        self.expire(now)
        if not self._plausible(message_id, total, index):
            return Piece.IGNORED
        if message_id in self._completed:
            return Piece.LATE
        partial = self._partials.get(message_id)
        if partial is None:
            partial = self._begin(message_id, total, now)
        if partial is None or partial.total != total:
            return Piece.IGNORED
        return self._add(message_id, partial, index, payload, now)

    def forget(self, message_id: bytes) -> None:
        """Allow a completed set to begin anew, because its delivery failed and the platform is to repeat it."""
        self._completed.pop(message_id, None)

    def expire(self, now: float) -> None:
        """Drop incomplete sets and completed ids that have expired. Both maps are ordered by time of expiry."""
        while (oldest := next(iter(self._partials.items()), None)) and oldest[1].expires_at <= now:
            self._drop(oldest[0])
        while (done := next(iter(self._completed.items()), None)) and done[1] <= now:
            del self._completed[done[0]]

    def _plausible(self, message_id: bytes, total: int, index: int) -> bool:
        return (
            0 < len(message_id) <= self._limits.message_id_bytes_max
            and 0 < total <= self._limits.pieces_max
            and 0 <= index < total
        )

    def _begin(self, message_id: bytes, total: int, now: float) -> _Partial | None:
        if len(self._partials) >= self._limits.messages_max:
            return None
        self._partials[message_id] = _Partial(total, now + self._limits.ttl_seconds)
        return self._partials[message_id]

    def _add(self, message_id: bytes, partial: _Partial, index: int, payload: bytes, now: float) -> bytes | Piece:
        if index not in partial.pieces and not self._hold(partial, index, payload):
            self._drop(message_id)  # without this piece the set can never be complete
            return Piece.IGNORED
        if len(partial.pieces) == partial.total:
            return self._complete(message_id, partial, now)
        partial.expires_at = now + self._limits.ttl_seconds
        self._partials[message_id] = self._partials.pop(message_id)  # moved to the end: keeps the order of expiry
        return Piece.WAITING

    def _hold(self, partial: _Partial, index: int, payload: bytes) -> bool:
        cost = len(payload) + _PIECE_OVERHEAD_BYTES
        if self._held_bytes + cost > self._limits.bytes_max:
            return False
        partial.pieces[index] = payload
        partial.cost_bytes += cost
        self._held_bytes += cost
        return True

    def _complete(self, message_id: bytes, partial: _Partial, now: float) -> bytes:
        self._drop(message_id)
        if len(self._completed) >= self._limits.completed_max:
            del self._completed[next(iter(self._completed))]
        self._completed[message_id] = now + self._limits.ttl_seconds
        return b"".join(partial.pieces[index] for index in range(partial.total))

    def _drop(self, message_id: bytes) -> None:
        self._held_bytes -= self._partials.pop(message_id).cost_bytes
