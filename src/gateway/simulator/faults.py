"""Planned failures: the next N calls of a path, WebSocket handshakes, events pushed over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

PLANNED_MAX = 100


@dataclass(slots=True)
class CallFault:
    """How the next `times` calls of `path` (shell-style pattern, any `method` when empty) go wrong.

    First `hang_seconds` pass. Then `lose_answer` performs the call and resets the connection instead of answering;
    otherwise, when `reset` is set, the connection is reset without doing anything; otherwise `status` (with `code`,
    `msg` or a raw `body`) is the answer and nothing is done. A fault with none of these only delays the call.
    """

    path: str
    times: int = 1
    method: str = ""
    status: int = 0
    code: int = 0
    msg: str = "simulated failure"
    body: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    hang_seconds: float = 0.0
    lose_answer: bool = False
    reset: bool = False


@dataclass(slots=True)
class HandshakeFault:
    """How the next `times` WebSocket handshakes are answered; an empty `status` header value is left out.

    `http_status` 0 accepts after `hang_seconds`. `app_id` limits the fault to one app.
    """

    times: int = 1
    http_status: int = 403
    status: str = "403"
    msg: str = "simulated refusal"
    autherrcode: str = ""
    hang_seconds: float = 0.0
    app_id: str = ""


PUSH_FAULTS = frozenset(
    {"", "wrong_signature", "unsigned", "wrong_token", "wrong_key", "unencrypted"},
)


@dataclass(slots=True)
class PushFault:
    """What is wrong with the next `times` events pushed over HTTP: `how` is one of PUSH_FAULTS.

    Encryption and signature go wrong only for an app that has a key for them. The signature says `age_seconds` ago as
    the time of sending. `app_id` limits the fault to one app. Raises ValueError for another `how`.
    """

    how: str
    times: int = 1
    age_seconds: float = 0.0
    app_id: str = ""

    def __post_init__(self) -> None:
        if self.how not in PUSH_FAULTS:
            raise ValueError(f"a pushed event goes wrong by {', '.join(sorted(PUSH_FAULTS - {''}))}, not {self.how!r}")


class Faults:
    """The planned failures that are still to happen, oldest first."""

    def __init__(self) -> None:
        self.calls: list[CallFault] = []
        self.handshakes: list[HandshakeFault] = []
        self.pushes: list[PushFault] = []

    def plan(self, fault: CallFault | HandshakeFault | PushFault) -> None:
        """Add a failure. Raises ValueError when too many are planned already."""
        if len(self.calls) + len(self.handshakes) + len(self.pushes) >= PLANNED_MAX:
            raise ValueError(f"{PLANNED_MAX} failures are planned already; clear them first")
        if isinstance(fault, CallFault):
            self.calls.append(fault)
        elif isinstance(fault, PushFault):
            self.pushes.append(fault)
        else:
            self.handshakes.append(fault)

    def clear(self) -> None:
        self.calls.clear()
        self.handshakes.clear()
        self.pushes.clear()

    def next_call(self, method: str, path: str) -> CallFault | None:
        """The failure meant for this call, counted down."""
        for fault in self.calls:
            if fault.method in ("", method) and fnmatchcase(path, fault.path):
                fault.times -= 1
                if fault.times <= 0:
                    self.calls.remove(fault)
                return fault
        return None

    def next_handshake(self, app_id: str) -> HandshakeFault | None:
        """The failure meant for this handshake, counted down."""
        for fault in self.handshakes:
            if fault.app_id in ("", app_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.handshakes.remove(fault)
                return fault
        return None

    def next_push(self, app_id: str) -> PushFault | None:
        """The failure meant for this pushed event, counted down."""
        for fault in self.pushes:
            if fault.app_id in ("", app_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.pushes.remove(fault)
                return fault
        return None
