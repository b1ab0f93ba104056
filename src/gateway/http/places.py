"""Limits on requests that stay open for long: live streams, downloads, waits for work.

Each of them holds a connection and a task for as long as the client likes. So each sort has a number of places in the
process, and one client may hold only some of them, so that no client takes them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import TooMany

RETRY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """The number of places of each sort in the process, and the number that one client may hold."""

    streams: int = 500
    streams_of_person: int = 8
    """Live streams of one person in one workspace."""
    downloads: int = 200
    downloads_of_person: int = 16
    claims: int = 5_000
    claims_of_runtime: int = 100


class Places:
    """Places of one sort: `total` in the process, `each` for one holder. `what` names the sort, in the plural."""

    def __init__(self, what: str, *, total: int, each: int) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._taken: Counter[Hashable] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    def require(self, holder: Hashable) -> None:
        """Check that a place is free. Raises TooMany if none is left for this holder, or none at all."""
        taken = self._taken[holder]
        if taken >= self._each:
            self._refuse(f"you have {taken} {self._what} open, and may have {self._each} at the same time")
        if self.taken >= self._total:
            self._refuse(f"this process has {self._total} {self._what} open, and takes no more")

    @contextmanager
    def take(self, holder: Hashable) -> Iterator[None]:
        """Hold a place until the block ends, also by cancellation. Raises TooMany as `require` does."""
        self.require(holder)
        self._taken[holder] += 1
        try:
            yield
        finally:
            self._taken[holder] -= 1
            if not self._taken[holder]:
                del self._taken[holder]

    def _refuse(self, because: str) -> None:
        message = f"{because}; close one, or try again in {RETRY_SECONDS} s"
        raise TooMany(f"too_many_{self._what.replace(' ', '_')}", message, retry_after=RETRY_SECONDS)
