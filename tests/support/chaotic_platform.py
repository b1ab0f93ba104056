"""A platform that is faithful where it hurts: it works on after its caller has gone, and forgets keys after an hour."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

import trio

from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.channel.message import OutboundMessage, SendResult
from support.simulated import EPOCH

DEDUPE_SECONDS = 3600.0
CLOCKS_APART_SECONDS = 60.0
READ_WINDOW_SECONDS = 70 * 60.0
HANG_SECONDS_MAX = 20.0
LIMITS = {"app": ((50, 1.0), (1000, 60.0)), "chat": ((5, 1.0),)}

FATES = (
    "lost", "silent", "late", "late and lost", "5xx after", "fault after",
    "reset", "5xx before", "fault before", "unreachable", "throttled app", "throttled chat", "token",
)  # fmt: skip
"""What may become of a call in a storm. The first ones happen after it was done."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A message in a chat, as people see it."""

    message_id: str
    chat: str
    text: str
    key: str
    at: float


@dataclass(slots=True, eq=False)
class StormCall:
    message: OutboundMessage
    fate: str
    caller: int
    done: trio.Event = field(default_factory=trio.Event)
    outcome: SendResult | Exception | None = None

    def end(self, outcome: SendResult | Exception) -> None:
        self.outcome = outcome
        self.done.set()


class ChaoticPlatform:
    """What people see is `seen`, in order. `breaches` is what must not happen; `storm` how often calls go wrong.

    Calls are worked on in `network`, whatever becomes of their callers, for `HANG_SECONDS_MAX` at most. `barred` chats
    refuse messages for a time, `unreadable` ones refuse to be read.
    """

    def __init__(self, rng: Random, network: trio.Nursery) -> None:
        self.seen: list[Seen] = []
        self.breaches: list[str] = []
        self.fates: Counter[str] = Counter()
        self.storm = 0.0
        self.away = False
        self.barred: set[str] = set()
        self.unreadable: set[str] = set()
        self.said_no: set[str] = set()
        self.faults: Counter[str] = Counter()
        self.signs: set[str] = set()
        self.reads = 0
        self._rng = rng
        self._network = network
        self._keys: dict[str, Seen] = {}
        self._by_key: dict[str, list[Seen]] = defaultdict(list)
        self._arrivals: dict[tuple[str, object], deque[float]] = defaultdict(lambda: deque(maxlen=1001))

    def with_key(self, key: str) -> list[Seen]:
        return self._by_key[key]

    # -- sending

    async def send(self, caller: int, message: OutboundMessage) -> SendResult:
        call = StormCall(message, self._fate(), caller)
        if call.fate == "unreachable":
            await self._travel()
            raise PlatformUnreachable("no connection")
        self._network.start_soon(self._work, call)
        await call.done.wait()
        if isinstance(call.outcome, Exception):
            raise call.outcome
        assert call.outcome is not None
        return call.outcome

    async def _work(self, call: StormCall) -> None:
        await self._travel()
        if self.away:
            return  # nobody will ever answer
        try:
            self._admit(call)
            if call.fate.startswith("late"):
                await trio.sleep(self._rng.uniform(0, HANG_SECONDS_MAX))
            result = self._accept(call.message)
        except Exception as error:
            await self._travel()
            call.end(error)
            return
        await self._travel()
        if call.fate in {"silent", "late and lost"}:
            return
        failure = self._failure_after(call)
        call.end(result if failure is None else failure)

    def _admit(self, call: StormCall) -> None:
        """Raise what comes instead of doing it. Limits count what arrives, of each caller: it knows of no other."""
        self._count(call.caller, "app", "app")
        self._count(call.caller, "chat", call.message.chat_id)
        match call.fate:
            case "reset":
                raise PlatformUnavailable("connection reset")
            case "5xx before":
                raise PlatformUnavailable("bad gateway", code=502)
            case "fault before":
                self.faults[call.message.idempotency_key] += 1
                raise ValueError("a bug")
            case "throttled app" | "throttled chat":
                whole_app = call.fate == "throttled app"
                raise PlatformThrottled("slow down", retry_after=self._rng.choice([0.5, 2, 60]), whole_app=whole_app)
            case "token":
                raise PlatformUnauthorized("token")

    def _count(self, caller: int, kind: str, key: str) -> None:
        now, arrivals = trio.current_time(), self._arrivals[kind + key, caller]
        for calls, seconds in LIMITS[kind]:
            if len(arrivals) >= calls and arrivals[-calls] > now - seconds:
                self.breaches.append(f"{calls + 1} calls in {seconds} s to {key} at {now}")
        arrivals.append(now)

    def _accept(self, message: OutboundMessage) -> SendResult:
        now, key = trio.current_time(), message.idempotency_key
        if message.chat_id in self.barred:
            self.said_no.add(key)
            raise PlatformRefused("the bot is not in the chat", code=230002)
        earlier = self._keys.get(key)
        if earlier is None or now - earlier.at > DEDUPE_SECONDS:
            if earlier is not None:
                self.breaches.append(f"{message.text!r} is seen twice at {now}, first at {earlier.at}")
            earlier = self._keys[key] = Seen(f"om_{len(self.seen)}", message.chat_id, message.text, key, now)
            self.seen.append(earlier)
            self._by_key[key].append(earlier)
        return SendResult(earlier.message_id)

    def _failure_after(self, call: StormCall) -> Exception | None:
        match call.fate:
            case "lost":
                return PlatformUnavailable("connection reset")
            case "5xx after":
                return PlatformUnavailable("gateway timeout", code=504)
            case "fault after":
                self.faults[call.message.idempotency_key] += 1
                return ValueError("a bug")
        return None

    # -- reading and signs

    async def find(self, message: OutboundMessage, since: datetime, known: Collection[str]) -> str | None:
        """As people would: by the words, and by when they were said."""
        await self._reply()
        self.reads += 1
        if message.chat_id in self.unreadable:
            raise PlatformRefused("no permission", code=230027)
        first = (since - EPOCH).total_seconds()
        for seen in self.seen:
            told = seen.chat == message.chat_id and seen.text == message.text and seen.message_id not in known
            if told and -CLOCKS_APART_SECONDS <= seen.at - first <= READ_WINDOW_SECONDS:
                return seen.message_id
        return None

    async def show(self, message_id: str) -> str:
        await self._reply()
        self.signs.add(message_id)
        return f"sign of {message_id}"

    async def hide(self, message_id: str) -> None:
        await self._reply()
        self.signs.discard(message_id)

    async def _reply(self) -> None:
        """A call that changes nothing worth following: it works, or fails before."""
        await self._travel()
        if self.away:
            await trio.sleep_forever()
        failure = self._ordinary_failure(self._fate())
        if failure is not None:
            raise failure

    def _ordinary_failure(self, fate: str) -> Exception | None:
        if fate.startswith("fault"):
            return ValueError("a bug")
        if fate.startswith("throttled"):
            return PlatformThrottled("slow down", retry_after=2, whole_app=fate == "throttled app")
        if fate == "token":
            return PlatformUnauthorized("token")
        return None if fate == "fine" else _unavailable(fate)

    # -- dice

    def _fate(self) -> str:
        fate = self._rng.choice(FATES) if self._rng.random() < self.storm else "fine"
        self.fates[fate] += 1
        return fate

    async def _travel(self) -> None:
        await trio.sleep(self._rng.choice([0.001, 0.01, 0.05, 0.3]))


def _unavailable(fate: str) -> PlatformError:
    return PlatformUnreachable(fate) if fate == "unreachable" else PlatformUnavailable(fate)
