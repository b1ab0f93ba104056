"""The channels of the toy platform: what a next author writes to add a platform, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import trio

from gateway.channel.capability import Capability
from gateway.channel.channel import ChannelConfig, ConnectionState, LinkLost, Verdict
from gateway.channel.errors import PlatformUnreachable
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
from gateway.concurrency import finishing, open_finishing_nursery
from gateway.core.attachments import FetchProblem
from gateway.core.enrichment import Author, AuthorKind, Recent, Said, Spot
from gateway.work.tasks.attachments import FetchFailed, FileSink, StoredAttachment
from support.toy.platform import WITHDRAWN, ToyLink, ToyMessage, ToyPlatform, Update

SETTLE_SECONDS = 1.0
POLL_SECONDS = 25.0
POLL_AGAIN_SECONDS = 0.2


async def settled(_message: InboundMessage) -> Verdict:
    """The handler of a channel that hears nothing."""
    return Verdict.SETTLED


NOT_INSTALLED = ChannelConfig(type="toy", installation_id=UUID(int=7), raw={"app_id": "@bot"}, handler=settled)
"""Enough for a channel that only sends."""


class ToyChannel:
    """Implements gateway.channel.channel.Channel on a link that the platform pushes updates into."""

    capabilities = Capability.TEXT

    def __init__(self, platform: ToyPlatform, config: ChannelConfig = NOT_INSTALLED, *, node: str = "") -> None:
        self.type = config.type
        self._platform = platform
        self._config = config
        self._bot: str = config.raw["app_id"]
        self._node = node
        self._down = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        link = await self._platform.dial(self._config.installation_id, self._node, self._config.raw)
        keep = self._config.fence.on_fall(link.close)
        try:
            self._established(task_status)
            await self._receive(link)
        finally:
            self._down = True
            with finishing(self._platform.shield_seconds):
                await trio.sleep(self._platform.rng.uniform(*self._platform.settle_seconds))
            link.close()
            keep()

    def _established(self, task_status: trio.TaskStatus[None]) -> None:
        self._down = False
        self._config.health.state = ConnectionState.LIVE
        task_status.started()

    async def _receive(self, link: ToyLink) -> None:
        """Decide what was pushed. What has arrived is settled before the link is left, also for a hand-over."""
        arrived, waiting = trio.open_memory_channel[Update](math.inf)
        async with open_finishing_nursery(SETTLE_SECONDS) as nursery:
            nursery.start_soon(self._decide_all, link, waiting)
            with arrived:
                try:
                    while True:
                        arrived.send_nowait(await link.updates.receive())
                except (trio.EndOfChannel, trio.ClosedResourceError):
                    raise link.ending or LinkLost("the link was cut") from None

    async def _decide_all(self, link: ToyLink, waiting: trio.MemoryReceiveChannel[Update]) -> None:
        """One after the other, so that the messages of one chat keep their order."""
        async for update in waiting:
            done = await self._decide(update)
            if link.open:  # Otherwise the next link gets it again.
                self._platform.settle(link, update, done=done)

    async def _decide(self, update: Update) -> bool:
        self._config.health.last_frame_at = self._config.health.last_event_at = datetime.now(UTC)
        try:
            verdict = await self._config.handler(decode(update.message, self.type, self._bot))
        except Exception:
            verdict = Verdict.REDELIVER
        if verdict is Verdict.REDELIVER:
            self._config.health.asked_again_at = trio.current_time()
        return verdict is Verdict.SETTLED

    async def send(self, message: OutboundMessage) -> SendResult:
        if self._down:
            raise PlatformUnreachable("there is no link to the platform")
        return await self._platform.send(self._bot, message, look=self._look(message))

    def _look(self, _message: OutboundMessage) -> str:
        return "plain"


class FullToyChannel(ToyChannel):
    """Implements Typing and ReadBack as well, and draws cards."""

    capabilities = Capability.TEXT | Capability.RICH_CARD | Capability.ATTACHMENT | Capability.TYPING_INDICATOR

    def _look(self, message: OutboundMessage) -> str:
        return f"card:{message.tone}"

    async def show_typing(self, message_id: str) -> str:
        return await self._platform.show_typing(message_id)

    async def hide_typing(self, message_id: str, handle: str) -> None:
        assert handle == f"sign of {message_id}"
        await self._platform.hide_typing(message_id)

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        return await self._platform.find_sent(message, since, known)


class TypingToyChannel(ToyChannel):
    """Implements Typing alone."""

    capabilities = Capability.TEXT | Capability.TYPING_INDICATOR
    show_typing = FullToyChannel.show_typing
    hide_typing = FullToyChannel.hide_typing


class PollingToyChannel(ToyChannel):
    """A channel without a socket, cards or keys: it polls for updates, and edits what it said.

    A typing sign is a placeholder in the chat. When it is to go, it is emptied, and the next message to its chat takes
    its place.
    """

    capabilities = Capability.TEXT | Capability.TYPING_INDICATOR | Capability.MESSAGE_EDIT

    def __init__(self, platform: ToyPlatform, config: ChannelConfig = NOT_INSTALLED, *, node: str = "") -> None:
        super().__init__(platform, config, node=node)
        self._placeholders: dict[str, str] = {}
        """The emptied placeholder of each chat."""
        self._done = 0
        """The number of the last update that is settled."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._platform.attempts.append((trio.current_time(), self._config.installation_id))
        await trio.lowlevel.checkpoint()
        self._platform.log_in(self._config.installation_id, self._config.raw)
        with trio.CancelScope() as polling:
            keep = self._config.fence.on_fall(polling.cancel)
            try:
                self._established(task_status)
                await self._poll()
            finally:
                self._down = True
                keep()
        raise LinkLost("the lease has ended")

    async def _poll(self) -> None:
        """Each poll settles what came with the one before. What is not settled then comes again."""
        try:
            async with open_finishing_nursery(SETTLE_SECONDS) as nursery:
                while True:
                    updates = await self._platform.poll(self._bot, self._node, after=self._done, seconds=POLL_SECONDS)
                    decided = trio.Event()
                    nursery.start_soon(self._decide_batch, updates, decided)
                    await decided.wait()
        finally:
            self._platform.confirm(self._bot, self._done)

    async def _decide_batch(self, updates: Sequence[Update], decided: trio.Event) -> None:
        self._config.health.last_frame_at = datetime.now(UTC)
        for update in updates:
            if not await self._decide(update):
                await trio.sleep(POLL_AGAIN_SECONDS)
                break
            self._done = update.number
        decided.set()

    async def send(self, message: OutboundMessage) -> SendResult:
        if self._down:
            raise PlatformUnreachable("the platform is not polled")
        # Forgotten before the call: after a call without an answer, the next message must not take the same place.
        return await self._platform.send(self._bot, message, edits=self._placeholders.pop(message.chat_id, ""))

    async def show_typing(self, message_id: str) -> str:
        return await self._platform.show_placeholder(self._bot, message_id)

    async def hide_typing(self, message_id: str, handle: str) -> None:
        await self._platform.edit(handle, WITHDRAWN)
        self._placeholders[self._platform.find(handle).chat] = handle

    async def find_sent(self, message: OutboundMessage, *, since: datetime, known: Collection[str]) -> str | None:
        return await self._platform.find_sent(message, since, known)


def decode(message: ToyMessage, slug: str, bot: str) -> InboundMessage:
    """A message of the platform, as the core wants it."""
    media = tuple(MediaRef(MessageType.FILE, name, name) for name in message.files)
    return InboundMessage(
        app_id=bot,
        event_id=f"update-{message.id}",
        message_id=message.id,
        source=Source(
            channel_type=slug,
            chat_id=message.chat,
            chat_type=ChatType.P2P if message.chat.startswith("~") else ChatType.GROUP,
            sender_id=message.author,
        ),
        type=MessageType.FILE if media else MessageType.TEXT,
        text=message.text,
        command_text=message.text,
        sent_at=datetime.fromtimestamp(message.at, UTC),
        media=media,
        reply_to=ReplyTo(message.reply_to) if message.reply_to else None,
        addressed_to_bot=bot in message.mentions,
        event_type="message",
    )


@dataclass(frozen=True)
class ToyLookup:
    """Implements gateway.channel.lookup.Lookup."""

    platform: ToyPlatform

    async def message(self, message_id: str) -> Sequence[Said]:
        await trio.lowlevel.checkpoint()
        return [self._said(each) for each in self.platform.messages if each.id == message_id]

    async def recent(self, spot: Spot) -> Recent:
        await trio.lowlevel.checkpoint()
        listed = [self._said(each) for each in reversed(self.platform.messages) if each.chat == spot.chat_id]
        return Recent(tuple(reversed(spot.preceding(listed))), complete=True)

    async def names(self, ids: Collection[str]) -> Mapping[str, str]:
        await trio.lowlevel.checkpoint()
        return {each: each.title() for each in ids}

    async def bot_name(self) -> str:
        await trio.lowlevel.checkpoint()
        return "Toy"

    def _said(self, message: ToyMessage) -> Said:
        kind = AuthorKind.ASSISTANT if message.author in self.platform.bots else AuthorKind.PERSON
        author, at = Author(message.author, kind), datetime.fromtimestamp(message.at, UTC)
        return Said(message.id, author, "words", message.text, at, chat_id=message.chat)


@dataclass
class ToyFiles:
    """Implements gateway.work.tasks.attachments.FileSource."""

    platform: ToyPlatform
    fetched: list[str] = field(default_factory=list)

    async def download(self, wanted: StoredAttachment, sink: FileSink) -> None:
        data = self.platform.find(wanted.channel_message_id).files.get(wanted.channel_key)
        if data is None:
            raise FetchFailed(FetchProblem.NOT_AVAILABLE, "the file is gone")
        self.fetched.append(wanted.channel_key)
        sink.begin(content_type="text/plain", disposition="", length=len(data))
        await sink.write(data)
