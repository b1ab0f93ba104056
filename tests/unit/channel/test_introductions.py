from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import pytest
import trio
import trio.testing

from gateway.channel.errors import PlatformRefused, PlatformUnavailable
from gateway.channel.lookup import Introductions, Lookup
from gateway.core.enrichment import Recent, Said, Spot
from gateway.core.introduction import Introduction
from gateway.errors import GatewayError

BOT = UUID(int=7)


@dataclass
class Told:
    """A platform that tells a person's and a bot's name, each after some seconds, or raises."""

    person: str | Exception = "Eve\u202e"
    bot: str | Exception = " Echo "
    person_seconds: float = 0
    bot_seconds: float = 0

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        await trio.sleep(self.person_seconds)
        if isinstance(self.person, Exception):
            raise self.person
        return dict.fromkeys(ids, self.person) if self.person else {}

    async def bot_name(self) -> str:
        await trio.sleep(self.bot_seconds)
        if isinstance(self.bot, Exception):
            raise self.bot
        return self.bot

    async def message(self, message_id: str) -> Sequence[Said]:
        raise NotImplementedError

    async def recent(self, spot: Spot) -> Recent:
        raise NotImplementedError


async def ask(told: Lookup | GatewayError, channel_type: str = "known") -> Introduction:
    async def lookup_of(installation_id: UUID) -> Lookup:
        assert installation_id == BOT
        if isinstance(told, GatewayError):
            raise told
        return told

    with trio.fail_after(2):
        return await Introductions({"known": lookup_of}).of(channel_type, BOT, "ou_eve")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (Told(), Introduction("Eve", "Echo")),
        (Told(person=""), Introduction("", "Echo")),
        (Told(person=PlatformRefused("no right to see people", code=41050)), Introduction("", "Echo")),
        (Told(bot=PlatformUnavailable("no answer")), Introduction("Eve", "")),
        (Told(person_seconds=60), Introduction("", "Echo")),
        (Told(bot_seconds=60), Introduction("Eve", "")),
        (PlatformRefused("revoked"), Introduction()),
    ],
)
async def test_page_gets_the_names_that_are_told_in_time(
    told: Lookup | GatewayError, expected: Introduction, autojump_clock: trio.testing.MockClock
) -> None:
    assert await ask(told) == expected


async def test_platform_that_cannot_be_asked_tells_nothing() -> None:
    assert await ask(Told(), "mute") == Introduction()
