"""The toy platform: what people and bots do on it, what tests plan to go wrong, and what must never happen."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import trio

from gateway.channel.channel import LinkLost, LinkRefused
from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnreachable
from gateway.channel.message import OutboundMessage, SendResult
from gateway.core.pacing import UNLIMITED, CallLimits, Limit
from support.simulated import simulated_now

REDELIVERY_SECONDS = 0.2
CLOCKS_APART_SECONDS = 1.0
PLACEHOLDER = "…"
WITHDRAWN = ""
"""The text of a message that was edited to nothing: nobody sees it."""

Fault = Callable[[], Awaitable[None]]
SHOW, HIDE, READ, EDIT = "call:show", "call:hide", "call:read", "call:edit"
"""Calls that faults can be planned for. A fault of a message is planned under its text."""


def raising(error: Exception) -> Fault:
    async def raise_it() -> None:
        raise error

    return raise_it


def sleeping(seconds: float) -> Fault:
    async def sleep() -> None:
        await trio.sleep(seconds)

    return sleep


async def never_answering() -> None:
    await trio.sleep_forever()


@dataclass(eq=False)
class ToyMessage:
    """A message as people see it. `mentions` are the bots it addresses; `look` is how the platform draws it."""

    id: str
    chat: str
    author: str
    text: str
    at: float
    mentions: tuple[str, ...] = ()
    reply_to: str = ""
    look: str = "plain"
    files: dict[str, bytes] = field(default_factory=dict)
    edits: list[str] = field(default_factory=list)
    """The earlier texts, oldest first."""


@dataclass(eq=False)
class Update:
    """A message on its way to a bot, until the bot has settled it. `number` grows, for one bot."""

    number: int
    message: ToyMessage


@dataclass(slots=True, eq=False)
class ToyLink:
    """One live link. `raw` is the config that it logged in with; `ending` is the error that the platform ends it with.

    The platform pushes updates into `updates`.
    """

    platform: ToyPlatform
    installation_id: UUID
    node: str
    raw: dict[str, Any]
    opened_at: float
    closed_at: float | None = None
    ending: Exception | None = None
    updates: trio.MemoryReceiveChannel[Update] = field(init=False)
    _push: trio.MemorySendChannel[Update] = field(init=False)

    def __post_init__(self) -> None:
        self._push, self.updates = trio.open_memory_channel[Update](math.inf)

    @property
    def bot(self) -> str:
        return str(self.raw["app_id"])

    @property
    def secret(self) -> str:
        return str(self.raw.get("secret", ""))

    @property
    def open(self) -> bool:
        return self.closed_at is None

    def push(self, update: Update) -> None:
        if self.open and self.ending is None:
            self._push.send_nowait(update)
            self.platform.count_delivery(self.bot, update)

    def close(self) -> None:
        """Close both ends, without waiting."""
        if self.closed_at is None:
            self.closed_at = trio.current_time()
            self._push.close()
            self.updates.close()
            self.platform.note("close", self)
            self.platform.live[self.installation_id].remove(self)

    def drop(self, error: Exception) -> None:
        self.ending = error
        self._push.close()


@dataclass(slots=True, eq=False)
class Poll:
    """One long poll. `outcome` is empty until it ends: answered, empty, lost or cancelled."""

    bot: str
    node: str
    started_at: float
    outcome: str = ""


@dataclass(slots=True)
class ToyPlatform:
    """Everything on the platform. What people see of bots is `visible`; `calls` are all attempts to say something.

    `before` and `after` hold the faults of the next calls, by text or by name of the call; what is planned `before` a
    call happens in place of it when it raises. `secrets` are those of the bots; a bot that is not there needs none.
    Idempotency keys are kept for `key_seconds`. Calls above `limits` are refused. `judge` may refuse a link. `witness`
    is asked at every start and end of a link, and returns what is wrong in words, or "". `breaches` collects what must
    not happen: raised in a channel, a supervisor would survive it. `trace` is for comparing runs.
    """

    clock: Callable[[], float] = simulated_now
    key_seconds: float = 3600.0
    limits: CallLimits = UNLIMITED
    readable: bool = True
    offline: bool = False
    nursery: trio.Nursery | None = None
    """Where updates wait that are to be pushed again."""

    rng: Random = field(default_factory=lambda: Random(0))
    dial_seconds: tuple[float, float] = (0.0, 0.0)
    settle_seconds: tuple[float, float] = (0.0, 0.0)
    shield_seconds: float = 1.0
    judge: Callable[[UUID, dict[str, Any]], Exception | None] = lambda _id, _config: None
    witness: Callable[[str, ToyLink], str] = lambda _event, _link: ""

    secrets: dict[str, str] = field(default_factory=dict)
    bots: set[str] = field(default_factory=set)
    messages: list[ToyMessage] = field(default_factory=list)
    before: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    after: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))

    live: dict[UUID, list[ToyLink]] = field(default_factory=lambda: defaultdict(list))
    links: list[ToyLink] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    attempts: list[tuple[float, UUID]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    trace: list[tuple[float, str, str, UUID]] = field(default_factory=list)
    deliveries: Counter[tuple[str, str]] = field(default_factory=Counter)
    settled: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a bot was given a message, and how often it acknowledged one."""

    calls: list[OutboundMessage] = field(default_factory=list)
    call_times: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    typing_calls: list[str] = field(default_factory=list)
    signs: dict[str, str] = field(default_factory=dict)
    """The typing signs that are shown: the message, and the handle of its sign."""
    log: list[tuple[str, str]] = field(default_factory=list)
    """The answers, and the signs shown and hidden, in order."""
    throttled: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    typing_in_flight: int = 0
    typing_in_flight_max: int = 0

    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _updates: dict[str, list[Update]] = field(default_factory=lambda: defaultdict(list))
    _keys: dict[str, tuple[str, float]] = field(default_factory=dict)
    _sent_at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _moved: trio.Event = field(default_factory=trio.Event)

    # what people do

    def write(self, person: str, bot: str, text: str, **details: Any) -> ToyMessage:
        """A person writes to a bot alone."""
        return self._say(f"~{person}", person, text, heard_by=bot, mentions=(bot,), **details)

    def write_in_group(
        self, person: str, chat: str, text: str, *, heard_by: str, to: str = "", **details: Any
    ) -> ToyMessage:
        return self._say(chat, person, text, heard_by=heard_by, mentions=(to,) if to else (), **details)

    def redeliver(self, message: ToyMessage, bot: str) -> None:
        """Hand a bot a message that it settled already."""
        update = Update(next(self._numbers), message)
        self._updates[bot].append(update)
        for link in self._links_of(bot):
            link.push(update)
        self._move()

    def _say(self, chat: str, author: str, text: str, *, heard_by: str, **details: Any) -> ToyMessage:
        message = self._add(chat, author, text, **details)
        self.redeliver(message, heard_by)
        return message

    def _add(self, chat: str, author: str, text: str, *, id: str = "", at: float = 0.0, **details: Any) -> ToyMessage:
        message = ToyMessage(id or f"om_{len(self.messages)}", chat, author, text, at or self.clock(), **details)
        self.messages.append(message)
        return message

    # what tests look at

    @property
    def visible(self) -> list[tuple[str, str]]:
        """What bots said: the chat and the text."""
        return [(each.chat, each.text) for each in self.messages if each.author in self.bots and each.text]

    def texts(self, chat: str) -> list[str]:
        return [text for where, text in self.visible if where == chat]

    def answers(self, chat: str) -> list[ToyMessage]:
        seen = (each for each in self.messages if each.chat == chat and each.author in self.bots)
        return [each for each in seen if each.text not in {PLACEHOLDER, WITHDRAWN}]

    def find(self, message_id: str) -> ToyMessage:
        return next(message for message in self.messages if message.id == message_id)

    def sole(self, installation_id: UUID) -> ToyLink | None:
        return next(iter(self.live[installation_id]), None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something happened on the platform and `condition` holds."""
        while not condition():
            await self._moved.wait()

    async def until_live(self, installation_id: UUID, *, on: str = "", since: float = -1.0) -> ToyLink:
        def is_live() -> bool:
            link = self.sole(installation_id)
            return link is not None and link.opened_at > since and on in {"", link.node}

        await self.until(is_live)
        link = self.sole(installation_id)
        assert link is not None
        return link

    async def until_linked(self, bot: str, *, links: int = 1, seconds: float = 15) -> ToyLink:
        """Wait until a bot holds a link, and has had at least so many."""

        def is_linked() -> bool:
            had = [link for link in self.links if link.bot == bot]
            return len(had) >= links and had[-1].open

        with trio.fail_after(seconds):
            await self.until(is_linked)
        return next(link for link in reversed(self.links) if link.bot == bot)

    async def until_polled(self, bot: str, *, nodes: int = 1, seconds: float = 15) -> Poll:
        """Wait until a poll of a bot is open, and so many processes have polled for it."""

        def is_polled() -> bool:
            own = [poll for poll in self.polls if poll.bot == bot]
            return len({poll.node for poll in own}) >= nodes and not own[-1].outcome

        with trio.fail_after(seconds):
            await self.until(is_polled)
        return next(poll for poll in reversed(self.polls) if poll.bot == bot)

    async def until_answered(self, chat: str, count: int = 1, *, seconds: float = 15) -> list[ToyMessage]:
        with trio.fail_after(seconds):
            await self.until(lambda: len(self.answers(chat)) >= count)
        return self.answers(chat)

    async def until_settled(self, message: ToyMessage, bot: str, times: int = 1, *, seconds: float = 15) -> None:
        with trio.fail_after(seconds):
            await self.until(lambda: self.settled[bot, message.id] >= times)

    # outages

    def go_offline(self) -> None:
        """Nothing reaches the platform any more, until `come_back`."""
        self.offline = True
        for link in [link for links in self.live.values() for link in links]:
            link.drop(LinkLost("the platform is offline"))
        self._move()

    def come_back(self) -> None:
        self.offline = False
        self._move()

    def unplug(self, node: str) -> None:
        """A process died: the kernel closes its sockets."""
        for links in list(self.live.values()):
            for link in [link for link in links if link.node == node]:
                link.close()

    # links and polls

    def log_in(self, installation_id: UUID, raw: dict[str, Any]) -> None:
        """Raises LinkRefused, or LinkLost when the platform is offline."""
        if self.offline:
            raise LinkLost("the platform is offline")
        if (refusal := self.judge(installation_id, raw)) is not None:
            raise refusal
        bot = raw["app_id"]
        if self.secrets.get(bot, "") != raw.get("secret", "") and bot in self.secrets:
            raise LinkRefused(7, "wrong secret")
        self.bots.add(bot)

    async def dial(self, installation_id: UUID, node: str, raw: dict[str, Any]) -> ToyLink:
        self.attempts.append((trio.current_time(), installation_id))
        await trio.sleep(self.rng.uniform(*self.dial_seconds))
        self.log_in(installation_id, raw)
        link = ToyLink(self, installation_id, node, raw, trio.current_time())
        if others := self._links_of(link.bot, installation_id):
            self.breaches.append(f"{node} opened a second link at {link.opened_at}, beside {[o.node for o in others]}")
        self.live[installation_id].append(link)
        self.links.append(link)
        self.note("open", link)
        for update in self._updates[link.bot]:
            link.push(update)
        return link

    def note(self, event: str, link: ToyLink) -> None:
        self.trace.append((trio.current_time(), event, link.node, link.installation_id))
        if wrong := self.witness(event, link):
            self.breaches.append(f"at {trio.current_time()}, {event} by {link.node}: {wrong}")
        self._move()

    def settle(self, link: ToyLink, update: Update, *, done: bool) -> None:
        """A bot acknowledges an update; one that is not done is pushed again."""
        if done:
            self._settle(link.bot, update)
        else:
            assert self.nursery is not None
            self.nursery.start_soon(self._push_later, link, update)

    async def _push_later(self, link: ToyLink, update: Update) -> None:
        await trio.sleep(REDELIVERY_SECONDS)
        link.push(update)

    async def poll(self, bot: str, node: str, *, after: int, seconds: float) -> list[Update]:
        """Return the updates after a number, as soon as there are any; with none, after so many seconds.

        What came up to that number is settled by that.
        """
        await trio.lowlevel.checkpoint()
        if self.offline:
            raise LinkLost("the platform is offline")
        if any(other.bot == bot and not other.outcome for other in self.polls):
            self.breaches.append(f"{bot} is polled twice at a time")
        self.confirm(bot, after)
        poll = Poll(bot, node, trio.current_time())
        self.polls.append(poll)
        self._move()
        try:
            with trio.move_on_after(seconds):
                await self.until(lambda: self.offline or bool(self._updates[bot]))
            poll.outcome = "lost" if self.offline else "answered" if self._updates[bot] else "empty"
        finally:
            poll.outcome = poll.outcome or "cancelled"
            self._move()
        if self.offline:
            raise LinkLost("the platform is offline")
        for update in self._updates[bot]:
            self.count_delivery(bot, update)
        return list(self._updates[bot])

    def count_delivery(self, bot: str, update: Update) -> None:
        self.deliveries[bot, update.message.id] += 1
        self._move()

    def confirm(self, bot: str, number: int) -> None:
        """A bot has settled everything up to a number."""
        for update in list(self._updates[bot]):
            if update.number <= number:
                self._settle(bot, update)

    def _settle(self, bot: str, update: Update) -> None:
        if update in self._updates[bot]:
            self._updates[bot].remove(update)
            self.settled[bot, update.message.id] += 1
            self._move()

    def _links_of(self, bot: str, installation_id: UUID | None = None) -> list[ToyLink]:
        live = (link for links in self.live.values() for link in links)
        return [link for link in live if link.bot == bot or link.installation_id == installation_id]

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # what bots do

    async def send(self, bot: str, message: OutboundMessage, *, look: str = "plain", edits: str = "") -> SendResult:
        """Say something. With `edits` an earlier message is changed to it; then no key is needed for it to be safe."""
        self.calls.append(message)
        self.call_times.append(trio.current_time())
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        self.bots.add(bot)
        try:
            await self._fail(self.before, message.text)
            self._count(message.chat_id or message.user_id)
            result = SendResult(edits) if edits else self._say_once(bot, message, look)
            if edits:
                self._change(edits, message.text)
            self._move()
            await self._fail(self.after, message.text)
        finally:
            self.in_flight -= 1
        self.log.append(("answer", message.text))
        return result

    def _say_once(self, bot: str, message: OutboundMessage, look: str) -> SendResult:
        key, now = message.idempotency_key, trio.current_time()
        message_id, at = self._keys.get(key, ("", -math.inf))
        if now - at >= self.key_seconds:
            chat = message.chat_id or f"~{message.user_id}"
            message_id = self._add(chat, bot, message.text, reply_to=message.reply_to, look=look).id
            self._keys[key] = (message_id, now)
        return SendResult(message_id)

    def _count(self, chat: str) -> None:
        """Refuse a call that is one too many."""
        for name, limits in (("app", self.limits.app), (f"chat {chat}", self.limits.chat)):
            if any(self._is_over(name, limit) for limit in limits):
                self.throttled += 1
                raise PlatformThrottled("slow down", retry_after=1.0, whole_app=name == "app")
        for name in ("app", f"chat {chat}"):
            self._sent_at[name].append(trio.current_time())

    def _is_over(self, name: str, limit: Limit) -> bool:
        recent = [at for at in self._sent_at[name] if at > trio.current_time() - limit.seconds]
        return len(recent) >= limit.calls

    async def edit(self, message_id: str, text: str) -> None:
        await self._fail(self.before, EDIT)
        self._change(message_id, text)
        self._move()

    def _change(self, message_id: str, text: str) -> None:
        message = self.find(message_id)
        if message.text != text:
            message.edits.append(message.text)
            message.text, message.at = text, self.clock()

    async def find_sent(self, message: OutboundMessage, since: datetime, known: Collection[str]) -> str | None:
        """As people would find it: by the words, and by when they were said."""
        self.reads.append(trio.current_time())
        await self._fail(self.before, READ)
        if not self.readable:
            raise PlatformRefused("the chat cannot be read", code=9)
        earliest = since.timestamp() - CLOCKS_APART_SECONDS
        for said in self.answers(message.chat_id or f"~{message.user_id}"):
            if said.text == message.text and said.at >= earliest and said.id not in known:
                return said.id
        return None

    async def show_typing(self, message_id: str) -> str:
        async with self._typing_call("show", SHOW):
            self.show(message_id)
        return f"sign of {message_id}"

    async def hide_typing(self, message_id: str) -> None:
        async with self._typing_call("hide", HIDE):
            self.hide(message_id)

    @asynccontextmanager
    async def _typing_call(self, name: str, faults: str) -> AsyncIterator[None]:
        self.typing_calls.append(name)
        self.typing_in_flight += 1
        self.typing_in_flight_max = max(self.typing_in_flight, self.typing_in_flight_max)
        try:
            await self._fail(self.before, faults)
            yield
            self._move()
            await self._fail(self.after, faults)
        finally:
            self.typing_in_flight -= 1

    def show(self, message_id: str) -> None:
        if message_id not in self.signs:
            self.signs[message_id] = f"sign of {message_id}"
            self.log.append(("show", message_id))

    def hide(self, message_id: str) -> None:
        if self.signs.pop(message_id, None):
            self.log.append(("hide", message_id))

    async def show_placeholder(self, bot: str, message_id: str) -> str:
        """Put a message under another that says that an answer will come. There is one at a time."""
        async with self._typing_call("show", SHOW):
            asked = self.find(message_id)
            there = (each for each in self.messages if each.reply_to == message_id and each.text == PLACEHOLDER)
            shown = next(there, None) or self._add(asked.chat, bot, PLACEHOLDER, reply_to=message_id)
        return shown.id

    async def _fail(self, planned: dict[str, list[Fault]], subject: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.offline:
            raise PlatformUnreachable("the platform is offline")
        if planned[subject]:
            await planned[subject].pop(0)()


def wall_clock() -> float:
    return datetime.now(UTC).timestamp()


@asynccontextmanager
async def open_toy_platform(**facts: Any) -> AsyncIterator[ToyPlatform]:
    """A platform for the block, on the real clock. No bot was ever there twice when the block ends well."""
    async with trio.open_nursery() as nursery:
        platform = ToyPlatform(clock=wall_clock, nursery=nursery, **facts)
        yield platform
        assert platform.breaches == []
        nursery.cancel_scope.cancel()
