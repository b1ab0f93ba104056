"""The adapter of the toy town: what a next author writes to add a platform, and nothing else.

Two platforms are made of it. `toy` is all that the contract demands: it hears and says bare words. `fulltoy` does
everything that a channel may do besides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import trio

from gateway.channel.capability import Capability
from gateway.channel.channel import ChannelConfig, ConnectionState, LinkLost, LinkRefused, Verdict
from gateway.channel.errors import PlatformRefused, PlatformUnavailable, PlatformUnreachable
from gateway.channel.message import (
    ChatType,
    InboundMessage,
    MediaRef,
    MessageType,
    OutboundMessage,
    ReplyTo,
    SendResult,
    Source,
)
from gateway.channel.registry import Traits
from gateway.concurrency import open_finishing_nursery
from gateway.core.attachments import FetchProblem
from gateway.core.enrichment import Author, AuthorKind, Recent, Said, Spot
from gateway.daemon.foundation import Foundation
from gateway.daemon.platforms import Platform
from gateway.work.tasks.attachments import FetchFailed, FileSink, StoredAttachment
from support.toy_town import Line, Spoken, Town

TOY, FULL = "toy", "fulltoy"
BARE = Capability.TEXT
EVERYTHING = Capability.TEXT | Capability.RICH_CARD | Capability.ATTACHMENT | Capability.TYPING_INDICATOR
_SETTLE_SECONDS = 1.0


class ToyChannel:
    """Implements gateway.channel.channel.Channel on one line to the town."""

    capabilities = BARE

    def __init__(self, town: Town, slug: str, config: ChannelConfig) -> None:
        self.type = slug
        self._town = town
        self._config = config
        self._handle: str = config.raw["app_id"]
        self._line: Line | None = None
        self._calls: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        line = self._town.dial()
        keep = self._config.fence.on_fall(line.cut)
        try:
            await line.write(i_am=self._handle, key=self._config.raw.get("door_key", ""), gate=self._config.raw["gate"])
            await self._talk(line, task_status)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as group:
            raise LinkLost("the line was cut") from group
        finally:
            self._line = None
            line.cut()
            keep()

    async def _talk(self, line: Line, task_status: trio.TaskStatus[None]) -> None:
        """What was told is settled before the line is left, also when somebody else is to go on with it."""
        arrived, waiting = trio.open_memory_channel[dict[str, Any]](math.inf)
        async with open_finishing_nursery(_SETTLE_SECONDS) as nursery:
            nursery.start_soon(self._decide, line, waiting)
            with arrived:
                while (words := await line.read()) is not None:
                    self._config.health.last_frame_at = datetime.now(UTC)
                    match words:
                        case {"sorry": reason}:
                            raise LinkRefused(7, reason)
                        case {"welcome": _}:
                            self._line = line
                            self._config.health.state = ConnectionState.LIVE
                            task_status.started()
                        case {"told": told}:
                            self._config.health.last_event_at = datetime.now(UTC)
                            arrived.send_nowait(told)
                        case {"call": number} if number in self._calls:
                            self._calls[number].send_nowait(words)
        raise LinkLost("the town hung up")

    async def _decide(self, line: Line, waiting: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        """One after the other, so that what belongs to one chat keeps its order."""
        async for told in waiting:
            try:
                verdict = await self._config.handler(decode(told, self.type, self._handle))
            except Exception:
                verdict = Verdict.REDELIVER
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # It is told again.
                await line.write(settled=told["number"], done=verdict is Verdict.SETTLED)

    async def send(self, message: OutboundMessage) -> SendResult:
        answer = await self._call(
            say=message.text,
            room=message.chat_id or f"~{message.user_id}",
            token=message.idempotency_key,
            answers=message.reply_to,
            looks=self._looks(message),
        )
        if "no" in answer:
            raise PlatformRefused(f"the town says {answer['no']}", code=3)
        return SendResult(answer["number"])

    def _looks(self, _message: OutboundMessage) -> str:
        return "plain"

    async def _call(self, **words: Any) -> dict[str, Any]:
        if self._line is None:
            raise PlatformUnreachable("there is no line to the town")
        number = next(self._numbers)
        self._calls[number], answers = trio.open_memory_channel[dict[str, Any]](1)
        try:
            await self._line.write(call=number, **words)
            return await answers.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PlatformUnavailable("the line was cut during the call") from error
        finally:
            del self._calls[number]


class FullToyChannel(ToyChannel):
    """Implements Typing and ReadBack as well, and draws cards."""

    capabilities = EVERYTHING

    def _looks(self, message: OutboundMessage) -> str:
        return f"card:{message.tone}"

    async def show_typing(self, message_id: str) -> str:
        await self._call(wave_at=message_id)
        return f"wave-{message_id}"

    async def hide_typing(self, message_id: str, handle: str) -> None:
        assert handle == f"wave-{message_id}"
        await self._call(stop_waving_at=message_id)

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        await trio.lowlevel.checkpoint()
        found = (
            spoken.number
            for spoken in self._town.answers(message.chat_id)
            if spoken.text == message.text and spoken.at >= since.timestamp() and spoken.number not in known
        )
        return next(found, None)


def decode(told: Mapping[str, Any], slug: str, handle: str) -> InboundMessage:
    """What was told, as the core wants it."""
    media = tuple(MediaRef(MessageType.FILE, name, name) for name in told["parcels"])
    return InboundMessage(
        app_id=handle,
        event_id=f"told-{told['number']}",
        message_id=told["number"],
        source=Source(
            channel_type=slug,
            chat_id=told["room"],
            chat_type=ChatType.P2P if told["room"].startswith("~") else ChatType.GROUP,
            sender_id=told["author"],
        ),
        type=MessageType.FILE if media else MessageType.TEXT,
        text=told["text"],
        command_text=told["text"],
        sent_at=datetime.fromtimestamp(told["at"], UTC),
        media=media,
        reply_to=ReplyTo(told["answers"]) if told["answers"] else None,
        addressed_to_bot=handle in told["to"],
        event_type="told",
    )


@dataclass(frozen=True)
class ToyLookup:
    """Implements gateway.channel.lookup.Lookup."""

    town: Town

    async def message(self, message_id: str) -> Sequence[Said]:
        await trio.lowlevel.checkpoint()
        return [_said(spoken, self.town) for spoken in self.town.spoken if spoken.number == message_id]

    async def recent(self, spot: Spot) -> Recent:
        await trio.lowlevel.checkpoint()
        listed = [_said(spoken, self.town) for spoken in reversed(self.town.spoken) if spoken.room == spot.chat_id]
        return Recent(tuple(reversed(spot.preceding(listed))), complete=True)

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        await trio.lowlevel.checkpoint()
        return {each: each.title() for each in ids}

    async def bot_name(self) -> str:
        await trio.lowlevel.checkpoint()
        return "Toy"


def _said(spoken: Spoken, town: Town) -> Said:
    kind = AuthorKind.ASSISTANT if spoken.author in town.doors else AuthorKind.PERSON
    at = datetime.fromtimestamp(spoken.at, UTC)
    return Said(spoken.number, Author(spoken.author, kind), "words", spoken.text, at, chat_id=spoken.room)


@dataclass
class ToyFiles:
    """Implements gateway.work.tasks.attachments.FileSource."""

    town: Town
    fetched: list[str] = field(default_factory=list)

    async def download(self, wanted: StoredAttachment, sink: FileSink) -> None:
        data = self.town.find(wanted.channel_message_id).parcels.get(wanted.channel_key)
        if data is None:
            raise FetchFailed(FetchProblem.NOT_AVAILABLE, "the parcel is gone")
        self.fetched.append(wanted.channel_key)
        sink.begin(content_type="text/plain", disposition="", length=len(data))
        await sink.write(data)


def in_pieces(text: str) -> list[str]:
    """An answer of the full toy: the town takes a thousand characters at a time."""
    return [text[start : start + 1000] for start in range(0, len(text), 1000)] or [""]


def toy(town: Town) -> Platform:
    """All that has to be said to the daemon about a platform of bare words."""

    def register(foundation: Foundation) -> None:
        traits = Traits(titles={"en": "Toy Town"}, identity_keys=("app_id", "gate"), key_seconds=3600.0)
        foundation.registry.register(TOY, partial(ToyChannel, town, TOY), traits)

    return Platform(TOY, register)


def keyless_toy(town: Town) -> Platform:
    """The same for one that keeps no idempotency keys, but can be read back."""

    def register(foundation: Foundation) -> None:
        town.keeps_keys = False
        traits = Traits(titles={"en": "Keyless Toy Town"}, capabilities=EVERYTHING, identity_keys=("app_id", "gate"))
        foundation.registry.register(FULL, partial(FullToyChannel, town, FULL), traits)

    return Platform(FULL, register)


def full_toy(town: Town) -> Platform:
    """The same for one that can do everything."""

    def register(foundation: Foundation) -> None:
        async def lookup_of(_installation_id: UUID) -> ToyLookup:
            return ToyLookup(town)

        traits = Traits(
            titles={"en": "Full Toy Town"},
            capabilities=EVERYTHING,
            identity_keys=("app_id", "gate"),
            divide=in_pieces,
            lookup_of=lookup_of,
            key_seconds=3600.0,
        )
        foundation.registry.register(FULL, partial(FullToyChannel, town, FULL), traits)
        foundation.files[FULL] = ToyFiles(town)

    return Platform(FULL, register)
