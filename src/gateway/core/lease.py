"""The timing of a lease, and how long a process may trust one.

The database owns the lease. Its clock alone says when a lease has expired, and its row alone says who holds it. The
local monotonic clock never extends a lease. It only bounds how long this process trusts the last confirmation.
A request that was sent at t makes the database record an expiry of t + ttl or later. A holder that stops at
t + ttl - margin has therefore stopped before another process can begin, however late the answer arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ConfigError

CHANNEL_FINISH_SECONDS = 1.0
"""The time for which a channel may shield the settling of received events, by its contract."""
OUTBOX_FINISH_SECONDS = 0.5
"""The time for which the outbox may shield a send in flight."""
RELEASE_FINISH_SECONDS = 0.4
"""The time for which the release of a lease may be shielded once its scope is cancelled."""
SHIELDS_UNDER_LEASE_SECONDS = CHANNEL_FINISH_SECONDS + OUTBOX_FINISH_SECONDS + RELEASE_FINISH_SECONDS
"""The time for which shielded work may go on after a lease was cancelled. A test keeps it below the default margin.

A database call that is cut short inside one of the shields may take a second or two more to clean up (the driver's
bounds, and the release of a claim). That only makes the release late: the fence has closed the link by then, and every
write is fenced by claim or epoch.
"""

_RETRY_SECONDS_MAX = 5.0
_JITTER_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """The timings of a lease, in seconds.

    A holder renews every `renew` and stops `margin` before its lease can expire. Sweeps run every `poll`.

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
        """Derive the other three timings from the time-to-live."""
        renew = ttl_seconds / 3
        return cls(ttl_seconds, renew, renew / 2, ttl_seconds / 10)

    @property
    def trust_seconds(self) -> float:
        """The time for which a confirmation is trusted, counted from the moment its request was sent."""
        return self.ttl_seconds - self.margin_seconds

    @property
    def slack_seconds(self) -> float:
        """The trusted time that is left when a renewal is due."""
        return self.trust_seconds - self.renew_seconds

    @property
    def attempt_seconds(self) -> float:
        """The bound of one acquire or renew. Two attempts and the pause between them fit into the slack."""
        return min(_RETRY_SECONDS_MAX, self.slack_seconds / 3)

    @property
    def retry_seconds(self) -> float:
        """The pause after a renewal that failed, or that found a row locked."""
        return min(_RETRY_SECONDS_MAX, self.renew_seconds / 4, self.slack_seconds / 6)

    @property
    def shields_fit(self) -> bool:
        """True if every shield ends before the lease can expire. If not, only the fence closes the link in time."""
        return self.margin_seconds > SHIELDS_UNDER_LEASE_SECONDS

    def trusted_until(self, sent_at: float) -> float:
        """Return the deadline of a lease whose confirmed request was sent at `sent_at` (monotonic seconds)."""
        return sent_at + self.trust_seconds

    def renew_delay(self, random_unit: float) -> float:
        """Return the pause before the next renewal: `renew_seconds` x[0.9, 1.1], early enough for two attempts."""
        spread = 1 - _JITTER_SPREAD + 2 * _JITTER_SPREAD * random_unit
        return min(self.renew_seconds * spread, self.renew_seconds + self.slack_seconds / 6)


def lease_token(node_id: str, generation: int) -> str:
    """Return the token of a lease holder. Each start of an installation's task has its own, never the whole process.

    With a shared token, the late release of a replaced task would release its successor's lease.
    """
    return f"{node_id}-g{generation}"
