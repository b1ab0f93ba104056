"""Stored secrets, whatever they belong to, and their move under the newest key of the ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol
from uuid import UUID

from gateway.keyring import KeyRing, UnreadableSecret

PAGE_ROWS = 500
PASSES_MAX = 5
"""How often everything is gone through while others keep changing it."""

Progress = Callable[[str, int, int], None]
"""(what, how many are done, how many there are)."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One sealed value in text form. It was sealed for the row `owner_id`, which keeps it under `name`."""

    owner_id: UUID
    name: str
    sealed: str = field(repr=False)


class SecretTable(Protocol):
    """One kind of row that keeps secrets. Every method raises StoreUnavailable."""

    @property
    def kind(self) -> str:
        """What its owners are called: `installation`."""

    async def count(self) -> int: ...

    async def page(self, after: StoredSecret | None, rows_max: int) -> Sequence[StoredSecret]:
        """The next ones in a fixed order; none when `after` was the last."""

    async def replace(self, secret: StoredSecret, sealed: str) -> bool:
        """Put `sealed` in the place of the value that was read, and touch nothing else.

        False when it is not there any more: somebody changed the secret, or took it away, since it was read.
        """


class Outcome(Enum):
    """What became of one secret."""

    RESEALED = "resealed"
    CURRENT = "current"
    UNREADABLE = "unreadable"
    CHANGING = "changing"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A secret that is not under the newest key, whose it is, and why."""

    kind: str
    owner_id: UUID
    name: str
    reason: str


@dataclass(slots=True)
class Rotation:
    """What a rotation did. `resealed` were moved, `current` were under the newest key before."""

    outcomes: dict[tuple[str, UUID, str], Outcome] = field(default_factory=dict)
    reasons: dict[tuple[str, UUID, str], str] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        return sum(each is outcome for each in self.outcomes.values())

    def note(self, key: tuple[str, UUID, str], outcome: Outcome, reason: str = "") -> None:
        """The last word counts, except that what this rotation has moved is not called current afterwards."""
        if outcome is Outcome.CURRENT and self.outcomes.get(key) is Outcome.RESEALED:
            return
        self.outcomes[key] = outcome
        self.reasons[key] = reason

    def begin_pass(self) -> None:
        """Whatever was changing is looked at again, and is not there any more if it is not met."""
        for key in [key for key, outcome in self.outcomes.items() if outcome is Outcome.CHANGING]:
            del self.outcomes[key]

    @property
    def troubles(self) -> list[Trouble]:
        """In the order in which they were met."""
        return [
            Trouble(*key, self.reasons[key])
            for key, outcome in self.outcomes.items()
            if outcome in {Outcome.UNREADABLE, Outcome.CHANGING}
        ]


async def rotate_secrets(tables: Sequence[SecretTable], ring: KeyRing, progress: Progress) -> Rotation:
    """Seal every stored secret anew that is not under the ring's newest key.

    May run beside daemons and changes of credentials: a value is replaced only where it still is the one that was read,
    and everything is gone through again until a pass finds nothing left to do, at most PASSES_MAX times. One that does
    not open is noted and left as it is. Ended early, by whatever, it has moved some and can simply be run again.
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
    """Whether there was anything to move."""
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
        rotation.note(key, Outcome.UNREADABLE, str(error))
        return False
    if sealed is None:
        rotation.note(key, Outcome.CURRENT)
        return False
    if await table.replace(secret, sealed):
        rotation.note(key, Outcome.RESEALED)
    else:
        rotation.note(key, Outcome.CHANGING, "it changed while it was being sealed")
    return True


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening every stored secret came to."""

    total: int
    troubles: list[Trouble]


async def open_secrets(tables: Sequence[SecretTable], ring: KeyRing | None) -> Opened:
    """Open every stored secret and keep none. Without a ring none opens. Raises StoreUnavailable."""
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
