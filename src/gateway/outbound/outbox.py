"""Sending the rows of the outbox: one process sends for one bot, and a person sees each row at most once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

import structlog
import trio

from gateway.channel.channel import ReadBack, read_back_of
from gateway.channel.errors import PlatformError, PlatformRefused, PlatformThrottled, PlatformUnavailable
from gateway.channel.message import OutboundMessage, SendResult, Tone
from gateway.concurrency import Workers, open_workers, reached
from gateway.core.replies import Composed, Reply, in_every_language
from gateway.errors import LocalProtocolError, StoreError, StoreUnavailable
from gateway.outbound.ports import Compose, OutboxRow, OutboxStore, SendingContext
from gateway.outbound.sending import (
    SETTLING_SECONDS,
    UNSENT_SECONDS_MAX,
    Failed,
    FindOut,
    GiveUp,
    NextStep,
    NotSent,
    Postpone,
    Postponed,
    RowOutcome,
    Sent,
    Unknown,
    judge_attempt,
    next_step,
)
from gateway.outbound.typing import TypingSender
from gateway.recorder import SILENT, Recorder

logger = structlog.get_logger(__name__)

CONCURRENCY_MAX = 8
IDLE_SECONDS = 30.0
"""The longest pause between two looks at the store. A lost notification delays an answer by no more than this."""
PARK_SECONDS = 0.5
"""The time that a send in flight gets to finish when the outbox is cancelled, as when the lease is handed over."""
STORE_RETRY_SECONDS = 1.0
READ_BACK_SECONDS = 10.0
READ_BACK_RETRY_SECONDS = 60.0

_TONES = {"answer": Tone.ANSWER, "error": Tone.ERROR}
"""The kinds of rows that runs write. All other kinds are notices."""

STORED: Mapping[str, Compose] = MappingProxyType({})
"""No composers: every row holds its own text."""


async def run_outbox(
    context: SendingContext,
    store: OutboxStore,
    *,
    composers: Mapping[str, Compose] = STORED,
    typing_sender: TypingSender | None = None,
    concurrency: int = CONCURRENCY_MAX,
    recorder: Recorder = SILENT,
    random_unit: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Send one installation's rows until cancelled. Run it inside the lease's scope, and set `wake` for new rows.

    The rows of one recipient are sent in order. Recipients do not wait for each other, and at most `concurrency` rows
    are sent at a time. A row whose kind is one of `composers` gets its text there, anew for each attempt. A
    `typing_sender` must have the same context. It runs in this loop rather than in its own task, because there are many
    bots.

    Cancellation leaves behind: sends in flight get half a second to end and be marked. A row that is not done by then
    stays in `sending`. The next holder sends it again with the same idempotency key, and the platform drops the repeat
    if the first was delivered. Error handling: one row is one unit. Its error is recorded on the row and is not raised
    here. After a failure of the store, the outbox tries again.
    """
    sender = _Sender(context, store, composers, recorder, random_unit)
    async with open_workers(PARK_SECONDS) as nursery:
        task_status.started()
        rung = True
        while True:
            # Typing signs are served first, because the store holds an answer back until the sign of its run is gone.
            typing_pause = IDLE_SECONDS if typing_sender is None else await typing_sender.serve_due(nursery, rung=rung)
            pause = await sender.send_due(nursery, concurrency)
            rung = await context.wake.wait(min(pause, typing_pause))


@dataclass(slots=True)
class _Sender:
    """Sends one row at a time to each recipient, and tracks which recipients are busy."""

    _context: SendingContext
    _store: OutboxStore
    _composers: Mapping[str, Compose]
    _recorder: Recorder
    _random_unit: Callable[[], float]
    _in_flight: set[str] = field(default_factory=set)
    _served: set[str] = field(default_factory=set)
    """Recipients that had their turn in the present round. They are skipped until all others had one."""
    _cooling: dict[str, float] = field(default_factory=dict)
    """Recipients whose chat has reached its limit, and the time (trio's clock) until which they are skipped."""

    async def send_due(self, nursery: Workers, concurrency: int) -> float:
        """Start sending the rows that are due, as far as there is room. Returns the seconds until the next look."""
        free = concurrency - len(self._in_flight)
        if free <= 0:
            return IDLE_SECONDS
        if (wait := self._context.governor.app_wait()) > 0:
            return min(wait, IDLE_SECONDS)
        self._cooling = {recipient: at for recipient, at in self._cooling.items() if at > trio.current_time()}
        try:
            await self._start_due(nursery, free)
            return await self._pause()
        except StoreError as error:
            # Every StoreError is caught: an outbox that ended here would end the link beside it, and the bot would not
            # receive messages any more.
            logger.warning(
                "outbox_store_failed", installation_id=str(self._context.lease.installation_id), error=str(error)
            )
            return STORE_RETRY_SECONDS

    async def _start_due(self, nursery: Workers, free: int) -> None:
        """Start up to `free` rows, in rounds: no recipient gets a second turn before all waiting ones had a first."""
        # Without the rounds, a few recipients with many rows could take all places again and again.
        started = await self._start(nursery, free, served=self._served)
        if started < free and self._served:
            self._served.clear()
            started += await self._start(nursery, free - started, served=())
        if started < free:
            self._served.clear()

    async def _start(self, nursery: Workers, rows_max: int, *, served: Collection[str]) -> int:
        busy = {*self._in_flight, *self._cooling, *served}
        rows = await self._store.take_due(self._context.lease, busy=busy, rows_max=rows_max)
        for row in rows:
            self._in_flight.add(row.recipient)
            self._served.add(row.recipient)
            nursery.start_soon(self._send_row, row)
        return len(rows)

    async def _pause(self) -> float:
        busy = self._in_flight | self._cooling.keys()
        due = await self._store.seconds_to_next(self._context.lease, busy=busy)
        cooled = min(self._cooling.values(), default=math.inf) - trio.current_time()
        # 5 ms more than asked: a wake-up a moment too early would find nothing due, and ask the database once more.
        return min(IDLE_SECONDS if due is None else due, cooled, IDLE_SECONDS - 0.005) + 0.005

    async def _send_row(self, row: OutboxRow) -> None:
        """Send one row, as a unit of work. Whatever happens, its recipient is free again and the loop is woken."""
        try:
            if not await self._send_and_settle(row):
                # The recipient stays busy during this pause: a store that fails is not asked again at once.
                await trio.sleep(STORE_RETRY_SECONDS)
        finally:
            self._in_flight.discard(row.recipient)
            if (wait := self._context.governor.chat_wait(row.recipient)) > 0:
                self._cooling[row.recipient] = trio.current_time() + wait
            self._context.wake.set()

    async def _send_and_settle(self, row: OutboxRow) -> bool:
        """Attempt the row and store the outcome.

        Returns False when the outcome could not be stored. The row is then still `sending` and is taken up again.
        """
        reached("outbox.marked_sending")
        try:
            await self._settle(row, await self._attempt(row))
            return True
        except StoreUnavailable as error:
            logger.warning("outbox_row_not_settled", row_id=str(row.id), error=str(error))
        except Exception:
            self._recorder.count("outbound_attempts", kind=row.kind, outcome="fault")
            logger.exception("outbox_row_not_settled", row_id=str(row.id))
        return False

    async def _attempt(self, row: OutboxRow) -> RowOutcome:
        """Bring the row as far as it gets now. Raises StoreUnavailable if that leaves the row as it is."""
        step = next_step(
            age_seconds=row.age_seconds,
            doubt_seconds=row.doubt_seconds,
            idle_seconds=row.idle_seconds,
            key_seconds=self._context.key_seconds,
        )
        match step:
            case NextStep.SEND:
                return await self._send(row)
            case NextStep.FIND_OUT:
                return await self._find_out(row, NotSent())
            case NextStep.WAIT:
                return Postponed(SETTLING_SECONDS, 0, "the result of the last attempt is unknown")
            case NextStep.GIVE_UP:
                logger.error("outbox_row_outlived", row_id=str(row.id), kind=row.kind)
                return Failed(0, f"not sent: it waited {row.age_seconds / 3600:.0f} hours for its bot")

    async def _send(self, row: OutboxRow) -> RowOutcome:
        try:
            composed = await self._compose(row)
            if composed is None:
                return _nothing_to_send(row)
            result = await self._call(row, composed)
        except StoreUnavailable:
            raise  # the composer's: nothing was sent, and without the store nothing can be recorded
        except Exception as error:
            return await self._after_failure(row, error)
        return Sent(result.message_id)

    async def _compose(self, row: OutboxRow) -> Composed | None:
        compose = self._composers.get(row.kind)
        if compose is None:
            return _stored(row)
        try:
            return await compose(row)
        except StoreUnavailable:
            raise
        except Exception as error:
            raise _NotComposed(type(error).__name__) from error

    async def _call(self, row: OutboxRow, composed: Composed) -> SendResult:
        governor, seconds = self._context.governor, self._context.attempt_seconds
        try:
            async with governor.turn(row.recipient):
                with trio.fail_after(seconds):
                    result = await self._context.channel.send(_envelope(row, composed))
        except trio.TooSlowError as error:
            silent = PlatformUnavailable(f"no answer within {seconds:g} s")
            governor.learn(row.recipient, silent)
            raise silent from error
        except PlatformError as error:
            governor.learn(row.recipient, error)
            raise
        governor.learn(row.recipient, None)
        return result

    async def _after_failure(self, row: OutboxRow, error: Exception) -> RowOutcome:
        verdict = judge_attempt(
            error,
            attempts=row.attempts,
            age_seconds=row.age_seconds,
            in_doubt=row.in_doubt,
            idle_seconds=row.idle_seconds,
            random_unit=self._random_unit(),
        )
        self._log_failure(row, error, final=not isinstance(verdict, Postpone))
        code, reason = _code(error), _reason(error)
        match verdict:
            case GiveUp():
                return Failed(code, reason)
            case FindOut():
                return await self._find_out(row, Failed(code, reason))
            case Postpone(delay, doubtful):
                return Postponed(delay, code, reason, doubtful)

    async def _find_out(self, row: OutboxRow, if_absent: NotSent | Failed) -> RowOutcome:
        """Look for the row's message in its chat, instead of sending it again.

        This is for a row whose idempotency key the platform may have forgotten, or whose last attempt failed for good.
        """
        reader = read_back_of(self._context.channel)
        # A composed text differs from attempt to attempt, so the message cannot be recognised in the chat.
        if reader is None or row.kind in self._composers or row.first_attempt_at is None:
            return Unknown(0, "nobody can tell whether it was delivered")
        known = await self._store.list_sent(row)
        try:
            found = await self._read_back(reader, row, row.first_attempt_at, known)
        except PlatformRefused as error:
            return Unknown(error.code, f"the chat cannot be read: {_reason(error)}")
        except Exception as error:
            if row.age_seconds >= UNSENT_SECONDS_MAX:
                return Unknown(0, "the chat could not be read for a day")
            self._log_failure(row, error, final=False)
            return Postponed(READ_BACK_RETRY_SECONDS * (1 + self._random_unit() / 2), 0, _reason(error))
        return if_absent if found is None else Sent(found)

    async def _read_back(self, reader: ReadBack, row: OutboxRow, since: datetime, known: Collection[str]) -> str | None:
        try:
            async with self._context.governor.turn(row.recipient):
                with trio.fail_after(READ_BACK_SECONDS):
                    return await reader.find_sent(_envelope(row, _stored(row)), since=since, known=known)
        except trio.TooSlowError as error:
            raise PlatformUnavailable(f"the chat was not read within {READ_BACK_SECONDS:g} s") from error
        except PlatformThrottled as error:
            self._context.governor.learn(row.recipient, error)
            raise

    async def _settle(self, row: OutboxRow, outcome: RowOutcome) -> None:
        """Store what became of the row. This is the only place that writes an outcome."""
        lease, log = self._context.lease, logger.bind(row_id=str(row.id), kind=row.kind)
        match outcome:
            case Sent(message_id):
                reached("outbox.sent_unmarked")
                fresh = await self._store.mark_sent(lease, row.id, message_id)
                reached("outbox.marked_sent")
                log.info("outbox_sent", attempts=row.attempts, fenced=not fresh)
                self._recorder.count("outbound_attempts", kind=row.kind, outcome="sent")
            case NotSent():
                await self._store.clear_doubt(lease, row.id)
                log.info("outbox_row_was_not_sent")
            case Postponed(delay, code, reason, doubtful):
                await self._store.postpone(lease, row, delay, code, reason, doubtful=doubtful)
                self._recorder.count("outbound_attempts", kind=row.kind, outcome="postponed")
            case Failed(code, reason):
                # The chat is told that the answer of a run was not delivered. A failed notice is not reported to it.
                told = in_every_language(Reply.ANSWER_UNDELIVERED) if row.kind in _TONES else None
                await self._store.mark_failed(lease, row.id, code, reason, told=told)
                self._recorder.count("outbound_attempts", kind=row.kind, outcome="failed")
            case Unknown(code, reason):
                await self._store.mark_unknown(lease, row.id, code, reason)
                log.error("outbox_result_unknown")
                self._recorder.count("outbound_attempts", kind=row.kind, outcome="unknown")

    def _log_failure(self, row: OutboxRow, error: Exception, *, final: bool) -> None:
        log = logger.bind(row_id=str(row.id), kind=row.kind, attempts=row.attempts, reason=_reason(error))
        if not isinstance(error, PlatformError):
            self._recorder.count("outbound_attempts", kind=row.kind, outcome="fault")
            log.error("outbox_send_fault", exc_info=error)
        elif final:
            log.error("outbox_send_refused")
        else:
            log.warning("outbox_send_postponed")


def _nothing_to_send(row: OutboxRow) -> Unknown | Failed:
    """Return the outcome of a row for which there is no text any more."""
    if row.in_doubt:
        return Unknown(0, "nobody can tell whether it was delivered; there is nothing to say any more")
    return Failed(0, "not sent: there was nothing to say any more")


def _stored(row: OutboxRow) -> Composed:
    return Composed(row.content, title=row.title)


def _envelope(row: OutboxRow, composed: Composed) -> OutboundMessage:
    to_person = row.recipient_type == "user"
    return OutboundMessage(
        text=composed.text,
        button=composed.button,
        title=composed.title,
        idempotency_key=row.uuid,
        tone=_TONES.get(row.kind, Tone.NOTICE),
        chat_id="" if to_person else row.recipient_id,
        user_id=row.recipient_id if to_person else "",
        thread_id=row.thread_id or "",
        reply_to=row.reply_to_message_id or "",
    )


class _NotComposed(LocalProtocolError):
    """The composer raised, so there was no text and nothing was sent.

    Its message is the type of the composer's error only, because the error's own text may be anything.
    """


def _code(error: Exception) -> int:
    return error.code if isinstance(error, PlatformError) else 0


def _reason(error: Exception) -> str:
    """Return the reason to store and show: the platform's own words, or only the type of an internal error."""
    return str(error)[:500] if isinstance(error, PlatformError | _NotComposed) else type(error).__name__
