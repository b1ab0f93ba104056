"""Reading back what was said on a platform, and what people and bots are called there, where it allows that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import structlog
import trio

from gateway.core.enrichment import Recent, Said, Spot
from gateway.core.introduction import Introduction, plain_name
from gateway.errors import GatewayError

INTRODUCTION_SECONDS = 1.5
"""How long a page waits for the names that a platform tells; then it is shown without them."""

_log = structlog.get_logger()


class Lookup(Protocol):
    """What one bot may read. Every call raises the PlatformError family; a definite no is not asked again.

    What comes back is other people's: it may be handed on, and is not stored or logged.
    """

    async def message(self, message_id: str) -> Sequence[Said]:
        """The message, then everything that it bundles, at any depth. Empty when there is no such message."""

    async def recent(self, spot: Spot) -> Recent:
        """The last messages that precede the spot, as `Spot.preceding` decides."""

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        """What people are called. Who is unknown, or may not be seen, is left out."""

    async def bot_name(self) -> str:
        """What the bot itself is called; "" when the platform does not say."""


LookupOf = Callable[[UUID], Awaitable[Lookup]]
"""What an installation may read. Raises a GatewayError when nobody may speak for it."""


class Introductions:
    """Asks platforms what a person and a bot are called, for the reader of a page."""

    def __init__(self, lookups: Mapping[str, LookupOf], *, seconds: float = INTRODUCTION_SECONDS) -> None:
        """`lookups` are the platforms that can be asked, by channel type."""
        self._lookups = lookups
        self._seconds = seconds

    async def of(self, channel_type: str, installation_id: UUID, account_id: str) -> Introduction:
        """The names that the platform tells in time. A refusal or a failure of it is a name less, never an error."""
        told: dict[str, str] = {}

        async def ask(what: str, call: Callable[[], Awaitable[str]]) -> None:
            try:
                told[what] = plain_name(await call())
            except GatewayError as error:
                _log.info("introduction_failed", what=what, installation_id=str(installation_id), error=str(error))

        async def ask_both(lookup: Lookup) -> None:
            async def person() -> str:
                return (await lookup.names([account_id])).get(account_id, "")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "person", person)
                nursery.start_soon(ask, "bot", lookup.bot_name)

        lookup_of = self._lookups.get(channel_type)
        if lookup_of is not None:
            with trio.move_on_after(self._seconds):
                try:
                    await ask_both(await lookup_of(installation_id))
                except GatewayError as error:
                    _log.info("introduction_failed", installation_id=str(installation_id), error=str(error))
        return Introduction(**told)
