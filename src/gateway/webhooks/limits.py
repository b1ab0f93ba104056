"""Rate limits for requests to triggers.

Beyond a limit a request is refused, or waits for its turn. Counted per process.

A request is judged first and counted afterwards, so that bad requests cannot use up the budget of a sender with a valid
signature:

- Unknown tokens, and signatures that are missing or wrong, count against the address they came from.
- Failures, and all requests at a trigger without a secret, count against the trigger.
- A request with a valid signature begins at once up to the pace, which is the limit per token. Beyond the pace it waits
  for its turn. It is refused only above CEILING times the pace.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import StrEnum
from functools import partial
from typing import Literal
from uuid import UUID

from gateway.errors import TooMany
from gateway.rate_limit import Clock, RateLimit

Gate = Literal["token", "ip"]

KEYS_MAX = 100_000
"""Keys that are counted at the same time. Beyond that, the key that has been idle longest is forgotten."""
CEILING = 10
"""A sender with a valid signature is refused above this multiple of its pace."""


class LimitReached(TooMany):
    """A request over a limit. `gate` names the limit."""

    def __init__(self, gate: Gate, seconds: int) -> None:
        message = f"too many requests; try again in {seconds} s"
        super().__init__("rate_limited", message, retry_after=seconds)
        self.gate: Gate = gate


class Standing(StrEnum):
    """The result of judging a request at a known trigger."""

    PROVEN = "proven"
    """Its signature is valid."""
    UNPROVEN = "unproven"
    """The trigger asks for no signature, or has a secret that cannot be read."""
    DISPROVED = "disproved"
    """Its signature is missing or wrong."""


class Gates:
    """The limits of one process. The standing of a request decides which of them apply."""

    def __init__(
        self,
        *,
        per_token_per_minute: int,
        per_ip_per_minute: int,
        clock: Clock = time.monotonic,
        minute_seconds: int | None = None,
    ) -> None:
        """`per_token_per_minute` sets the limits per token, `per_ip_per_minute` the one per address.

        0 turns them off. `minute_seconds` is the length of their window, as in RateLimit.
        """

        def limit(gate: Gate, per_minute: int) -> RateLimit:
            refuse = partial(LimitReached, gate)
            return RateLimit(per_minute, refuse, keys_max=KEYS_MAX, clock=clock, minute_seconds=minute_seconds)

        self._bad_credentials = limit("ip", per_ip_per_minute)
        self._unproven = limit("token", per_token_per_minute)
        self._pace = limit("token", per_token_per_minute)
        self._ceiling = limit("token", per_token_per_minute * CEILING)
        self._waiting: frozenset[UUID] = frozenset()

    # --- before a request is judged -----------------------------------------------------------------------------------

    def is_spent(self, address: str) -> bool:
        """True if this address has used up its limit of bad credentials."""
        return not self._bad_credentials.has_room(address)

    def count_unknown(self, address: str) -> None:
        """Count a token that does not exist. Raises LimitReached."""
        self._bad_credentials.hit(address)

    def check_unsigned(self, trigger_id: UUID) -> None:
        """Raise LimitReached for a trigger that asks for no signature and has no room, before the body is read."""
        self._unproven.check(str(trigger_id))

    # --- once it is judged --------------------------------------------------------------------------------------------

    def count(self, address: str, trigger_id: UUID, standing: Standing) -> None:
        """Count a request. Raises LimitReached."""
        if standing is Standing.DISPROVED:
            self._bad_credentials.hit(address)
        limit = self._ceiling if standing is Standing.PROVEN else self._unproven
        limit.hit(str(trigger_id))

    def has_to_wait(self, trigger_id: UUID, standing: Standing) -> bool:
        """True if a counted request that starts a run must wait for its turn. False lets it begin, and counts it."""
        if standing is not Standing.PROVEN:
            return False
        # While earlier deliveries of this trigger wait, this one waits too. Otherwise it would overtake them as soon as
        # the sliding window has room.
        if trigger_id not in self._waiting and self._pace.take(str(trigger_id)):
            return False
        self._waiting |= {trigger_id}
        return True

    # --- waiting deliveries -------------------------------------------------------------------------------------------

    def take_turn(self, trigger_id: UUID) -> bool:
        """Count a waiting delivery and let it begin. False when there is no room."""
        return self._pace.take(str(trigger_id))

    def give_back_turn(self, trigger_id: UUID) -> None:
        """Undo a `take_turn` that was not used."""
        self._pace.give_back(str(trigger_id))

    def set_waiting(self, trigger_ids: Iterable[UUID]) -> None:
        """Set the triggers at which deliveries wait. At all other triggers the next delivery may begin at once."""
        self._waiting = frozenset(trigger_ids)
