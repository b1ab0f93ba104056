"""Readiness: named checks, asked together, each within a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import trio

from gateway.errors import GatewayError

logger = structlog.get_logger(__name__)

GOOD = "ok"

Check = Callable[[], Awaitable[str | None]]
"""None when all is well, else what is wrong in words an operator can act on: it is served to anybody who asks."""


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `/readyz`: `status` is `ok` or `unavailable`, `checks` has `ok` or a reason for each."""

    status: str
    checks: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.status == GOOD


class Readiness:
    """The checks that must hold before this process takes traffic."""

    def __init__(self, *, check_timeout_seconds: float = 2.0) -> None:
        self._checks: dict[str, Check] = {}
        self._failing: set[str] = set()
        self._timeout = check_timeout_seconds

    def add(self, name: str, check: Check) -> None:
        self._checks[name] = check

    async def report(self) -> Report:
        """Ask every check at the same time. A check that raises or is too slow counts as failed, and never raises.

        The log hears of a check when it begins to fail and when it is well again, however often somebody asks.
        """
        results = dict.fromkeys(self._checks, "")
        async with trio.open_nursery() as nursery:
            for name in self._checks:
                nursery.start_soon(self._ask, name, results)
        for name, result in results.items():
            self._note(name, result)
        status = GOOD if all(result == GOOD for result in results.values()) else "unavailable"
        return Report(status, results)

    async def _ask(self, name: str, results: dict[str, str]) -> None:
        results[name] = f"no answer within {self._timeout:g} s"
        with trio.move_on_after(self._timeout):
            try:
                results[name] = await self._checks[name]() or GOOD
            except Exception as error:
                results[name] = f"failed ({type(error).__name__}); see the log"
                if name not in self._failing:
                    # An error that somebody foresaw is told by its own words, any other by its traceback.
                    unforeseen = None if isinstance(error, GatewayError) else error
                    logger.warning("readiness_check_raised", check=name, error=str(error), exc_info=unforeseen)

    def _note(self, name: str, result: str) -> None:
        if result != GOOD and name not in self._failing:
            self._failing.add(name)
            logger.warning("readiness_check_failed", check=name, reason=result)
        elif result == GOOD and name in self._failing:
            self._failing.discard(name)
            logger.info("readiness_check_recovered", check=name)
