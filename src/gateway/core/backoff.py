"""How long to wait before a link is tried again."""

from __future__ import annotations

from dataclasses import dataclass

_LOST_FIRST_SECONDS = 2.0
_LOST_MAX_SECONDS = 60.0
_REFUSED_FIRST_SECONDS = 60.0
_REFUSED_MAX_SECONDS = 900.0
HEALTHY_SECONDS = 60.0
"""A link that held this long starts over with the shortest pause."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """What went wrong in a row. It belongs to one set of credentials: others start with a fresh one, so at once."""

    losses: int = 0
    refusals: int = 0

    def lost(self, healthy_seconds: float, random_unit: float) -> tuple[float, Backoff]:
        """A link that ended after `healthy_seconds` (0 when it never came up): the pause, and what to remember.

        2 s doubling to 60 s, spread over x[0.5, 1.5) by `random_unit` in [0, 1).
        """
        losses = 0 if healthy_seconds >= HEALTHY_SECONDS else self.losses
        pause = _doubled(_LOST_FIRST_SECONDS, losses, _LOST_MAX_SECONDS) * (0.5 + random_unit)
        return pause, Backoff(losses=losses + 1)

    def refused(self, healthy_seconds: float) -> tuple[float, Backoff]:
        """The platform said no, in a way that time alone rarely mends: 60 s doubling to 900 s."""
        refusals = 0 if healthy_seconds >= HEALTHY_SECONDS else self.refusals
        pause = _doubled(_REFUSED_FIRST_SECONDS, refusals, _REFUSED_MAX_SECONDS)
        return pause, Backoff(refusals=refusals + 1)


def _doubled(first: float, times: int, limit: float) -> float:
    # The exponent is bounded because a float overflows after a thousand doublings, which a bad week can reach.
    return min(first * 2.0 ** min(times, 32), limit)
