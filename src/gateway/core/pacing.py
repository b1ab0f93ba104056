"""Pacing of an app's calls, so that it stays within its platform's limits. Pure; times are seconds of one clock.

A limit is a sliding window: so many calls in any stretch of so many seconds. It is kept exactly, by remembering the
last calls, because a refilling token bucket lets up to twice as many calls through within one window. The platform
counts a call when it arrives, and that may be any moment until the call is answered. So a call occupies a place while
it is under way, and for one window after its end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

SLACK = 1.02
"""The factor by which windows here are longer than the platform's, whose clock may be a little slower."""
CHATS_MAX = 4096
"""Chats that are remembered. The one that was unused for longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `calls` in any `seconds`."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of a platform for one app, and within it for one chat. Empty tuples mean no limit."""

    app: tuple[Limit, ...] = ()
    chat: tuple[Limit, ...] = ()


UNLIMITED = CallLimits()
TYPING_SHARE = 0.5
"""The share of an app's limits that decoration (the typing sign) may use. Messages take precedence."""

FAILURES_MAX = 5
"""Calls in a row without an answer before the breaker opens."""
OPEN_FIRST_SECONDS = 1.0
OPEN_MAX_SECONDS = 30.0


class Pace:
    """The recent calls under some limits: those under way by their start, and the last finished ones by their end."""

    __slots__ = ("_ended", "_limits", "_paused_until", "_under_way")

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self._limits = limits
        calls_max = max((limit.calls for limit in limits), default=0)
        self._under_way: deque[float] = deque(maxlen=calls_max)
        self._ended: deque[float] = deque(maxlen=calls_max)
        self._paused_until = float("-inf")

    def free_at(self, now: float, *, share: float = 1.0) -> float:
        """Return when the next call may be made, `now` at the earliest, using at most `share` of each limit."""
        return max(now, self._paused_until, *(self._free_at(limit, share) for limit in self._limits))

    def _free_at(self, limit: Limit, share: float) -> float:
        calls = max(int(limit.calls * share), 1)
        left = calls - len(self._under_way)
        if left > len(self._ended):
            return float("-inf")
        # `_ended[-left]` is the finished call whose window must pass before a place is free. If calls under way take
        # all places, no end is known, and the start of the oldest of them is used instead.
        return (self._ended[-left] if left > 0 else self._under_way[-calls]) + limit.seconds * SLACK

    def begin(self, at: float) -> None:
        """Record a call that is made at `at`, which may lie in the future. Its place is taken from now on."""
        self._under_way.append(at)

    def end(self, began_at: float, at: float) -> None:
        """Record that the call which began at `began_at` has arrived at the platform by `at`, or never will."""
        if began_at in self._under_way:
            self._under_way.remove(began_at)
        self._ended.append(at)

    def pause(self, until: float) -> None:
        """Allow no call before `until`, the time from which the platform accepts calls again."""
        self._paused_until = max(self._paused_until, until)


class AppPace:
    """The pace of one app: its own limits, those of its chats, and a circuit breaker for a platform that is down.

    `reserve` hands out places in the order of the calls to it. No caller overtakes another, and no place is handed out
    twice.
    """

    def __init__(self, limits: CallLimits = UNLIMITED) -> None:
        self._limits = limits
        self._app = Pace(limits.app)
        self._chats: OrderedDict[str, Pace] = OrderedDict()
        self._failures = 0

    def chat_free_at(self, chat: str, now: float) -> float:
        """Return when that chat may get its next message by the chat's own limits, without regard to the app's."""
        pace = self._chats.get(chat)
        return now if pace is None else pace.free_at(now)

    def app_free_at(self, now: float) -> float:
        """Return when the app may make its next call."""
        return self._app.free_at(now)

    def reserve(self, chat: str, now: float) -> float:
        """Take the next place for a message to that chat and return its time. Give it back with `release`.

        Call it only for chats that are free. A place in the future, because its chat is not free yet, would take a
        place of the app away from other chats meanwhile.
        """
        pace = self._chat(chat)
        at = max(self._app.free_at(now), pace.free_at(now))
        self._app.begin(at)
        pace.begin(at)
        return at

    def release(self, chat: str, began_at: float, now: float) -> None:
        """Give back a place: its message was answered, or the caller stopped waiting for the answer."""
        self._app.end(began_at, now)
        self._chat(chat).end(began_at, now)

    def admit_decoration(self, now: float) -> bool:
        """Take a place for an optional call (the typing sign). False when there is no room for it right now."""
        if self._app.free_at(now, share=TYPING_SHARE) > now:
            return False
        self._app.end(now, now)
        return True

    def throttled(self, chat: str | None, now: float, seconds: float) -> None:
        """Record that the platform refuses calls for `seconds`: of that chat, or of the whole app for None."""
        pace = self._app if chat is None else self._chat(chat)
        pace.pause(now + seconds)

    def answered(self) -> None:
        """Record that the platform answered, even with a refusal: it is up. Resets the count of failures."""
        self._failures = 0

    def unanswered(self, now: float) -> float:
        """Record that the platform did not answer. From `FAILURES_MAX` in a row on, no call is made for a while.

        Returns the seconds of that pause, or 0.
        """
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
