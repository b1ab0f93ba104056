"""Pauses between attempts to connect a bot's link."""

from __future__ import annotations

from dataclasses import dataclass

_LOST_FIRST_SECONDS = 2.0
_LOST_MAX_SECONDS = 60.0
_REFUSED_FIRST_SECONDS = 60.0
_REFUSED_MAX_SECONDS = 900.0
HEALTHY_SECONDS = 60.0
"""When a link that held at least this long ends, its next pause is the shortest again."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Counts of consecutive failures of one set of credentials.

    New credentials start with a fresh count, and therefore connect at once.
    """

    losses: int = 0
    refusals: int = 0

    def lost(self, healthy_seconds: float, random_unit: float) -> tuple[float, Backoff]:
        """Return the pause after a lost link, and the new counts. `healthy_seconds` is 0 if it never came up.

        The pause is 2 s doubling to 60 s. It is spread over x[0.5, 1.5) by `random_unit` in [0, 1).
        """
        losses = 0 if healthy_seconds >= HEALTHY_SECONDS else self.losses
        pause = _doubled(_LOST_FIRST_SECONDS, losses, _LOST_MAX_SECONDS) * (0.5 + random_unit)
        return pause, Backoff(losses=losses + 1)

    def refused(self, healthy_seconds: float) -> tuple[float, Backoff]:
        """Return the pause after the platform refused the link, and the new counts.

        Waiting alone rarely removes the cause of a refusal, so the pause is 60 s doubling to 900 s.
        """
        refusals = 0 if healthy_seconds >= HEALTHY_SECONDS else self.refusals
        pause = _doubled(_REFUSED_FIRST_SECONDS, refusals, _REFUSED_MAX_SECONDS)
        return pause, Backoff(refusals=refusals + 1)


def _doubled(first: float, times: int, limit: float) -> float:
    # The exponent is bounded because a float overflows after a thousand doublings. A link that fails for a week can
    # reach that.
    return min(first * 2.0 ** min(times, 32), limit)
