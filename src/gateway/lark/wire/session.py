"""One long connection as a state machine without I/O: received data goes in, actions to take come out.

    bootstrap ──endpoint──▶ dial ──established──▶ live ──silence──▶ deaf
        │                     │                    │
        ├──────refusal────────┤                    │
        ▼                     ▼                    ▼
     refused               refused              closed     (an end leads to closed from anywhere but deaf and refused)

A session is used once: deaf, refused and closed are final. The next attempt is a new session with a new URL.

The client speaks first. It sends a ping as soon as the connection is established, then one per interval. The platform
answers with a pong that may carry a new interval. A half-open TCP connection swallows pings without an error. So
silence alone, for two intervals and a margin, ends a session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from gateway.errors import LocalProtocolError
from gateway.lark.wire.assembler import Assembler, AssemblerLimits, Piece
from gateway.lark.wire.endpoint import Endpoint, read_client_config
from gateway.lark.wire.frame import CONTROL, DATA, Frame, acknowledge, decode, ping, pong

PING_INTERVAL_SECONDS: Final = 120.0
"""The interval until the platform names another."""
DEAF_MARGIN_SECONDS: Final = 10.0
SETTLED: Final = 200
REDELIVER: Final = 500

_LATE_PIECES_MAX: Final = 16
_NUMBER: Final = re.compile(rb"-?[0-9]{1,4000}")  # int() raises ValueError for more than 4300 digits


class State(Enum):
    BOOTSTRAP = auto()
    DIAL = auto()
    LIVE = auto()
    DEAF = auto()
    REFUSED = auto()
    CLOSED = auto()


class Trigger(Enum):
    ENDPOINT = auto()
    ESTABLISHED = auto()
    REFUSAL = auto()
    SILENCE = auto()
    END = auto()


TRANSITIONS: Final[dict[State, dict[Trigger, State]]] = {
    State.BOOTSTRAP: {Trigger.ENDPOINT: State.DIAL, Trigger.REFUSAL: State.REFUSED, Trigger.END: State.CLOSED},
    State.DIAL: {Trigger.ESTABLISHED: State.LIVE, Trigger.REFUSAL: State.REFUSED, Trigger.END: State.CLOSED},
    State.LIVE: {Trigger.SILENCE: State.DEAF, Trigger.END: State.CLOSED},
    # The socket is always closed afterwards. That must not replace the reason why the session ended.
    State.DEAF: {Trigger.END: State.DEAF},
    State.REFUSED: {Trigger.END: State.REFUSED},
    State.CLOSED: {Trigger.END: State.CLOSED},
}


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame."""

    frame: Frame


@dataclass(frozen=True, slots=True, eq=False)
class Deliver:
    """Decide this event, then call `Session.settle` with this object. `frame` is the one that completed the event.

    A delivery equals only itself, so it may serve as a key.
    """

    frame: Frame
    payload: bytes
    received_at: float


@dataclass(frozen=True, slots=True)
class Ponged:
    """The platform sent a pong. `round_trip_seconds` is None if no ping waited for one."""

    round_trip_seconds: float | None


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame, or a piece of an event, was dropped without an answer. `reason` is for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class WentDeaf:
    """Nothing was received for too long; the session is over."""

    silent_seconds: float


Action = Send | Deliver | Ponged | Ignored | WentDeaf


class Session:
    """The state machine that the module describes. Times are seconds of one monotonic clock, given by the caller.

    It must not be used from several threads. Nothing here waits, so callers in one thread need no lock.
    """

    def __init__(
        self, *, ping_interval_seconds: float = PING_INTERVAL_SECONDS, limits: AssemblerLimits | None = None
    ) -> None:
        self._state = State.BOOTSTRAP
        self._service_id = 0
        self._interval = ping_interval_seconds
        self._assembler = Assembler(limits)
        self._unsettled: dict[bytes, tuple[Deliver, list[Frame]]] = {}
        self._last_ping_at: float | None = None
        self._unanswered_ping_at: float | None = None
        self._heard_at = 0.0
        self._listening = True

    @property
    def state(self) -> State:
        return self._state

    @property
    def ping_interval_seconds(self) -> float:
        return self._interval

    @property
    def wake_at(self) -> float:
        """The time at which `tick` next has something to do. Every frame may move it, in either direction."""
        if self._state is not State.LIVE:
            return float("inf")
        return min(self._next_ping_at, self._deaf_at)

    def endpoint_given(self, endpoint: Endpoint) -> None:
        """Take the platform's answer to the bootstrap; the session is now dialling."""
        self._follow(Trigger.ENDPOINT)
        self._service_id = endpoint.service_id
        self._interval = endpoint.client_config.ping_interval_seconds or self._interval

    def established(self, now: float) -> None:
        """Go live after the WebSocket handshake. The first ping is due at once."""
        self._follow(Trigger.ESTABLISHED)
        self._heard_at = now
        self._last_ping_at = None

    def refused(self) -> None:
        self._follow(Trigger.REFUSAL)

    def ended(self) -> None:
        """Close the session: the connection is gone, whichever side ended it. Deaf and refused stay as they are."""
        self._follow(Trigger.END)

    def pause(self) -> None:
        """Suspend the judgement of silence: the caller stops reading to catch up, so hearing nothing proves nothing."""
        self._listening = False

    def resume(self, now: float) -> None:
        self._listening = True
        self._heard_at = now

    def tick(self, now: float) -> list[Action]:
        """Return the actions that are due by time alone: a ping, or the end of a silent session."""
        if self._state is not State.LIVE:
            return []
        if now >= self._deaf_at:
            self._follow(Trigger.SILENCE)
            return [WentDeaf(now - self._heard_at)]
        self._assembler.expire(now)
        if now < self._next_ping_at:
            return []
        self._last_ping_at = self._unanswered_ping_at = now
        return [Send(ping(self._service_id))]

    def receive(self, data: bytes, now: float) -> list[Action]:
        """Take one binary message and return the actions.

        Raises RemoteProtocolError if the message is not a frame; the session goes on. Raises LocalProtocolError if the
        session is not live.
        """
        if self._state is not State.LIVE:
            raise LocalProtocolError(f"a frame was received in state {self._state.name}")
        frame = decode(data)
        self._heard_at = now  # after decoding: a malformed message is no sign of life
        if frame.method == CONTROL:
            return self._control(frame, now)
        if frame.method == DATA:
            return self._data(frame, now)
        return [Ignored(f"method {frame.method} is neither control nor data")]

    def settle(self, delivery: Deliver, code: int, now: float) -> list[Frame]:
        """Return the answers to send once an event is decided: `code` is 200 to settle it, 500 to get it again.

        The answer to the event itself comes first. The others answer late pieces that arrived while it was undecided.
        """
        elapsed_ms = max(0, round((now - delivery.received_at) * 1000))
        frames = [delivery.frame]
        message_id = delivery.frame.header(b"message_id") or b""
        waiting = self._unsettled.get(message_id)
        # Compared by identity: the assembler forgets a completed set after a while. If the platform then sends the same
        # event again, the entry under its id belongs to the newer delivery.
        if waiting is not None and waiting[0] is delivery:
            frames += waiting[1]
            del self._unsettled[message_id]
            if code != SETTLED:
                self._assembler.forget(message_id)
        return [acknowledge(frame, code, elapsed_ms) for frame in frames]

    @property
    def _next_ping_at(self) -> float:
        # Before the first ping the time is in the past: the client speaks first.
        return float("-inf") if self._last_ping_at is None else self._last_ping_at + self._interval

    @property
    def _deaf_at(self) -> float:
        return self._heard_at + 2 * self._interval + DEAF_MARGIN_SECONDS if self._listening else float("inf")

    def _follow(self, trigger: Trigger) -> None:
        try:
            self._state = TRANSITIONS[self._state][trigger]
        except KeyError:
            raise LocalProtocolError(f"{trigger.name} makes no sense in state {self._state.name}") from None

    def _control(self, frame: Frame, now: float) -> list[Action]:
        kind = frame.header(b"type")
        if kind == b"ping":
            return [Send(pong(self._service_id))]
        if kind != b"pong":
            return [Ignored("a control frame is neither ping nor pong")]
        asked_at, self._unanswered_ping_at = self._unanswered_ping_at, None
        ponged = Ponged(None if asked_at is None else now - asked_at)
        return [ponged, *self._configure(frame.payload)]

    def _configure(self, payload: bytes | None) -> list[Action]:
        if not payload:
            return []
        try:
            config = read_client_config(msgspec.json.decode(payload))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return [Ignored("the configuration in a pong is not JSON")]
        self._interval = config.ping_interval_seconds or self._interval
        return []

    def _data(self, frame: Frame, now: float) -> list[Action]:
        if frame.header(b"type") not in (b"event", None):
            # There is no event to decide. If this stayed unanswered, the platform would send it again four times.
            return [Send(acknowledge(frame, SETTLED, 0))]
        total = _number(frame.header(b"sum"))
        # A count of pieces that is missing, unreadable, 0 or 1 means an event in one frame.
        if total in (None, 0, 1):
            return [Deliver(frame, frame.payload or b"", now)]
        return self._piece(frame, total, now)

    def _piece(self, frame: Frame, total: int, now: float) -> list[Action]:
        message_id = frame.header(b"message_id") or b""
        index = _number(frame.header(b"seq"))
        # The assembler ignores a piece with the index -1.
        outcome = self._assembler.admit(message_id, total, -1 if index is None else index, frame.payload or b"", now)
        if isinstance(outcome, bytes):
            delivery = Deliver(frame, outcome, now)
            self._unsettled[message_id] = (delivery, [])
            return [delivery]
        if outcome is Piece.LATE:
            return self._late(message_id, frame)
        return [] if outcome is Piece.WAITING else [Ignored("a piece of an event makes no sense or has no room")]

    def _late(self, message_id: bytes, frame: Frame) -> list[Action]:
        # While the event itself is undecided, a 200 for a late piece could settle it, and a crash would then lose it.
        # So the answer waits for the decision. Pieces beyond the bound stay unanswered.
        waiting = self._unsettled.get(message_id)
        if waiting is None:
            return [Send(acknowledge(frame, SETTLED, 0))]
        if len(waiting[1]) < _LATE_PIECES_MAX:
            waiting[1].append(frame)
        return []


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and _NUMBER.fullmatch(value) else None
