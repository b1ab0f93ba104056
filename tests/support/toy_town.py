"""A second chat platform, unlike the first in everything that the contract leaves open.

Bots hold a stream of JSON lines: they say who they are and what opens the door, the town tells them what was said, and
each telling is settled or comes again. Calls go over the same line. There are no app ids but handles (`@ant`), rooms
are `#garden`, a whisper is the room `~eve`, and messages are numbered.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

LINE_BYTES_MAX = 1_000_000
REDELIVERY_SECONDS = 0.2


class Line:
    """One end of a line."""

    def __init__(self, stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self._stream = stream
        self._turn = trio.Lock()
        self._buffer = b""

    async def write(self, **words: Any) -> None:
        async with self._turn:
            await self._stream.send_all(json.dumps(words).encode() + b"\n")

    async def read(self) -> dict[str, Any] | None:
        """The next words; None when the other end is gone."""
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
            assert len(self._buffer) <= LINE_BYTES_MAX
        line, _, self._buffer = self._buffer.partition(b"\n")
        words: dict[str, Any] = json.loads(line)
        return words

    def cut(self) -> None:
        """Without waiting, and for both ends."""
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


@dataclass
class Spoken:
    """Something that was said. `to` names the bots that are spoken to; `looks` how the town draws it."""

    number: str
    room: str
    author: str
    text: str
    at: float
    to: tuple[str, ...] = ()
    answers: str = ""
    looks: str = "plain"
    waving: set[str] = field(default_factory=set)
    parcels: dict[str, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class Visit:
    """A bot that stands in the town."""

    handle: str
    door_key: str
    gate: str
    line: Line
    open: bool = True


@dataclass
class Town:
    """Everything that was said and everybody who listens. A bot is told again what it did not settle when it is back.

    `doors` has the key of each bot. `trouble` is what becomes of the next calls that say a text: `muted` is refused,
    `lost` is heard but never confirmed. `breaches` are two visits of one bot at a time.
    """

    nursery: trio.Nursery
    doors: dict[str, str] = field(default_factory=dict)
    spoken: list[Spoken] = field(default_factory=list)
    trouble: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    visits: list[Visit] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    settled: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    waves: int = 0
    _unsettled: dict[str, list[Spoken]] = field(default_factory=lambda: defaultdict(list))
    keeps_keys: bool = True
    """False: every message is said, however often its token came before."""
    _keys: dict[str, str] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _moved: trio.Event = field(default_factory=trio.Event)

    # what people do

    def whisper(self, person: str, bot: str, text: str, **details: Any) -> Spoken:
        return self._say(f"~{person}", person, text, [bot], to=(bot,), **details)

    def say_late(self, person: str, bot: str, text: str, *, seconds: float) -> Spoken:
        """A whisper that was on its way for so long."""
        return self._say(f"~{person}", person, text, [bot], to=(bot,), at=now() - seconds)

    def shout(self, person: str, room: str, text: str, *, heard_by: str, to: str = "", **details: Any) -> Spoken:
        return self._say(room, person, text, [heard_by], to=(to,) if to else (), **details)

    def repeat(self, spoken: Spoken, bot: str) -> None:
        """Tell a bot what it was told already."""
        self._tell(spoken, bot)

    def _say(self, room: str, author: str, text: str, bots: list[str], **details: Any) -> Spoken:
        number, at = details.pop("number", str(next(self._numbers))), details.pop("at", now())
        spoken = Spoken(number, room, author, text, at, **details)
        self.spoken.append(spoken)
        for bot in bots:
            self._tell(spoken, bot)
        return spoken

    def _tell(self, spoken: Spoken, bot: str) -> None:
        self._unsettled[bot].append(spoken)
        for visit in self.visits:
            if visit.open and visit.handle == bot:
                self.nursery.start_soon(self._tell_visitor, visit, spoken)

    async def _tell_visitor(self, visit: Visit, spoken: Spoken) -> None:
        parcels = {name: len(data) for name, data in spoken.parcels.items()}
        told = asdict(spoken) | {"parcels": parcels, "waving": []}
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # It is told when it is back.
            await visit.line.write(told=told)

    # what tests look at

    def answers(self, room: str) -> list[Spoken]:
        return [spoken for spoken in self.spoken if spoken.room == room and spoken.author in self.doors]

    async def until_answered(self, room: str, count: int = 1, *, seconds: float = 15) -> list[Spoken]:
        with trio.fail_after(seconds):
            while len(self.answers(room)) < count:
                await self._moved.wait()
        return self.answers(room)

    async def until_settled(self, spoken: Spoken, bot: str, times: int = 1, *, seconds: float = 15) -> None:
        with trio.fail_after(seconds):
            while self.settled[bot, spoken.number] < times:
                await self._moved.wait()

    async def until_visited(self, bot: str, *, visits: int = 1, seconds: float = 15) -> Visit:
        """Wait until a bot is in the town, for at least the so manieth time."""
        with trio.fail_after(seconds):
            while len(all_visits := [visit for visit in self.visits if visit.handle == bot]) < visits or not (
                all_visits[-1].open
            ):
                await self._moved.wait()
        return all_visits[-1]

    def move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # what bots do

    def dial(self) -> Line:
        """A bot's end of a new line. The town's end lives until either side cuts it."""
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self._attend, Line(ours))
        return Line(theirs)

    async def _attend(self, line: Line) -> None:
        visit: Visit | None = None
        try:
            while (words := await line.read()) is not None:
                if visit is None:
                    visit = await self._open_door(words, line)
                elif "settled" in words:
                    self._settle(visit, words["settled"], done=words["done"])
                else:
                    await self._answer_call(visit, words)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            if visit is not None:
                visit.open = False
            self.move()

    async def _open_door(self, words: dict[str, Any], line: Line) -> Visit | None:
        handle, key = words["i_am"], words.get("key", "")
        if self.doors.get(handle) != key:
            await line.write(sorry="wrong key")
            return None
        if any(other.open and other.handle == handle for other in self.visits):
            self.breaches.append(f"{handle} came in twice")
        visit = Visit(handle, key, words["gate"], line)
        self.visits.append(visit)
        await line.write(welcome=handle)
        for spoken in list(self._unsettled[handle]):
            self.nursery.start_soon(self._tell_visitor, visit, spoken)
        self.move()
        return visit

    def _settle(self, visit: Visit, number: str, *, done: bool) -> None:
        if done:
            waiting = self._unsettled[visit.handle]
            self._unsettled[visit.handle] = [spoken for spoken in waiting if spoken.number != number]
            self.settled[visit.handle, number] += 1
        else:
            self.nursery.start_soon(self._tell_later, visit, number)
        self.move()

    async def _tell_later(self, visit: Visit, number: str) -> None:
        await trio.sleep(REDELIVERY_SECONDS)
        await self._tell_visitor(visit, self.find(number))

    async def _answer_call(self, visit: Visit, words: dict[str, Any]) -> None:
        answer = self._do(visit, words)
        self.move()
        if answer is not None:
            await visit.line.write(call=words["call"], **answer)

    def _do(self, visit: Visit, words: dict[str, Any]) -> dict[str, Any] | None:
        match words:
            case {"say": text, "room": room, "token": token}:
                return self._hear_bot(visit, text, room, token, words)
            case {"wave_at": number}:
                self.find(number).waving.add(visit.handle)
                self.waves += 1
            case {"stop_waving_at": number}:
                self.find(number).waving.discard(visit.handle)
        return {"done": True}

    def _hear_bot(self, visit: Visit, text: str, room: str, token: str, words: dict[str, Any]) -> dict[str, Any] | None:
        trouble = self.trouble[text].pop(0) if self.trouble[text] else ""
        if trouble == "muted":
            return {"no": "muted"}
        if trouble == "unheard":
            return None
        if token not in self._keys or not self.keeps_keys:
            number = str(next(self._numbers))
            self._keys[token] = number
            looks, answers = words.get("looks", "plain"), words.get("answers", "")
            self.spoken.append(Spoken(number, room, visit.handle, text, now(), answers=answers, looks=looks))
        return None if trouble == "lost" else {"number": self._keys[token]}

    def find(self, number: str) -> Spoken:
        return next(spoken for spoken in self.spoken if spoken.number == number)


def now() -> float:
    return datetime.now(UTC).timestamp()


@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    """A town for the block. Nobody was ever in it twice when the block ends well."""
    async with trio.open_nursery() as nursery:
        town = Town(nursery)
        yield town
        assert town.breaches == []
        nursery.cancel_scope.cancel()
