"""Context for the messages of a run: what other people said around them, which is passed to the agent and not stored.

Everything here is content of people who may not be bound, and of messages that do not address the bot. It stays in this
process's memory for minutes, and goes into the answer to a claim. It never goes into a table, a log line, a metric
label or a file.

A look-up begins as soon as a message is durable (`Enricher.expect`). A run waits a while for further messages before it
starts, and the look-up happens in that time. When the run is claimed, the finished look-ups are used, those under way
are awaited, and the rest are begun.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog
import trio

from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnauthorized
from gateway.channel.lookup import Lookup, LookupOf
from gateway.channel.message import ChatType, InboundMessage
from gateway.core.enrichment import (
    Additions,
    AuthorKind,
    Forwarded,
    Quoted,
    Recent,
    Said,
    Spot,
    neutralise,
    render,
    words_of_quote,
)
from gateway.errors import GatewayError
from gateway.inbound.ports import InboundInstallation
from gateway.inbound.turn import quoted_by, thread_of
from gateway.recorder import SILENT, Recorder
from gateway.work.tasks.ports import ClaimedMessage, ConversationPlace

BUDGET_SECONDS = 2.0
"""Time for all look-ups of one run together."""
NAMES_AFTER_SECONDS = 1.5
"""Time after which the authors' names are asked for, even if other look-ups have not been answered yet."""
LOOKUPS_MAX = 20
"""Look-ups for one run."""
LOOKUPS_AT_ONCE_MAX = 40
"""Look-ups in flight for all runs together. They share the connections to the platform with the messages being sent."""
NAMES_MAX = 50
QUOTE_SECONDS = 1.5
"""Time for the look-up of a message that a command answers. The command's event is acknowledged after it."""

PREFETCH_SECONDS = 5.0
PREFETCHES_MAX = 8
PREFETCHES_WAITING_MAX = 64
BURST_SECONDS = 3.0
"""Messages of one conversation that follow each other this closely become one run, so the messages before them are
asked for once."""
PLACES_MAX = 1024

KEPT_SECONDS = 180.0
KEPT_MAX = 512

FindInstallation = Callable[[str, str], Awaitable[InboundInstallation | None]]
"""Finds a bot by channel type and app id. Raises StoreUnavailable."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Wish:
    """A look-up to make. Equal look-ups have the same `key`, also for different runs."""

    kind: str
    key: Hashable
    call: Callable[[Lookup], Awaitable[Any]]


@dataclass(slots=True)
class _Answer:
    """The answer to a look-up, which is under way until `done` is set.

    An answer without `lasts` must not be used by others: they make the look-up again.
    """

    done: trio.Event = field(default_factory=trio.Event)
    lasts: bool = False
    value: Any = field(default=None, repr=False)
    asked_at: float = 0.0


class _Memory:
    """The answers of the last minutes, and the look-ups under way. The oldest are dropped first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()

    def find(self, key: Hashable) -> _Answer | None:
        self.forget()
        return self._answers.get(key)

    @contextmanager
    def asking(self, key: Hashable) -> Iterator[_Answer]:
        """Enter an answer for the look-up made in the block.

        All waiters are woken when the block ends, also by an error. The answer is kept only if the block sets `lasts`.
        """
        answer = _Answer(asked_at=trio.current_time())
        self._answers[key] = answer
        try:
            yield answer
        finally:
            if not answer.lasts and self._answers.get(key) is answer:
                del self._answers[key]
            answer.done.set()

    def forget(self) -> None:
        """Drop answers that are too old, and the oldest ones beyond `KEPT_MAX`.

        The entries are in order of time, so the loop ends at the first one that may stay.
        """
        oldest = trio.current_time() - KEPT_SECONDS
        while self._answers:
            key, answer = next(iter(self._answers.items()))
            if answer.asked_at > oldest and len(self._answers) <= KEPT_MAX:
                return
            del self._answers[key]


@dataclass(frozen=True, slots=True)
class _Expected:
    """A message that a run will take in, and its place. With `around` the messages before it are looked up too."""

    channel_type: str
    app_id: str
    chat_id: str
    thread_id: str
    around: bool
    message: ClaimedMessage


class Enricher:
    """Adds the context to the messages of a run. It may be called for any number of runs at a time."""

    def __init__(
        self,
        lookups: Mapping[str, LookupOf],
        *,
        budget_seconds: float = BUDGET_SECONDS,
        recorder: Recorder = SILENT,
    ) -> None:
        """`lookups` is keyed by channel type. A platform without an entry cannot be read.

        Context that would need such a platform is marked as missing.
        """
        self._lookups = lookups
        self._budget = budget_seconds
        self._recorder = recorder
        self._memory = _Memory()
        self._lanes = trio.CapacityLimiter(LOOKUPS_AT_ONCE_MAX)
        self._heard: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[_Expected](PREFETCHES_WAITING_MAX)

    async def enrich(self, place: ConversationPlace, messages: Sequence[ClaimedMessage]) -> Sequence[ClaimedMessage]:
        """Return the messages with their additions and the files in them, within the budget.

        An addition that could not be looked up is marked as missing in its place. No answer or failure of the platform
        can make this fail. Text in the messages that reads like one of the gateway's own tags is neutralised.
        No database connection is held while waiting for the platform.
        """
        wishes = _wishes(place, messages)
        found, names = await self._look_up(place, wishes, self._budget)
        additions = [_additions(place, message, messages, found) for message in messages]
        told = _render(additions, names)
        return [
            replace(message, text=neutralise(message.text), additions=words, shared=tuple(added.shared_files()))
            for message, added, words in zip(messages, additions, told, strict=True)
        ]

    async def quote(self, place: ConversationPlace, message_id: str) -> str:
        """Return the words of a message of the conversation; "" if they do not come within `QUOTE_SECONDS`."""
        wish = _message_wish(place, message_id)
        found: Sequence[Said] | None = None
        with trio.move_on_after(QUOTE_SECONDS):
            lookup = await self._open(place, {wish.key: wish})
            found = None if lookup is None else await self._ask(lookup, wish)
        return words_of_quote(_quoted(place, message_id, {wish.key: found}).found or ())

    def expect(self, message: InboundMessage) -> None:
        """Begin the look-ups for a message that has just become durable.

        Never waits; does nothing if the queue is full.
        """
        around = message.source.chat_type is ChatType.GROUP and self._begins_burst(message)
        if message.sent_at is None or not (around or message.bundle or quoted_by(message)):
            return
        try:
            self._send.send_nowait(_expected(message, message.sent_at, around=around))
        except trio.WouldBlock:
            log.debug("prefetch_skipped", waiting=PREFETCHES_WAITING_MAX)

    def _begins_burst(self, message: InboundMessage) -> bool:
        key = (message.app_id, message.source.chat_id, thread_of(message.source))
        now = trio.current_time()
        last = self._heard.pop(key, -BURST_SECONDS)
        self._heard[key] = now
        if len(self._heard) > PLACES_MAX:
            self._heard.popitem(last=False)
        return now - last >= BURST_SECONDS

    async def _look_up(
        self, place: ConversationPlace, wishes: Mapping[Hashable, _Wish], budget: float
    ) -> tuple[dict[Hashable, Any], Mapping[str, str]]:
        """Return the answers found by the end of the budget, by key, and the names of their authors."""
        found: dict[Hashable, Any] = {}
        names: dict[str, str] = {}
        if not wishes:
            return found, names
        all_in = trio.Event()

        async def fulfil(lookup: Lookup, wish: _Wish) -> None:
            found[wish.key] = await self._ask(lookup, wish)
            if len(found) == len(wishes):
                all_in.set()

        with trio.move_on_after(budget):
            lookup = await self._open(place, wishes)
            if lookup is None:
                return found, names
            async with trio.open_nursery() as nursery:
                for wish in wishes.values():
                    nursery.start_soon(fulfil, lookup, wish)
                with trio.move_on_after(budget * NAMES_AFTER_SECONDS / BUDGET_SECONDS):
                    await all_in.wait()
                if strangers := _strangers(found[key] for key in wishes if key in found):
                    names.update(await self._ask(lookup, _names_wish(place, strangers)) or {})
        return found, names

    async def _open(self, place: ConversationPlace, wishes: Mapping[Hashable, _Wish]) -> Lookup | None:
        lookup_of = self._lookups.get(place.channel_type)
        outcome = "unsupported"
        try:
            if lookup_of is not None:
                return await lookup_of(place.installation_id)
        except Exception as error:
            outcome = _judge(error, "installation")
        for wish in wishes.values():
            self._recorder.count("channel_lookups", kind=wish.kind, outcome=outcome)
        return None

    async def _ask(self, lookup: Lookup, wish: _Wish) -> Any:
        """Return the answer, from this look-up or from an equal one made for another caller. None if there is none."""
        while (known := self._memory.find(wish.key)) is not None:
            await known.done.wait()
            if known.lasts:
                self._recorder.count("channel_lookups", kind=wish.kind, outcome="reused")
                return known.value
        outcome = "cut_off"
        with self._memory.asking(wish.key) as answer:
            try:
                async with self._lanes:
                    answer.value = await wish.call(lookup)
                outcome = "found"
            except Exception as error:
                outcome = _judge(error, wish.kind)
            finally:
                self._recorder.count("channel_lookups", kind=wish.kind, outcome=outcome)
            # After these outcomes another request would not help, or would do harm (throttling). Any other failure may
            # have passed by the next request.
            answer.lasts = outcome in {"found", "refused", "throttled"}
            return answer.value

    async def _prefetch(self, expected: _Expected, find_installation: FindInstallation) -> None:
        installation = await find_installation(expected.channel_type, expected.app_id)
        if installation is None:
            return
        place = ConversationPlace(
            installation.id, expected.channel_type, expected.chat_id, expected.thread_id, expected.around
        )
        await self._look_up(place, _wishes(place, [expected.message]), PREFETCH_SECONDS)


async def run_prefetch(
    enricher: Enricher,
    find_installation: FindInstallation,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Make the look-ups for expected messages until cancelled, a few messages at a time, and drop old answers.

    A look-up that fails affects no other one.
    """

    async def work() -> None:
        async for expected in enricher._receive:
            try:
                await enricher._prefetch(expected, find_installation)
            except Exception as error:
                _judge(error, "prefetch")

    async def forget() -> None:
        while True:
            await trio.sleep(KEPT_SECONDS / 2)
            enricher._memory.forget()

    async with trio.open_nursery() as nursery:
        for _ in range(PREFETCHES_MAX):
            nursery.start_soon(work)
        nursery.start_soon(forget)
        task_status.started()


# Look-ups to make, and additions made from their answers.


def _wishes(place: ConversationPlace, messages: Sequence[ClaimedMessage]) -> dict[Hashable, _Wish]:
    """Return the look-ups for a run, by key. Look-ups beyond `LOOKUPS_MAX` are left out."""
    wishes: list[_Wish] = []
    if place.is_group and messages:
        wishes.append(_recent_wish(place, messages))
    for message in messages:
        wanted = (message.quoted_id, message.message_id if message.bundle else "")
        wishes += [_message_wish(place, message_id) for message_id in wanted if message_id]
    return dict(list({wish.key: wish for wish in wishes}.items())[:LOOKUPS_MAX])


def _recent_wish(place: ConversationPlace, messages: Sequence[ClaimedMessage]) -> _Wish:
    first = messages[0]
    spot = Spot(
        chat_id=place.chat_id,
        thread_id=place.thread_id,
        message_id=first.message_id,
        before=first.sent_at,
        since_id=place.since_id or "",
        since=place.since,
    )
    return _Wish("recent", ("recent", place.installation_id, spot), lambda lookup: lookup.recent(spot))


def _message_wish(place: ConversationPlace, message_id: str) -> _Wish:
    return _Wish("message", _message_key(place, message_id), lambda lookup: lookup.message(message_id))


def _message_key(place: ConversationPlace, message_id: str) -> Hashable:
    return ("message", place.installation_id, message_id)


def _names_wish(place: ConversationPlace, ids: Sequence[str]) -> _Wish:
    return _Wish("names", ("names", place.installation_id, tuple(ids)), lambda lookup: lookup.names(ids))


def _additions(
    place: ConversationPlace, message: ClaimedMessage, messages: Sequence[ClaimedMessage], found: Mapping[Hashable, Any]
) -> Additions:
    """Return the additions to a message. The messages before the run are added to its first message."""
    recent = None
    if place.is_group and message is messages[0]:
        recent = _recent(found.get(_recent_wish(place, messages).key), messages)
    return Additions(
        recent=recent,
        quoted=_quoted(place, message.quoted_id, found) if message.quoted_id else None,
        forwarded=Forwarded(found.get(_message_key(place, message.message_id))) if message.bundle else None,
    )


def _recent(found: Recent | None, messages: Sequence[ClaimedMessage]) -> Recent:
    """Remove the run's own messages from the recent ones.

    They may be among them, because a message without a time of the platform got the gateway's time.
    """
    if found is None:
        return Recent(complete=False)
    own = {message.message_id for message in messages}
    return replace(found, messages=tuple(said for said in found.messages if said.message_id not in own))


def _quoted(place: ConversationPlace, quoted_id: str, found: Mapping[Hashable, Any]) -> Quoted:
    """Return the quoted message, without its content if it belongs to another chat."""
    said: Sequence[Said] | None = found.get(_message_key(place, quoted_id))
    if said and said[0].chat_id in {"", place.chat_id}:
        return Quoted(quoted_id, tuple(said))
    return Quoted(quoted_id)


def _strangers(answers: Iterator[Any]) -> list[str]:
    """Return the ids of people whose names are not known yet, in the order of their first message."""
    met: dict[str, None] = {}
    for answer in answers:
        for said in answer.messages if isinstance(answer, Recent) else answer or ():
            author = said.author
            if author.kind is AuthorKind.PERSON and author.id and not author.name:
                met[author.id] = None
    return list(met)[:NAMES_MAX]


def _render(additions: Sequence[Additions], names: Mapping[str, str]) -> list[str]:
    """Render the additions. If that fails, render all of them as missing, so that the run still happens."""
    try:
        return render(additions, names)
    except Exception as error:
        _judge(error, "rendering")
        return render([_bare(each) for each in additions], {})


def _bare(additions: Additions) -> Additions:
    return Additions(
        recent=None if additions.recent is None else Recent(complete=False),
        quoted=None if additions.quoted is None else Quoted(additions.quoted.message_id),
        forwarded=None if additions.forwarded is None else Forwarded(),
    )


def _judge(error: Exception, kind: str) -> str:
    """Return the outcome of a failed look-up.

    The error's text may quote content that must not be logged, so only the type and place of a bug are logged.
    """
    match error:
        case PlatformThrottled():
            return "throttled"
        case PlatformRefused() | PlatformUnauthorized():
            return "refused"
        case GatewayError():
            return "unavailable"
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = "" if last is None else f"{last.tb_frame.f_code.co_name}:{last.tb_lineno}"
    log.error("lookup_failed", kind=kind, error=type(error).__name__, where=where)
    return "fault"


# Expected messages.


def _expected(message: InboundMessage, sent_at: datetime, *, around: bool) -> _Expected:
    return _Expected(
        channel_type=message.source.channel_type,
        app_id=message.app_id,
        chat_id=message.source.chat_id,
        thread_id=thread_of(message.source),
        around=around,
        message=ClaimedMessage(
            role="user",
            author="",
            text="",
            sent_at=sent_at,
            age_seconds=0,
            message_id=message.message_id,
            quoted_id=quoted_by(message),
            bundle=message.bundle,
        ),
    )
