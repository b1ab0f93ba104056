"""When a lease may be trusted.

The database owns the lease: only its clock says when one has expired, and only its row says whose it is. The local
monotonic clock never extends anything, it only bounds how long this process trusts what the database last confirmed.
A request that was sent at t makes the database record an expiry of t + ttl or later, so whoever stops at
t + ttl - margin has stopped before anybody else can begin, whatever the network did to the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ConfigError

CHANNEL_FINISH_SECONDS = 1.0
"""How long a channel may shield the settling of what it received, by its contract."""
OUTBOX_FINISH_SECONDS = 0.5
"""How long the outbox may shield a send in flight."""
RELEASE_FINISH_SECONDS = 0.4
"""How long the release of a lease may be shielded once its scope is cancelled."""
SHIELDS_UNDER_LEASE_SECONDS = CHANNEL_FINISH_SECONDS + OUTBOX_FINISH_SECONDS + RELEASE_FINISH_SECONDS
"""What may speak to the platform after a lease was cancelled. A test keeps it below the default margin.

A database call that is cut short inside one of them may take a second or two more to clean up (the driver's bounds, and
the release of a claim). That only makes the release late: the fence has closed the link, and what is written is fenced
by claim or epoch.
"""

_RETRY_SECONDS_MAX = 5.0
_JITTER_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Seconds. A holder renews every `renew` and stops `margin` before its lease can expire; sweeps come every `poll`.

    Raises ConfigError unless 0 < poll <= renew < ttl and 0 < margin < ttl - renew.
    """

    ttl_seconds: float = 15.0
    renew_seconds: float = 4.0
    poll_seconds: float = 4.0
    margin_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.poll_seconds <= self.renew_seconds < self.ttl_seconds:
            raise ConfigError(
                f"hub: poll_seconds ({self.poll_seconds:g}) must be above 0 and at most renew_seconds "
                f"({self.renew_seconds:g}), which must be below lease_ttl_seconds ({self.ttl_seconds:g})"
            )
        if not 0 < self.margin_seconds < self.ttl_seconds - self.renew_seconds:
            raise ConfigError(
                f"hub: expiry_margin_seconds ({self.margin_seconds:g}) must be above 0 and below lease_ttl_seconds - "
                f"renew_seconds ({self.ttl_seconds - self.renew_seconds:g})"
            )

    @classmethod
    def derived(cls, ttl_seconds: float) -> LeaseSettings:
        """The other three from a time-to-live alone."""
        renew = ttl_seconds / 3
        return cls(ttl_seconds, renew, renew / 2, ttl_seconds / 10)

    @property
    def trust_seconds(self) -> float:
        """How long a confirmation is good for, counted from the moment its request was sent."""
        return self.ttl_seconds - self.margin_seconds

    @property
    def slack_seconds(self) -> float:
        """What is left of the trust when a renewal is due."""
        return self.trust_seconds - self.renew_seconds

    @property
    def attempt_seconds(self) -> float:
        """The bound of one acquire or renew: two attempts and the pause between them fit into the slack."""
        return min(_RETRY_SECONDS_MAX, self.slack_seconds / 3)

    @property
    def retry_seconds(self) -> float:
        """The pause after a renewal that failed, or that found a row locked."""
        return min(_RETRY_SECONDS_MAX, self.renew_seconds / 4, self.slack_seconds / 6)

    @property
    def shields_fit(self) -> bool:
        """Whether every shield ends before the lease can expire. If not, only the fence closes the link in time."""
        return self.margin_seconds > SHIELDS_UNDER_LEASE_SECONDS

    def trusted_until(self, sent_at: float) -> float:
        """The deadline of a lease whose confirmed request was sent at `sent_at` (monotonic seconds)."""
        return sent_at + self.trust_seconds

    def renew_delay(self, random_unit: float) -> float:
        """The next renewal tick: spread over x[0.9, 1.1], and never so late that only one attempt would fit."""
        spread = 1 - _JITTER_SPREAD + 2 * _JITTER_SPREAD * random_unit
        return min(self.renew_seconds * spread, self.renew_seconds + self.slack_seconds / 6)


def lease_token(node_id: str, generation: int) -> str:
    """Who holds a lease: one start of one installation's task. Never one token for a whole process.

    With a shared token the late release of a task that was replaced would give away its successor's lease.
    """
    return f"{node_id}-g{generation}"
