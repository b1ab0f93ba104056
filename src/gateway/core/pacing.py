"""How fast an app may speak: its platform's limits, kept by not breaking them. Pure; times are seconds of one clock.

A limit is a window: so many calls in any stretch of so many seconds. It is kept exactly, by remembering the last calls,
because a bucket that refills lets up to twice as many through within one window. The platform counts calls when they
arrive, which may be any moment until they are answered: so a call that is under way has its place for as long as that,
and a window after it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

SLACK = 1.02
"""Windows are kept this much longer than the platform's, whose clock may be a little slower."""
CHATS_MAX = 4096
"""Chats that are remembered; the one that was quiet for longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `calls` in any `seconds`."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a platform takes of one app, and of that in one chat. Without any, there is nothing to keep."""

    app: tuple[Limit, ...] = ()
    chat: tuple[Limit, ...] = ()


UNLIMITED = Limits()
TYPING_SHARE = 0.5
"""The share of an app's limits that decoration may fill: what says something goes first."""

FAILURES_MAX = 5
"""Calls in a row without an answer before the breaker opens."""
OPEN_FIRST_SECONDS = 1.0
OPEN_MAX_SECONDS = 30.0


class Pace:
    """The calls that were made under some limits: those under way by their start, and the last others by their end."""

    __slots__ = ("_ended", "_limits", "_paused_until", "_under_way")

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self._limits = limits
        calls_max = max((limit.calls for limit in limits), default=0)
        self._under_way: deque[float] = deque(maxlen=calls_max)
        self._ended: deque[float] = deque(maxlen=calls_max)
        self._paused_until = float("-inf")

    def free_at(self, now: float, *, share: float = 1.0) -> float:
        """When the next call may be made, at the earliest now; using no more than that share of each limit."""
        return max(now, self._paused_until, *(self._free_at(limit, share) for limit in self._limits))

    def _free_at(self, limit: Limit, share: float) -> float:
        calls = max(int(limit.calls * share), 1)
        left = calls - len(self._under_way)
        if left > len(self._ended):
            return float("-inf")
        # With everything under way none is known to have ended: then the oldest start must do.
        return (self._ended[-left] if left > 0 else self._under_way[-calls]) + limit.seconds * SLACK

    def begin(self, at: float) -> None:
        """A call is made at that time, which may lie ahead: its place is taken from now on."""
        self._under_way.append(at)

    def end(self, began_at: float, at: float) -> None:
        """The call that was to begin then has arrived by now, or never will."""
        if began_at in self._under_way:
            self._under_way.remove(began_at)
        self._ended.append(at)

    def pause(self, until: float) -> None:
        """The platform said when it will listen again."""
        self._paused_until = max(self._paused_until, until)


class AppPace:
    """One app: its own limits, those of its chats, and a breaker for a platform that is away.

    `reserve` hands out places in the order in which it is asked, so nobody overtakes and none is handed out twice.
    """

    def __init__(self, limits: Limits = UNLIMITED) -> None:
        self._limits = limits
        self._app = Pace(limits.app)
        self._chats: OrderedDict[str, Pace] = OrderedDict()
        self._failures = 0

    def chat_free_at(self, chat: str, now: float) -> float:
        """When that chat may get its next message, whatever the app does meanwhile."""
        pace = self._chats.get(chat)
        return now if pace is None else pace.free_at(now)

    def app_free_at(self, now: float) -> float:
        """When the app may make its next call."""
        return self._app.free_at(now)

    def reserve(self, chat: str, now: float) -> float:
        """Take the next place of a message to that chat; its time. To be given back with `release`.

        To be asked for chats that are free: a place that lies ahead because of its chat is one that others cannot have.
        """
        pace = self._chat(chat)
        at = max(self._app.free_at(now), pace.free_at(now))
        self._app.begin(at)
        pace.begin(at)
        return at

    def release(self, chat: str, began_at: float, now: float) -> None:
        """The message that had this place was answered, or nobody waits for that any more."""
        self._app.end(began_at, now)
        self._chat(chat).end(began_at, now)

    def admit_decoration(self, now: float) -> bool:
        """Take a place for something that may as well not happen; False when there is no room for it right now."""
        if self._app.free_at(now, share=TYPING_SHARE) > now:
            return False
        self._app.end(now, now)
        return True

    def throttled(self, chat: str | None, now: float, seconds: float) -> None:
        """The platform refused a call for `seconds`: of that chat, or (None) of the whole app."""
        pace = self._app if chat is None else self._chat(chat)
        pace.pause(now + seconds)

    def answered(self) -> None:
        """The platform said something, be it no: it is there."""
        self._failures = 0

    def unanswered(self, now: float) -> float:
        """The platform did not answer. After some in a row nobody calls for a while; the seconds of that, or 0."""
        self._failures += 1
        if self._failures < FAILURES_MAX:
            return 0.0
        pause = min(OPEN_FIRST_SECONDS * 2.0 ** min(self._failures - FAILURES_MAX, 32), OPEN_MAX_SECONDS)
        self._app.pause(now + pause)
        return float(pause)

    def _chat(self, chat: str) -> Pace:
        pace = self._chats.get(chat)
        if pace is None:
            pace = self._chats[chat] = Pace(self._limits.chat)
            while len(self._chats) > CHATS_MAX:
                self._chats.popitem(last=False)
        self._chats.move_to_end(chat)
        return pace
