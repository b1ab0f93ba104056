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


def events_url(public_url: str | None, installation_id: UUID) -> str | None:
    """Return the request URL that an operator enters in the platform's console; None without a `public_url`."""
    return None if public_url is None else f"{public_url}/api/webhooks/lark/{installation_id}"


def where_to_post(public_url: str | None, installation_id: UUID) -> str:
    """Return a sentence for an operator with the request URL, or with the reason that it is unknown."""
    url = events_url(public_url, installation_id)
    if url is None:
        return "http.public_url is unset, so nobody can say which request URL the platform's console needs"
    return f"the request URL for the platform's console is {url}"


class PushStore(Protocol):
    """The store of installations that take posted events. Both methods raise StoreUnavailable."""

    async def find(self, installation_id: UUID) -> PushTarget | None:
        """Return the installation; None if it is unknown, or its workspace or agent is gone."""

    async def heard(self, installation_ids: Iterable[UUID], asked_again: Iterable[UUID]) -> None:
        """Store that these active installations had an event just now, and which of them asked for one again."""
