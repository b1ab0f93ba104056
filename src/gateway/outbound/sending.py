"""Decisions before and after one attempt to send, without I/O, and what may become of a row.

There are three kinds of failure. The platform refused the message: nothing was sent, and a repeat is pointless. The
platform asked to wait or was not reached: nothing was sent. Or the result is unknown. An attempt with an unknown result
is repeated with the same idempotency key for as long as the platform honours that key. After that time, or where the
platform honours no key, a repeat could be a second message, so the chat is read instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from gateway.channel.errors import (
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.errors import LocalProtocolError

KEY_SHARE = 11 / 12
"""The part of an idempotency key's lifetime that is used. The rest allows for clock differences and slow calls."""
UNSENT_SECONDS_MAX = 24 * 3600.0
"""A row that could not be sent for this long is given up."""
SETTLING_SECONDS = 60.0
"""The time that a message may take to appear in its chat. Before that, its absence there proves nothing."""
FAULTS_MAX = 5
"""Attempts of a row that fails by an internal error."""
_RETRY_FIRST_SECONDS = 1.0
_RETRY_MAX_SECONDS = 60.0
_UNAUTHORIZED_FIRST_SECONDS = 60.0
_UNAUTHORIZED_MAX_SECONDS = 900.0


class NextStep(Enum):
    """What to do with a row that is due."""

    SEND = auto()
    WAIT = auto()
    """Wait until a message of the last attempt would be visible in the chat."""
    FIND_OUT = auto()
    """Look in the chat for the message of an earlier attempt. It must not be sent again."""
    GIVE_UP = auto()


def next_step(*, age_seconds: float, doubt_seconds: float | None, idle_seconds: float, key_seconds: float) -> NextStep:
    """Decide what to do with a row that is due. `doubt_seconds` is None if it is certain that nothing was sent yet."""
    if doubt_seconds is None:
        return NextStep.GIVE_UP if is_outlived(age_seconds=age_seconds, in_doubt=False) else NextStep.SEND
    if is_repeatable(doubt_seconds=doubt_seconds, key_seconds=key_seconds):
        return NextStep.SEND
    # The platform may have forgotten the idempotency key, so a repeat could be a second visible message.
    return NextStep.FIND_OUT if is_settled(idle_seconds=idle_seconds) else NextStep.WAIT


@dataclass(frozen=True, slots=True)
class Sent:
    """The message is in its chat."""

    message_id: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """It is certain that no attempt succeeded. The row is due again at once."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """The row is due again after `delay_seconds`. `doubtful` is True if this attempt may have succeeded."""

    delay_seconds: float
    code: int
    reason: str
    doubtful: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """The row is not sent, for good. `code` is the platform's, or 0."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It cannot be found out whether the message is in its chat. The row is shown as such and never sent again."""

    code: int
    reason: str


RowOutcome = Sent | NotSent | Postponed | Failed | Unknown
"""What becomes of a row after one attempt, with what is stored on it."""


@dataclass(frozen=True, slots=True)
class Postpone:
    """Try again after `delay_seconds`. `doubtful` is True if the attempt may have succeeded after all."""

    delay_seconds: float
    doubtful: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again: the row is failed, and shown as such."""


@dataclass(frozen=True, slots=True)
class FindOut:
    """Do not try again, but find out first whether an earlier attempt succeeded, before the row is marked failed."""


def is_repeatable(*, doubt_seconds: float, key_seconds: float) -> bool:
    """True if a row whose first doubtful attempt began `doubt_seconds` ago may be sent again with the same key."""
    return doubt_seconds <= key_seconds * KEY_SHARE and key_seconds > 0


def is_settled(*, idle_seconds: float) -> bool:
    """True if an attempt that began `idle_seconds` ago would be visible in the chat by now, had it succeeded."""
    return idle_seconds >= SETTLING_SECONDS


def is_outlived(*, age_seconds: float, in_doubt: bool) -> bool:
    """True if the row waited too long for its bot to be sent at all. A row in doubt has a limit of its own."""
    return age_seconds >= UNSENT_SECONDS_MAX and not in_doubt


def judge_attempt(
    error: Exception, *, attempts: int, age_seconds: float, in_doubt: bool, idle_seconds: float, random_unit: float
) -> Postpone | GiveUp | FindOut:
    """Decide the next step for a row whose attempt number `attempts` ended in `error`.

    `in_doubt` is True if the result of an earlier attempt is unknown. The latest of those began `idle_seconds` ago.
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
    # An internal error. It may have occurred while the answer to a delivered message was read. Only LocalProtocolError
    # certainly comes before the call.
    doubtful = not isinstance(error, LocalProtocolError)
    if attempts < FAULTS_MAX:
        return Postpone(_doubled(_RETRY_FIRST_SECONDS, attempts, _RETRY_MAX_SECONDS), doubtful)
    return _end(in_doubt or doubtful, idle_seconds)


def _end(in_doubt: bool, idle_seconds: float) -> Postpone | GiveUp | FindOut:
    """Decide the end of a row for which further attempts are pointless.

    While the message of an earlier doubtful attempt may still appear in the chat, the row is postponed once more.
    """
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
