"""Stored secrets of every kind of row, and their rotation: each is sealed anew under the newest key of the ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol
from uuid import UUID

from gateway.keyring import KeyRing, UnreadableSecret

PAGE_ROWS = 500
PASSES_MAX = 5
"""Passes that one rotation makes at most over all secrets, while other processes keep changing them."""

Progress = Callable[[str, int, int], None]
"""Called with progress. Arguments: a name for the work, the number done, the total."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A sealed value in text form. It was sealed for the row `owner_id`, which stores it under `name`."""

    owner_id: UUID
    name: str
    sealed: str = field(repr=False)


class SecretTable(Protocol):
    """One kind of row that stores secrets. Every method raises StoreUnavailable."""

    @property
    def kind(self) -> str:
        """The name for this kind of row, such as `installation`."""

    async def count(self) -> int: ...

    async def page(self, after: StoredSecret | None, rows_max: int) -> Sequence[StoredSecret]:
        """Return the secrets after `after` in a fixed order. Empty when `after` was the last."""

    async def replace(self, secret: StoredSecret, sealed: str) -> bool:
        """Replace the value that was read by `sealed`, and change nothing else.

        False when the stored value is another one by now, because the secret was changed or removed since it was read.
        """


class ResealResult(Enum):
    """The outcome for one secret.

    RESEALED: this rotation moved it under the newest key. CURRENT: it was under the newest key before. UNREADABLE: no
    key of the ring opens it. CHANGING: it was changed or removed while it was being sealed.
    """

    RESEALED = "resealed"
    CURRENT = "current"
    UNREADABLE = "unreadable"
    CHANGING = "changing"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A secret that has a problem, with its owner and the reason: it cannot be opened, or kept changing."""

    kind: str
    owner_id: UUID
    name: str
    reason: str


@dataclass(slots=True)
class Rotation:
    """The outcomes of a rotation, by secret, and the reasons of those that failed."""

    outcomes: dict[tuple[str, UUID, str], ResealResult] = field(default_factory=dict)
    reasons: dict[tuple[str, UUID, str], str] = field(default_factory=dict)

    def count(self, outcome: ResealResult) -> int:
        return sum(each is outcome for each in self.outcomes.values())

    def note(self, key: tuple[str, UUID, str], outcome: ResealResult, reason: str = "") -> None:
        """Note an outcome. A later outcome replaces an earlier one.

        The exception: a secret that this rotation has resealed stays RESEALED when a later pass finds it current.
        """
        if outcome is ResealResult.CURRENT and self.outcomes.get(key) is ResealResult.RESEALED:
            return
        self.outcomes[key] = outcome
        self.reasons[key] = reason

    def begin_pass(self) -> None:
        """Forget the secrets that were changing. The next pass sees them again, unless they were removed."""
        for key in [key for key, outcome in self.outcomes.items() if outcome is ResealResult.CHANGING]:
            del self.outcomes[key]

    @property
    def troubles(self) -> list[Trouble]:
        """The secrets with problems, in the order in which they were noted."""
        return [
            Trouble(*key, self.reasons[key])
            for key, outcome in self.outcomes.items()
            if outcome in {ResealResult.UNREADABLE, ResealResult.CHANGING}
        ]


async def rotate_secrets(tables: Sequence[SecretTable], ring: KeyRing, progress: Progress) -> Rotation:
    """Seal every stored secret anew that is not under the ring's newest key.

    It may run while daemons work and people change credentials. A value is replaced only if it is still the one that
    was read. All secrets are read again until a pass finds nothing left to do, at most PASSES_MAX times. A secret that
    cannot be opened is noted and left as it is. After an early end, by an error or a cancellation, some secrets have
    been moved. It can then simply be run again.
    """
    rotation = Rotation()
    total = sum([await table.count() for table in tables])
    for _ in range(PASSES_MAX):
        rotation.begin_pass()
        moved = [await _pass(table, ring, rotation, total, progress) for table in tables]
        if not any(moved):
            break
    return rotation


async def _pass(table: SecretTable, ring: KeyRing, rotation: Rotation, total: int, progress: Progress) -> bool:
    """Go through one table. True if there was anything to move."""
    moved, last = False, None
    while page := await table.page(last, PAGE_ROWS):
        for secret in page:
            moved |= await _reseal(table, secret, ring, rotation)
            done = len(rotation.outcomes)
            progress("secrets", done, max(done, total))
        last = page[-1]
    return moved


async def _reseal(table: SecretTable, secret: StoredSecret, ring: KeyRing, rotation: Rotation) -> bool:
    key = (table.kind, secret.owner_id, secret.name)
    try:
        sealed = ring.reseal_text(secret.sealed, owner=secret.owner_id)
    except UnreadableSecret as error:
        rotation.note(key, ResealResult.UNREADABLE, str(error))
        return False
    if sealed is None:
        rotation.note(key, ResealResult.CURRENT)
        return False
    if await table.replace(secret, sealed):
        rotation.note(key, ResealResult.RESEALED)
    else:
        rotation.note(key, ResealResult.CHANGING, "it changed while it was being sealed")
    return True


@dataclass(frozen=True, slots=True)
class Opened:
    """The result of opening every stored secret."""

    total: int
    troubles: list[Trouble]


async def open_secrets(tables: Sequence[SecretTable], ring: KeyRing | None) -> Opened:
    """Open every stored secret as a check, and keep none. Without a ring none opens. Raises StoreUnavailable."""
    total, troubles = 0, []
    for table in tables:
        last: StoredSecret | None = None
        while page := await table.page(last, PAGE_ROWS):
            total += len(page)
            for secret in page:
                if reason := _why_shut(secret, ring):
                    troubles.append(Trouble(table.kind, secret.owner_id, secret.name, reason))
            last = page[-1]
    return Opened(total, troubles)


def _why_shut(secret: StoredSecret, ring: KeyRing | None) -> str:
    if ring is None:
        return "there is no secret_key"
    try:
        ring.open_text(secret.sealed, owner=secret.owner_id)
    except UnreadableSecret as error:
        return str(error)
    return ""
