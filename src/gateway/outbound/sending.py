"""What follows from the outcome of one attempt to send, without I/O.

Three kinds of failure: the platform said no (nothing was sent, and saying it again is pointless), it said not now or
was not reached (nothing was sent), or the result is unknown. An unknown one is repeated with the same idempotency key
for as long as the platform honours it. Past that, or where it honours none, a repeat could be a second message, so the
chat is read instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.channel.errors import (
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.errors import LocalProtocolError

KEY_SHARE = 11 / 12
"""The part of an idempotency key's time that is used; the rest is for clocks and calls."""
UNSENT_SECONDS_MAX = 24 * 3600.0
"""An answer that could not be sent for so long is not worth sending any more."""
SETTLING_SECONDS = 60.0
"""What nobody heard of any more may take so long to appear. Before that a chat does not tell that it is not there."""
FAULTS_MAX = 5
"""Attempts of a row that fails by a fault of our own."""
_RETRY_FIRST_SECONDS = 1.0
_RETRY_MAX_SECONDS = 60.0
_UNAUTHORIZED_FIRST_SECONDS = 60.0
_UNAUTHORIZED_MAX_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Postpone:
    """Try again after `delay_seconds`. `doubtful`: the attempt may have succeeded after all."""

    delay_seconds: float
    doubtful: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Never again: the row is failed, and shown."""


@dataclass(frozen=True, slots=True)
class FindOut:
    """Never again; but an earlier attempt may have succeeded, and then it would be a lie that the row failed."""


def is_repeatable(*, doubt_seconds: float, key_seconds: float) -> bool:
    """Whether a row whose first doubtful attempt began `doubt_seconds` ago may be sent again under the same key."""
    return doubt_seconds <= key_seconds * KEY_SHARE and key_seconds > 0


def is_settled(*, idle_seconds: float) -> bool:
    """Whether an attempt that began so long ago would be visible by now, had it succeeded."""
    return idle_seconds >= SETTLING_SECONDS


def is_outlived(*, age_seconds: float, in_doubt: bool) -> bool:
    """Whether a row is not to be sent any more, because its bot was away too long. A doubtful one has its own limit."""
    return age_seconds >= UNSENT_SECONDS_MAX and not in_doubt


def judge_attempt(
    error: Exception, *, attempts: int, age_seconds: float, in_doubt: bool, idle_seconds: float, random_unit: float
) -> Postpone | GiveUp | FindOut:
    """What becomes of a row whose attempt number `attempts` ended in `error`.

    It is in doubt when the result of an earlier one is unknown; the latest of those began `idle_seconds` ago.
    `random_unit` in [0, 1) spreads the retries of many rows over x[0.5, 1.5).
    """
    if isinstance(error, PlatformRefused):
        return _end(in_doubt, idle_seconds)
    if isinstance(error, PlatformUnavailable):
        doubtful = not isinstance(error, PlatformUnreachable)
        if is_outlived(age_seconds=age_seconds, in_doubt=in_doubt or doubtful):
            return GiveUp()
        return Postpone(_doubled(_RETRY_FIRST_SECONDS, attempts, _RETRY_MAX_SECONDS) * (0.5 + random_unit), doubtful)
    if isinstance(error, PlatformThrottled | PlatformUnauthorized):
        if is_outlived(age_seconds=age_seconds, in_doubt=in_doubt):
            return GiveUp()
        return Postpone(_definite_delay(error, attempts), False)
    # A fault of ours. It may have met the answer to a message that was delivered, unless it kept us from calling.
    doubtful = not isinstance(error, LocalProtocolError)
    if attempts < FAULTS_MAX:
        return Postpone(_doubled(_RETRY_FIRST_SECONDS, attempts, _RETRY_MAX_SECONDS), doubtful)
    return _end(in_doubt or doubtful, idle_seconds)


def _end(in_doubt: bool, idle_seconds: float) -> Postpone | GiveUp | FindOut:
    """No attempt will be better than this one. One more is made all the same while an earlier one may yet appear."""
    if not in_doubt:
        return GiveUp()
    if idle_seconds < SETTLING_SECONDS:
        return Postpone(SETTLING_SECONDS, True)
    return FindOut()


def _definite_delay(error: PlatformThrottled | PlatformUnauthorized, attempts: int) -> float:
    if isinstance(error, PlatformThrottled):
        return max(error.retry_after, 0.1)
    return _doubled(_UNAUTHORIZED_FIRST_SECONDS, attempts, _UNAUTHORIZED_MAX_SECONDS)


def _doubled(first: float, attempts: int, limit: float) -> float:
    # The exponent is bounded because a float overflows after a thousand doublings.
    return float(min(first * 2.0 ** min(max(attempts - 1, 0), 32), limit))
