"""Reading past messages of a platform, and the names of people and bots there, where the platform allows that."""

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
"""The time that a page waits for names from a platform; after that it is shown without them."""

_log = structlog.get_logger()


class Lookup(Protocol):
    """The messages and names that one bot may read. Every call raises the PlatformError family.

    A call that the platform definitely refused is not repeated. The results are other people's words: they may be
    handed on, and are not stored or logged.
    """

    async def message(self, message_id: str) -> Sequence[Said]:
        """Return the message, then every message bundled in it, at any depth. Empty if there is no such message."""

    async def recent(self, spot: Spot) -> Recent:
        """Return the last messages before the spot, as `Spot.preceding` selects them."""

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        """Return the names of people by id. People who are unknown, or whom the bot may not see, are left out."""

    async def bot_name(self) -> str:
        """Return the name of the bot itself; "" if the platform does not say."""


LookupOf = Callable[[UUID], Awaitable[Lookup]]
"""(installation id) → its `Lookup`. Raises a GatewayError if the installation may not be used."""


class Introductions:
    """Asks platforms for the names of a person and a bot, to show them on a page."""

    def __init__(self, lookups: Mapping[str, LookupOf], *, seconds: float = INTRODUCTION_SECONDS) -> None:
        """`lookups` are the platforms that can be asked, by channel type."""
        self._lookups = lookups
        self._seconds = seconds

    async def of(self, channel_type: str, installation_id: UUID, account_id: str) -> Introduction:
        """Return the names that the platform gives in time.

        A refusal or a failure of the platform leaves a name out; it is never an error.
        """
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
