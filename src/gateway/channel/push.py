"""Events that a platform posts over HTTP, for installations without a long connection: the row, and its store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

TakePushed = Callable[[UUID, Mapping[str, str], bytes], Awaitable[dict[str, str]]]
"""(installation, headers, body as received) → the JSON object to answer with, once the outcome is durable.

Raises NotFound and Conflict for an installation that takes no posted events, Invalid and Unauthenticated for a body
that is not the platform's, Unsettled if the platform should send the event again, Unavailable if the installation's
secrets do not open.
"""


@dataclass(frozen=True, slots=True)
class PushTarget:
    """The parts of an installation, revoked or not, that a posted event needs. Secrets in `config` are sealed.

    `now` is the time by the database's clock, the one clock that all replicas share.
    """

    id: UUID
    channel_type: str
    config: dict[str, Any] = field(repr=False)
    now: datetime


class PushStore(Protocol):
    """The store of installations that take posted events. Both methods raise StoreUnavailable."""

    async def find(self, installation_id: UUID) -> PushTarget | None:
        """Return the installation; None if it is unknown, or its workspace or agent is gone."""

    async def heard(self, installation_ids: Iterable[UUID], asked_again: Iterable[UUID]) -> None:
        """Store that these active installations had an event just now, and which of them asked for one again."""
