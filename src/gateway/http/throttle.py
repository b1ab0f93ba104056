"""Limits on failed attempts, counted per replica over a sliding minute of the monotonic clock."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import TooMany
from gateway.webhooks.limits import RecentHits

PER_ADDRESS = RateLimitItemPerMinute(30)
PER_ACCOUNT = RateLimitItemPerMinute(10)
"""Attempts at one account from one address."""
KEYS_MAX = 20_000
"""The most addresses, and pairs of address and account, that are counted at once. The quietest are forgotten first."""
_EMAIL_LENGTH_MAX = 254


class Throttle:
    """Counts one sort of attempt against one or more limits. `attempts` names the sort, in the plural.

    Everything here is synchronous. No other task can count between a check and its count, so no burst passes a limit.
    """

    def __init__(self, attempts: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempts = attempts
        self._clock = clock
        self._hits = RecentHits(keys_max=KEYS_MAX, clock=clock)
        self._limiter = MovingWindowRateLimiter(self._hits)

    def check(self, limit: RateLimitItem, *key: str) -> None:
        """Check that the limit is not reached.

        Raises TooMany if it is, with the time to wait in whole seconds (at least one).
        """
        if self._limiter.test(limit, *key):
            return
        reset = self._limiter.get_window_stats(limit, *key).reset_time
        seconds = max(1, math.ceil(reset - self._clock()))
        message = f"too many {self._attempts}; try again in {seconds} s"
        raise TooMany("too_many_attempts", message, retry_after=seconds)

    def count(self, limit: RateLimitItem, *key: str) -> None:
        """Count one attempt. Beyond the limit it counts nothing and raises TooMany as `check` does."""
        self.check(limit, *key)
        self._limiter.hit(limit, *key)

    def give_back(self, limit: RateLimitItem, *key: str) -> None:
        """Take back one counted attempt."""
        self._hits.give_back(limit.key_for(*key))

    def forget(self, limit: RateLimitItem, *key: str) -> None:
        """Take back all counted attempts of this key."""
        self._hits.forget(limit.key_for(*key))


class LoginThrottle:
    """Counts failed attempts to sign in, by the address they come from and by address and account together.

    An account's failures over all addresses are not limited: a stranger could fail on purpose and lock its owner out.
    An attempt is counted when it begins and taken back when it succeeds. Otherwise many attempts at once would pass the
    limit before the first of them has failed.
    """

    def __init__(
        self,
        *,
        per_address: RateLimitItem = PER_ADDRESS,
        per_account: RateLimitItem = PER_ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._throttle = Throttle("failed attempts to sign in", clock=clock)
        self._per_address = per_address
        self._per_account = per_account
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._known: Counter[str] = Counter()

    def is_familiar(self, address: str, email: str) -> bool:
        """True if a sign-in to the account from this address succeeded since this process began.

        At most KEYS_MAX pairs are remembered, the latest ones.
        """
        return (address, _account(email)) in self._familiar

    def check(self, address: str) -> None:
        """Check an address before its request is read. Raises TooMany as `Throttle.check` does.

        An address from which some account signed in before is let through: `admit` knows the account, and judges then.
        """
        if not self._known[address]:
            self._throttle.check(self._per_address, "address", address)

    def admit(self, address: str, email: str) -> None:
        """Count an attempt. Raises TooMany as `Throttle.check` does; the attempt is then not counted.

        Failures at other accounts do not lock out an account that signed in from this address before: behind one
        address there may be a whole office.
        """
        familiar = self.is_familiar(address, email)
        if not familiar:
            self._throttle.check(self._per_address, "address", address)
        self._throttle.count(self._per_account, "account", address, _account(email))
        if not familiar:
            self._throttle.count(self._per_address, "address", address)

    def succeeded(self, address: str, email: str) -> None:
        """Take back a successful attempt, and with it all failures of this address at this account.

        The client knows the password, so its count for the account starts again.
        """
        self._throttle.forget(self._per_account, "account", address, _account(email))
        if not self.is_familiar(address, email):
            self._throttle.give_back(self._per_address, "address", address)
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
        self._throttle.give_back(self._per_account, "account", address, _account(email))
        if not self.is_familiar(address, email):
            self._throttle.give_back(self._per_address, "address", address)


class BadPostThrottle:
    """Counts bad posts by the address they come from. Good posts are neither counted nor refused."""

    def __init__(
        self, *, per_address: RateLimitItem = PER_ADDRESS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._throttle = Throttle("posts that are not the platform's", clock=clock)
        self._per_address = per_address

    def count(self, address: str) -> None:
        """Count a bad post. Raises TooMany as `Throttle.count` does."""
        self._throttle.count(self._per_address, "address", address)


def _account(email: str) -> str:
    return email.strip().lower()[:_EMAIL_LENGTH_MAX]
