"""The phases of an assignment, as a table.

    waiting ──PREDECESSOR_ENDED──▶ asking ──HELD──▶ standby ──FREED──▶ asking
                                     │ └──FAILED──▶ paused ──RESTED──▶ asking
                                  GRANTED             ▲ ▲
                                     ▼                │ │
                                connecting ──FAILED───┘ │
                                     │                  │
                                ESTABLISHED             │
                                     ▼                  │
                                   linked ────FAILED────┘

    From each of these, DRAIN leads to draining and WITHDRAW to withdrawn. Both are final.

The right to speak for a bot is the lease, never the phase. A lease is held in `connecting` and in `linked`. It is also
held in the two final phases until the link has ended. In every other phase no link may be open. `paused` begins after
the release of the lease, because another process may reach the platform when this one cannot.

Two parties move an assignment. Its own task reports what happened to it, and the sweep asks for the drain. The sweep
does not wait for the task, so the task may be in the middle of anything when its phase becomes final. What it reports
afterwards comes too late: the final phases absorb every trigger. Before the task starts anything, it looks at the
phase, and goes to its end instead.

No phase says that the task has ended, because a cancelled task ends in any of them. `Assignment.ended` says it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from gateway.errors import LocalProtocolError


class Phase(Enum):
    """What an assignment does now."""

    WAITING = auto()
    """The task of the same installation under older credentials has not ended."""
    ASKING = auto()
    """A request for the lease is under way."""
    STANDBY = auto()
    """Another process holds the lease."""
    CONNECTING = auto()
    """The lease is held, and the link is being established."""
    LINKED = auto()
    """The lease is held, and so is the link."""
    PAUSED = auto()
    """The request or the link failed. Nothing is held during the pause that follows."""
    DRAINING = auto()
    """Asked to end: the process stops, the credentials changed, or the row does not open any more."""
    WITHDRAWN = auto()
    """Asked to end because the row is revoked or gone. At the end it is shown as revoked."""


class PhaseTrigger(Enum):
    """What moves an assignment from phase to phase."""

    PREDECESSOR_ENDED = auto()
    GRANTED = auto()
    HELD = auto()
    FREED = auto()
    ESTABLISHED = auto()
    FAILED = auto()
    RESTED = auto()
    DRAIN = auto()
    WITHDRAW = auto()


LEAVING: Final = frozenset({Phase.DRAINING, Phase.WITHDRAWN})
_DRAIN: Final = {PhaseTrigger.DRAIN: Phase.DRAINING, PhaseTrigger.WITHDRAW: Phase.WITHDRAWN}

TRANSITIONS: Final[dict[Phase, dict[PhaseTrigger, Phase]]] = {
    # A predecessor that is stuck is not waited for beyond its own bounds. That counts as its end.
    Phase.WAITING: {PhaseTrigger.PREDECESSOR_ENDED: Phase.ASKING, **_DRAIN},
    # FAILED: no answer, or the row is revoked and the next sweep says so.
    Phase.ASKING: {
        PhaseTrigger.GRANTED: Phase.CONNECTING,
        PhaseTrigger.HELD: Phase.STANDBY,
        PhaseTrigger.FAILED: Phase.PAUSED,
        **_DRAIN,
    },
    # FREED is only the best guess of this process. The answer to the request that follows decides.
    Phase.STANDBY: {PhaseTrigger.FREED: Phase.ASKING, **_DRAIN},
    Phase.CONNECTING: {PhaseTrigger.ESTABLISHED: Phase.LINKED, PhaseTrigger.FAILED: Phase.PAUSED, **_DRAIN},
    Phase.LINKED: {PhaseTrigger.FAILED: Phase.PAUSED, **_DRAIN},
    Phase.PAUSED: {PhaseTrigger.RESTED: Phase.ASKING, **_DRAIN},
    # A drain that has begun keeps its meaning, also when the row goes or the process stops meanwhile.
    Phase.DRAINING: dict.fromkeys(PhaseTrigger, Phase.DRAINING),
    Phase.WITHDRAWN: dict.fromkeys(PhaseTrigger, Phase.WITHDRAWN),
}


def follow(phase: Phase, trigger: PhaseTrigger) -> Phase:
    """Return the phase after `trigger`. Raises LocalProtocolError if it makes no sense in `phase`."""
    try:
        return TRANSITIONS[phase][trigger]
    except KeyError:
        raise LocalProtocolError(f"{trigger.name} makes no sense in the phase {phase.name}") from None
