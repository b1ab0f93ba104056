"""Planned failures of the next calls of a path, WebSocket handshakes, or events pushed over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

PLANNED_MAX = 100


@dataclass(slots=True)
class CallFault:
    """A failure of the next `times` calls of `path`, a shell-style pattern. An empty `method` matches every method.

    First `hang_seconds` pass. Then the first of these that is set applies:

    - `lose_answer` performs the call, and resets the connection instead of answering.
    - `reset` resets the connection without performing the call.
    - `status` (with `code`, `msg` or a raw `body`) is the answer, and the call is not performed.

    A fault with none of these only delays the call.
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
    """A refusal of the next `times` WebSocket handshakes.

    First `hang_seconds` pass. `status`, `msg` and `autherrcode` become headers of the answer; empty ones are left out.
    With `http_status` 0 the handshake is only delayed, and then accepted. `app_id` limits the fault to one app.
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
    """A fault in the next `times` events pushed over HTTP. `how` is one of PUSH_FAULTS.

    Faults of encryption and signature have an effect only for an app with an encrypt key. The signature's timestamp
    lies `age_seconds` in the past. `app_id` limits the fault to one app. Raises ValueError for another `how`.
    """

    how: str
    times: int = 1
    age_seconds: float = 0.0
    app_id: str = ""

    def __post_init__(self) -> None:
        if self.how not in PUSH_FAULTS:
            raise ValueError(f"a pushed event goes wrong by {', '.join(sorted(PUSH_FAULTS - {''}))}, not {self.how!r}")


class Faults:
    """The planned failures that have not happened yet, the oldest first."""

    def __init__(self) -> None:
        self.calls: list[CallFault] = []
        self.handshakes: list[HandshakeFault] = []
        self.pushes: list[PushFault] = []

    def plan(self, fault: CallFault | HandshakeFault | PushFault) -> None:
        """Add a failure. Raises ValueError if PLANNED_MAX are planned already."""
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
        """Return the failure planned for this call, or None, and count it down."""
        for fault in self.calls:
            if fault.method in ("", method) and fnmatchcase(path, fault.path):
                fault.times -= 1
                if fault.times <= 0:
                    self.calls.remove(fault)
                return fault
        return None

    def next_handshake(self, app_id: str) -> HandshakeFault | None:
        """Return the failure planned for this handshake, or None, and count it down."""
        for fault in self.handshakes:
            if fault.app_id in ("", app_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.handshakes.remove(fault)
                return fault
        return None

    def next_push(self, app_id: str) -> PushFault | None:
        """Return the failure planned for this pushed event, or None, and count it down."""
        for fault in self.pushes:
            if fault.app_id in ("", app_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.pushes.remove(fault)
                return fault
        return None
