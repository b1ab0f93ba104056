"""Limits on failed attempts, counted per replica over a sliding minute of the monotonic clock."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict

from gateway.errors import TooMany
from gateway.rate_limit import Clock, RateLimit

PER_ADDRESS = 30
"""The most failures of one address in a minute."""
PER_ACCOUNT = 10
"""The most failures at one account from one address in a minute."""
KEYS_MAX = 20_000
"""The most keys of one limit that are counted at once. The quietest are forgotten first."""
_EMAIL_LENGTH_MAX = 254


def attempts_limit(attempts: str, per_minute: int, *, clock: Clock = time.monotonic) -> RateLimit:
    """Return a limit on one sort of attempt, which `attempts` names in the plural for the person who is refused."""

    def refuse(seconds: int) -> TooMany:
        message = f"too many {attempts}; try again in {seconds} s"
        return TooMany("too_many_attempts", message, retry_after=seconds)

    return RateLimit(per_minute, refuse, keys_max=KEYS_MAX, clock=clock)


class LoginThrottle:
    """Counts failed attempts to sign in, by the address they come from and by address and account together.

    An account's failures over all addresses are not limited: a stranger could fail on purpose and lock its owner out.
    An attempt is counted when it begins and taken back when it succeeds. Otherwise many attempts at once would pass the
    limit before the first of them has failed.
    """

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._of_address = attempts_limit("failed attempts to sign in", PER_ADDRESS, clock=clock)
        self._of_account = attempts_limit("failed attempts to sign in", PER_ACCOUNT, clock=clock)
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._known: Counter[str] = Counter()

    def is_familiar(self, address: str, email: str) -> bool:
        """True if a sign-in to the account from this address succeeded since this process began.

        At most KEYS_MAX pairs are remembered, the latest ones.
        """
        return (address, _account(email)) in self._familiar

    def check(self, address: str) -> None:
        """Check an address before its request is read. Raises TooMany if it failed too often.

        An address from which some account signed in before is let through: `admit` knows the account, and judges then.
        """
        if not self._known[address]:
            self._of_address.check(address)

    def admit(self, address: str, email: str) -> None:
        """Count an attempt. Raises TooMany beyond a limit; the attempt is then not counted.

        Failures at other accounts do not lock out an account that signed in from this address before: behind one
        address there may be a whole office.
        """
        familiar = self.is_familiar(address, email)
        if not familiar:
            self._of_address.check(address)
        self._of_account.hit(_pair(address, email))
        if not familiar:
            self._of_address.hit(address)

    def succeeded(self, address: str, email: str) -> None:
        """Take back a successful attempt, and with it all failures of this address at this account.

        The client knows the password, so its count for the account starts again.
        """
        self._of_account.forget(_pair(address, email))
        if not self.is_familiar(address, email):
            self._of_address.give_back(address)
            self._familiar[address, _account(email)] = None
            self._known[address] += 1
        self._familiar.move_to_end((address, _account(email)))
        if len(self._familiar) > KEYS_MAX:
            (forgotten, _), _ = self._familiar.popitem(last=False)
            self._known[forgotten] -= 1
            if not self._known[forgotten]:
                del self._known[forgotten]

    def undecided(self, address: str, email: str) -> None:
        """Take back an attempt whose password was never judged."""
        self._of_account.give_back(_pair(address, email))
        if not self.is_familiar(address, email):
            self._of_address.give_back(address)


def bad_posts_limit(*, clock: Clock = time.monotonic) -> RateLimit:
    """Return the limit on bad posts, by the address they come from. Good posts are neither counted nor refused."""
    return attempts_limit("posts that are not the platform's", PER_ADDRESS, clock=clock)


def _pair(address: str, email: str) -> str:
    return f"{address} {_account(email)}"


def _account(email: str) -> str:
    return email.strip().lower()[:_EMAIL_LENGTH_MAX]
