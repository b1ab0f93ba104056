"""Readiness: named checks that run at the same time, each within a time limit, with answers kept for a short while."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
import trio

from gateway.concurrency import finishing
from gateway.errors import GatewayError

logger = structlog.get_logger(__name__)

GOOD = "ok"
DEGRADED = "degraded"
UNAVAILABLE = "unavailable"

BOTS = "bots"
UNWELL_STATES = ("deaf", "refused", "unreadable_secret", "degraded")
"""The states of a bot that does not do all of its work."""

CHECK_TIMEOUT_SECONDS = 2.0
KEPT_SECONDS = 1.0
"""The time for which an answer is kept. A bad one is never kept longer, so that a past outage is not reported."""

Check = Callable[[], Awaitable[str | None]]
"""Returns None when all is well, else the problem in words that an operator can act on.

The text is served to every client that asks, without authentication.
"""

BotCounts = Callable[[], Mapping[str, int]]
"""Returns the number of bots of this process by state. It must not wait."""


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `/readyz`: `checks` holds `ok` or a reason for each check, `bots` the number of bots by state.

    A bot that is `degraded` (it answered 500 to some chat within the last minute) counts as `degraded` and as `live`.

    `status` is `unavailable` when this process cannot work, and `degraded` when only some of its bots cannot.
    """

    status: str
    checks: dict[str, str] = field(default_factory=dict)
    bots: dict[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.status != UNAVAILABLE


@dataclass(slots=True)
class _Asked:
    """A check, its last answer, and the time on the monotonic clock until which that answer is kept."""

    check: Check
    kept_seconds: float
    answer: str = ""
    until: float = -math.inf


class Readiness:
    """The checks that must pass before this process takes traffic, together with the states of its bots.

    At most one round of checks is under way, however many clients ask. Its answers serve all of them.
    """

    def __init__(self, bots: BotCounts | None = None, *, check_timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> None:
        self._checks: dict[str, _Asked] = {}
        self._bots = bots
        self._failing: set[str] = set()
        self._timeout = check_timeout_seconds
        self._asking = trio.Lock()

    def add(self, name: str, check: Check, *, kept_seconds: float = KEPT_SECONDS) -> None:
        """Add a check. A good answer of it is kept for `kept_seconds`."""
        self._checks[name] = _Asked(check, kept_seconds)

    async def report(self) -> Report:
        """Report from the kept answers, after running the checks whose answer is too old, all at the same time.

        A check that raises or is too slow counts as failed. Its exception is not raised here. The report itself comes
        within twice the time limit of one check. The log has one line when a check begins to fail and one when it
        recovers, however often it runs.
        """
        with trio.move_on_after(2 * self._timeout) as waiting:
            async with self._asking:
                if due := self._due():
                    # Shielded, so that a client that disconnects does not cancel a round which is nearly done and would
                    # then have to start again for the next client.
                    with finishing(self._timeout):
                        await self._ask_all(due)
        late = self._due() if waiting.cancelled_caught else ()
        checks = {name: self._too_slow if name in late else asked.answer for name, asked in self._checks.items()}
        return self._with_bots(checks)

    @property
    def _too_slow(self) -> str:
        return f"no answer within {self._timeout:g} s"

    def _due(self) -> list[str]:
        now = trio.current_time()
        return [name for name, asked in self._checks.items() if asked.until <= now]

    async def _ask_all(self, due: list[str]) -> None:
        results = dict.fromkeys(due, self._too_slow)
        try:
            async with trio.open_nursery() as nursery:
                for name in due:
                    nursery.start_soon(self._ask, name, results)
        finally:
            for name, result in results.items():
                asked = self._checks[name]
                kept = asked.kept_seconds if result == GOOD else min(KEPT_SECONDS, asked.kept_seconds)
                asked.answer, asked.until = result, trio.current_time() + kept
                self._note(name, result)

    async def _ask(self, name: str, results: dict[str, str]) -> None:
        with trio.move_on_after(self._timeout):
            try:
                results[name] = await self._checks[name].check() or GOOD
            except Exception as error:
                results[name] = f"failed ({type(error).__name__}); see the log"
                if name not in self._failing:
                    # An error of this project explains itself by its message. Any other is logged with its traceback.
                    unforeseen = None if isinstance(error, GatewayError) else error
                    logger.warning("readiness_check_raised", check=name, error=str(error), exc_info=unforeseen)

    def _with_bots(self, checks: dict[str, str]) -> Report:
        status = GOOD if all(answer == GOOD for answer in checks.values()) else UNAVAILABLE
        if self._bots is None:
            return Report(status, checks)
        bots = {state: count for state, count in self._bots().items() if count}
        unwell = ", ".join(f"{bots[state]} {state}" for state in UNWELL_STATES if state in bots)
        self._note(BOTS, unwell or GOOD)
        if unwell and status == GOOD:
            status = DEGRADED
        return Report(status, {**checks, BOTS: unwell or GOOD}, bots)

    def _note(self, name: str, result: str) -> None:
        if result != GOOD and name not in self._failing:
            self._failing.add(name)
            logger.warning("readiness_check_failed", check=name, reason=result)
        elif result == GOOD and name in self._failing:
            self._failing.discard(name)
            logger.info("readiness_check_recovered", check=name)
