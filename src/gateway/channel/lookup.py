"""Reading back what was said on a platform, for platforms that allow it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from gateway.core.enrichment import Recent, Said, Spot


class Lookup(Protocol):
    """What one bot may read. Every call raises the LarkError family; a definite no is not asked again.

    What comes back is other people's: it may be handed on, and is not stored or logged.
    """

    async def message(self, message_id: str) -> Sequence[Said]:
        """The message, then everything that it bundles, at any depth. Empty when there is no such message."""

    async def recent(self, spot: Spot) -> Recent:
        """The last messages that precede the spot, as `Spot.preceding` decides."""

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        """What people are called. Who is unknown, or may not be seen, is left out."""


LookupOf = Callable[[UUID], Awaitable[Lookup]]
"""What an installation may read. Raises a GatewayError when nobody may speak for it."""
