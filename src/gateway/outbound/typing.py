"""The typing sign: shown on a message while its run lasts, and removed before the answer appears.

A sign is worth less than a message. It is given up in cases where a message would be retried, and few calls for signs
are under way at a time. An answer waits one second at most for its sign to go; the outbox enforces that
(`OutboxStore.take_due`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import Channel, Typing, typing_of
from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
)
from gateway.concurrency import Signal, Workers, reached
from gateway.errors import StoreError
from gateway.outbound.governor import Governor
from gateway.outbound.ports import Lease, TypingRow, TypingStore
from gateway.recorder import SILENT, Recorder

logger = structlog.get_logger(__name__)
T = TypeVar("T")

CONCURRENCY_MAX = 4
SHOW_ATTEMPTS_MAX = 3
HIDE_ATTEMPTS_MAX = 6
STORE_RETRY_SECONDS = 1.0
NO_ROOM_SECONDS = 1.0
"""The pause before another look for room within the platform's limits. Messages take precedence."""
REST_OF_RUN_SECONDS = 24 * 3600.0
"""A delay longer than any run: a sign that is postponed by it is next served when its run ends."""
_SHOW_RETRY_SECONDS = 1.0
_HIDE_RETRY_SECONDS = 2.0
_HIDE_RETRY_MAX_SECONDS = 300.0


class TypingSender:
    """Shows and removes the signs of one bot, within the loop and the nursery of its outbox.

    `wake` is the outbox's signal. The database notification for a wanted or unwanted sign sets it. This class sets it
    too after it has served a sign, because an answer may have waited for that. If the channel cannot show typing,
    neither the channel nor the store is called.

    A holder that was killed or cancelled can leave a row whose call may have succeeded. Showing the same sign again
    returns the id of the sign that is there. So the sign is shown again, even if the run is over and the id is needed
    only to remove it. If the platform refuses that, the row is failed, and it is unknown whether the sign is still
    there. If a call reaches the platform after its caller lost the lease, it may bring back a sign that is never
    removed.
    """

    def __init__(
        self,
        lease: Lease,
        channel: Channel,
        store: TypingStore,
        *,
        wake: Signal,
        governor: Governor,
        attempt_seconds: float = 2.5,
        recorder: Recorder = SILENT,
    ) -> None:
        self._lease = lease
        self._typing = typing_of(channel)
        self._store = store
        self._wake = wake
        self._governor = governor
        self._attempt_seconds = attempt_seconds
        self._recorder = recorder
        self._busy: set[UUID] = set()
        self._later: dict[UUID, float] = {}
        self._look_at = float("-inf")

    async def serve_due(self, nursery: Workers, *, rung: bool) -> float:
        """Start serving the signs that are due, as far as there is room. Returns the seconds until the next look.

        The store is asked only if `rung` is True or a postponed sign is due. An error of the store is logged and not
        raised.
        """
        if self._typing is None:
            return float("inf")
        if not rung and trio.current_time() < self._look_at:
            return self._look_at - trio.current_time()
        free = CONCURRENCY_MAX - len(self._busy)
        if free <= 0:
            return float("inf")  # each sign that is being served sets `wake` when it is done
        await self._begin(nursery, self._typing, free)
        return self._look_at - trio.current_time()

    async def _begin(self, nursery: Workers, typing: Typing, free: int) -> None:
        now = trio.current_time()
        try:
            rows = await self._store.take_due(self._lease, busy=self._busy, rows_max=free)
        except StoreError as error:
            logger.warning("typing_store_failed", installation_id=str(self._lease.installation_id), error=str(error))
            self._look_at = trio.current_time() + STORE_RETRY_SECONDS
            return
        self._later = {row_id: due for row_id, due in self._later.items() if due > now}
        self._look_at = min(self._later.values(), default=float("inf"))
        for row in rows:
            self._busy.add(row.id)
            nursery.start_soon(self._serve_row, row, typing)

    async def _serve_row(self, row: TypingRow, typing: Typing) -> None:
        """Serve one row, as a unit of work. Whatever happens, the row is free again and the loop is woken."""
        try:
            if not await self._serve_and_settle(row, typing):
                await trio.sleep(STORE_RETRY_SECONDS)
        finally:
            self._busy.discard(row.id)
            self._wake.set()

    async def _serve_and_settle(self, row: TypingRow, typing: Typing) -> bool:
        """Serve the row and store the outcome. False when that could not be stored: the row stays due."""
        reached("typing.taken")
        try:
            if row.reaction_id is None:
                row = await self._show(row, typing)
            if row.unwanted and row.reaction_id is not None:
                await self._hide(row, row.reaction_id, typing)
        except StoreError as error:
            logger.warning("typing_not_settled", row_id=str(row.id), error=str(error))
            return False
        except Exception:
            action = "hide" if row.unwanted else "show"
            self._recorder.count("typing_calls", action=action, outcome="fault")
            logger.exception("typing_not_settled", row_id=str(row.id))
            return False
        return True

    async def _show(self, row: TypingRow, typing: Typing) -> TypingRow:
        """Show the sign and return the updated row.

        It has a `reaction_id` if the call succeeded, and is `unwanted` if its run ended meanwhile.
        """
        try:
            reaction_id = await self._call(row.channel_message_id, lambda: typing.show_typing(row.channel_message_id))
        except Exception as error:
            await self._settle_failure(row, "show", error)
            return row
        reached("typing.shown_unmarked")
        unwanted = await self._store.mark_shown(self._lease, row.id, reaction_id)
        self._recorder.count("typing_calls", action="show", outcome="ok")
        return replace(row, reaction_id=reaction_id, unwanted=unwanted, attempts=row.attempts if row.unwanted else 1)

    async def _hide(self, row: TypingRow, reaction_id: str, typing: Typing) -> None:
        try:
            await self._call(row.channel_message_id, lambda: typing.hide_typing(row.channel_message_id, reaction_id))
        except Exception as error:
            await self._settle_failure(row, "hide", error)
            return
        reached("typing.hidden_unmarked")
        await self._store.mark_gone(self._lease, row.id)
        self._recorder.count("typing_calls", action="hide", outcome="ok")

    async def _call(self, message_id: str, call: Callable[[], Awaitable[T]]) -> T:
        if not self._governor.admits_typing():
            raise PlatformThrottled("messages go first", retry_after=NO_ROOM_SECONDS)
        try:
            with trio.fail_after(self._attempt_seconds):
                return await call()
        except trio.TooSlowError as error:
            raise PlatformUnavailable(f"no answer within {self._attempt_seconds:g} s") from error
        except PlatformThrottled as error:
            self._governor.learn(message_id, error)
            raise

    async def _settle_failure(self, row: TypingRow, action: str, error: Exception) -> None:
        delay = judge_failure(error, unwanted=row.unwanted, attempts=row.attempts)
        self._log_failure(row, action, error, delay)
        if delay is None:
            await self._store.mark_failed(self._lease, row.id)
            self._recorder.count("typing_calls", action=action, outcome="failed")
            return
        await self._store.postpone(self._lease, row, delay)
        self._recorder.count("typing_calls", action=action, outcome="postponed")
        if delay < REST_OF_RUN_SECONDS:
            # A little longer than `delay`: the store's clock decides when the row is due, and it may be slower.
            self._later[row.id] = trio.current_time() + delay * 1.01 + 0.01
            self._look_at = min(self._look_at, self._later[row.id])

    def _log_failure(self, row: TypingRow, action: str, error: Exception, delay: float | None) -> None:
        log = logger.bind(row_id=str(row.id), action=action, attempts=row.attempts, retry_seconds=delay)
        if isinstance(error, PlatformError):
            log.info("typing_call_failed", code=error.code, reason=str(error)[:300])
        else:
            self._recorder.count("typing_calls", action=action, outcome="fault")
            log.error("typing_call_fault", exc_info=error)


def judge_failure(error: Exception, *, unwanted: bool, attempts: int) -> float | None:
    """Return the seconds until the next attempt after attempt number `attempts` ended in `error`; None to give up.

    Showing a sign is given up at the platform's first refusal, and a throttle counts as one. If this or an earlier
    attempt may have succeeded, the sign is left as it is until the run ends. Removing a sign is tried more often,
    because a sign that stays is misleading. A throttle only delays the removal.
    """
    if isinstance(error, PlatformRefused):
        return None if unwanted or attempts == 1 else REST_OF_RUN_SECONDS
    if unwanted:
        return None if attempts >= HIDE_ATTEMPTS_MAX else _hide_delay(error, attempts)
    if isinstance(error, PlatformThrottled | PlatformUnauthorized):
        return None if attempts == 1 else REST_OF_RUN_SECONDS
    if isinstance(error, PlatformUnavailable) and attempts < SHOW_ATTEMPTS_MAX:
        return _SHOW_RETRY_SECONDS * 2.0 ** (attempts - 1)
    return REST_OF_RUN_SECONDS


def _hide_delay(error: Exception, attempts: int) -> float:
    delay = min(_HIDE_RETRY_SECONDS * 4.0 ** (attempts - 1), _HIDE_RETRY_MAX_SECONDS)
    return max(delay, error.retry_after) if isinstance(error, PlatformThrottled) else delay
