"""The intake of webhooks: a request is judged, counted, stored, and only then dispatched. Its row holds the outcome.

A request is judged by one revision of its trigger, which may be remembered from an earlier request. The statement that
writes the row compares the revision, so a rotated token or secret takes effect at its commit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
import structlog
import trio

from gateway.concurrency import finishing, reached
from gateway.errors import DomainError, StoreConflict, StoreError, StoreUnavailable
from gateway.ids import new_id
from gateway.keyring import KeyRing, UnreadableSecret
from gateway.recorder import SILENT, Recorder
from gateway.webhooks.dedupe import dedupe_key
from gateway.webhooks.encodings import DecodedTooLarge, UnsupportedEncoding, decoded, is_encoded
from gateway.webhooks.envelope import Envelope, InvalidBody, normalise, unread_event
from gateway.webhooks.filters import EventFilter, is_wanted, names_event, read_filters
from gateway.webhooks.headers import RequestHeaders, shown
from gateway.webhooks.limits import Gates, LimitReached, RequestStanding
from gateway.webhooks.ports import DECIDED, DeliveryDraft, IntakeStore, Recorded, Settled, StoredDelivery, TriggerRow
from gateway.webhooks.signature import (
    SECRET_EXPECTED,
    SignatureStatus,
    SignatureVerdict,
    SigningSecret,
    asks_for_signature,
    judge_signature,
    signature_headers,
    unread_signature,
)
from gateway.work.autopilots.dispatch import Dispatched, Dispatcher, Firing

logger = structlog.get_logger(__name__)

SETTLE_SECONDS = 10.0
"""Time from the judgement of a request to its answer. In this time a sender that hangs up does not interrupt it."""
JUDGEMENTS_MAX = 5
TRIGGERS_MAX = 2_000
"""Triggers that one process remembers."""
FRESH_SECONDS = 1.0
"""Maximal age of the trigger that a request is refused by. An older one is read again first."""
QUICK_BODY_BYTES_MAX = 8_192
"""A body up to this size is parsed within a few milliseconds, whatever it contains."""
HASHED_BYTES_MAX = 524_288
"""A body up to this size is hashed in less than a millisecond or two."""
READERS_MAX = 2
"""Larger bodies that are parsed at the same time, in threads."""
ATTEMPTS_MAX = 5
STALE_ROWS_MAX = 50
BELIEVED = frozenset({SignatureStatus.VALID, SignatureStatus.NOT_REQUIRED})


@dataclass(frozen=True, slots=True)
class KnownTrigger:
    """A webhook trigger with opened secrets and parsed filters, as it was at `read_at` (of a monotonic clock)."""

    row: TriggerRow
    filters: tuple[EventFilter, ...] | None
    secrets: tuple[SigningSecret, ...] = field(repr=False)
    read_at: float

    @property
    def asks_for_proof(self) -> bool:
        return asks_for_signature(self.row.provider, self.secrets)


@dataclass(frozen=True, slots=True)
class IntakeAnswer:
    """The answer to the sender."""

    status: int
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RequestProblem:
    """The reason why a request was not read to its end, with the status of its answer."""

    status: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class PostedRequest:
    """A request as it was sent. With a `problem`, `body` is its beginning only, or empty.

    `bytes_max` bounds the body once it is decompressed. `address` is what limits count by.
    """

    headers: RequestHeaders
    body: bytes = field(repr=False)
    address: str
    bytes_max: int
    problem: RequestProblem | None = None


StoreRequest = Callable[[DeliveryDraft], Awaitable[Recorded | None]]
"""Stores a request. None when it was judged by an old revision of its trigger."""

Begin = Callable[[Firing], Awaitable[Dispatched | None]]
"""Begins a run that needs no further decision. None for every other firing."""


class Intake:
    """Takes requests in and dispatches them. A process has one. It owns no resources that need closing."""

    def __init__(
        self,
        store: IntakeStore,
        dispatcher: Dispatcher,
        ring: KeyRing | None,
        *,
        clock: Callable[[], datetime],
        record: StoreRequest | None = None,
        begin: Begin | None = None,
        recorder: Recorder = SILENT,
        mint: Callable[[], UUID] = new_id,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`record` and `begin` handle many requests in one statement. Without them each request is handled alone."""
        self._store = store
        self._record = record or self._record_alone
        self._begin_together = begin
        self._dispatcher = dispatcher
        self._ring = ring
        self._clock = clock
        self._recorder = recorder
        self._mint = mint
        self._monotonic = monotonic
        self._readers = trio.CapacityLimiter(READERS_MAX)
        self._triggers: OrderedDict[str, KnownTrigger] = OrderedDict()
        self._warned: OrderedDict[UUID, None] = OrderedDict()

    # --- the trigger of a request -------------------------------------------------------------------------------------

    def remembered(self, token: str) -> KnownTrigger | None:
        """Return the trigger of a token if this process still remembers it."""
        known = self._triggers.get(token)
        if known is not None:
            self._triggers.move_to_end(token)
        return known

    async def find_trigger(self, token: str) -> KnownTrigger | None:
        """Return the trigger of a token.

        None for a token that does not exist. Raises StoreError when that is unknown.
        """
        known = self.remembered(token)
        if known is not None:
            return known
        row = await self._store.find_trigger(token)
        return None if row is None else self._remember(row)

    async def reread(self, trigger: KnownTrigger) -> KnownTrigger | None:
        """Return the trigger as it was at most FRESH_SECONDS ago. None when its token has been taken away.

        A request with a valid signature must not be refused because of a remembered secret that no longer exists. A
        storm of bad requests reads the database only once in FRESH_SECONDS.
        """
        now, token = self._monotonic(), trigger.row.token
        known = self._triggers.get(token, trigger)
        if now - known.read_at < FRESH_SECONDS:
            return known
        self._triggers[token] = replace(known, read_at=now)
        row = await self._store.find_trigger(token)
        if row is not None:
            return self._remember(row)
        self._triggers.pop(token, None)
        return None

    def _remember(self, row: TriggerRow) -> KnownTrigger:
        stored = zip(row.secret_ids, row.sealed_secrets, row.secret_expiries, strict=True)
        secrets = tuple(
            SigningSecret(owner, self._opened(sealed, owner), expires_at) for owner, sealed, expires_at in stored
        )
        filters, now = read_filters(row.event_filters), self._monotonic()
        trigger = self._triggers[row.token] = KnownTrigger(row, filters, secrets, now)
        if len(self._triggers) > TRIGGERS_MAX:
            self._triggers.popitem(last=False)
        if not secrets and row.provider in SECRET_EXPECTED:
            self._warn_unsigned(row)
        return trigger

    def _warn_unsigned(self, row: TriggerRow) -> None:
        """Log once for each trigger that its sender could sign, but has no secret for it."""
        if row.id in self._warned:
            return
        self._warned[row.id] = None
        if len(self._warned) > TRIGGERS_MAX:
            self._warned.popitem(last=False)
        logger.warning("webhook_trigger_without_secret", trigger_id=str(row.id), provider=row.provider)

    def _opened(self, sealed: str, owner: UUID) -> str | None:
        """Open a secret. None when it cannot be opened: it then matches nothing, and still requires a signature."""
        try:
            return None if self._ring is None else self._ring.open_text(sealed, owner=owner)
        except UnreadableSecret as error:
            logger.warning("signing_secret_unreadable", secret_id=str(owner), error=str(error))
            return None

    # --- a request ----------------------------------------------------------------------------------------------------

    async def receive(self, trigger: KnownTrigger, posted: PostedRequest, gates: Gates) -> IntakeAnswer | None:
        """Take one request in and settle it. None when its token has been taken away meanwhile.

        A request is settled even if its sender hangs up: for SETTLE_SECONDS a cancellation does not interrupt it.
        Raises LimitReached as `gates` does. Raises StoreError when the request could not be stored, or was not settled
        in that time. The sender should send it again then.
        """
        answer: IntakeAnswer | None = None
        with finishing(SETTLE_SECONDS) as scope:
            answer = await self._receive(trigger, posted, gates)
        if scope.cancelled_caught:
            raise StoreUnavailable(f"the delivery was not settled within {SETTLE_SECONDS:g} s")
        return answer

    async def _receive(self, trigger: KnownTrigger, posted: PostedRequest, gates: Gates) -> IntakeAnswer | None:
        for _ in range(JUDGEMENTS_MAX):
            row = trigger.row
            verdict = await self._verdict(trigger, posted)
            standing = RequestStanding.UNPROVEN if posted.problem else _standing(verdict)
            try:
                gates.count(posted.address, row.id, standing)
            except LimitReached:
                # The remembered trigger may be outdated. The refusal is final only if its revision is still the same.
                current = await self.reread(trigger)
                if current is not None and current.row.revision == row.revision:
                    raise
            else:
                judged = await self._judge(trigger, posted, verdict)
                waits = judged.begins and gates.has_to_wait(row.id, standing)
                recorded = await self._record(judged.draft(waits=waits))
                if recorded is not None:
                    reached("webhooks.recorded")
                    return await self._settle(judged, recorded)
                # The row was not written, because the trigger has a newer revision: judge the request again by it.
                self._triggers.pop(row.token, None)
                current = await self.find_trigger(row.token)
            if current is None:
                return None
            trigger = current
        raise StoreConflict("the trigger keeps changing")

    async def _record_alone(self, draft: DeliveryDraft) -> Recorded | None:
        (recorded,) = await self._store.record([draft])
        return recorded

    async def _verdict(self, trigger: KnownTrigger, posted: PostedRequest) -> SignatureVerdict:
        """Judge the signature, over the bytes as they were sent. A large body is hashed in a thread."""
        provider, secrets, headers, body = trigger.row.provider, trigger.secrets, posted.headers, posted.body
        if posted.problem is not None:
            return SignatureVerdict(unread_signature(provider, secrets, headers), detail=posted.problem.text)
        judge = partial(judge_signature, provider, secrets, headers, body, self._clock())
        if len(body) <= HASHED_BYTES_MAX or not trigger.asks_for_proof:
            return judge()
        return await trio.to_thread.run_sync(judge, limiter=self._readers)

    async def _judge(self, trigger: KnownTrigger, posted: PostedRequest, verdict: SignatureVerdict) -> _Judged:
        """Judge the request. The body is parsed only if the signature was accepted."""
        delivery_id, headers, body = self._mint(), posted.headers, posted.body
        refusal, envelope = _refusal(verdict, posted.problem, delivery_id), None
        if refusal is None:
            try:
                body, envelope = await self._read(posted, takes_scalar=verdict.status is SignatureStatus.VALID)
            except InvalidBody as error:
                refusal = _rejected(400, "invalid_body", delivery_id, str(error))
            except DecodedTooLarge:
                text = f"the body has more than {posted.bytes_max} bytes once decompressed, or is too dense"
                refusal = _rejected(413, "body_too_large", delivery_id, text)
            except UnsupportedEncoding as error:
                refusal = _rejected(415, "unsupported_encoding", delivery_id, str(error))
        return _Judged(trigger, headers, body, verdict, envelope, refusal, delivery_id)

    async def _read(self, posted: PostedRequest, *, takes_scalar: bool) -> tuple[bytes, Envelope]:
        """Decompress and parse a body. Raises InvalidBody, DecodedTooLarge or UnsupportedEncoding.

        A large body is parsed in a thread, because the event loop must answer the bots meanwhile.
        """
        encoding = ",".join(posted.headers.every("content-encoding"))
        if len(posted.body) <= QUICK_BODY_BYTES_MAX and not is_encoded(encoding):
            return posted.body, normalise(posted.body, posted.headers, takes_scalar=takes_scalar)
        read = partial(_decode_and_read, posted, encoding, takes_scalar=takes_scalar)
        return await trio.to_thread.run_sync(read, limiter=self._readers)

    async def _settle(self, judged: _Judged, recorded: Recorded) -> IntakeAnswer:
        provider = judged.trigger.row.provider
        if recorded.id != judged.delivery_id:
            self._recorder.count("webhook_delivery", provider=provider, status="duplicate")
            run = {} if recorded.autopilot_run_id is None else {"run_id": recorded.autopilot_run_id}
            return IntakeAnswer(200, {"status": "duplicate", "delivery_id": recorded.id, **run})
        if judged.refusal is not None:
            self._recorder.count("webhook_delivery", provider=provider, status="rejected")
            return judged.refusal
        if recorded.status == "ignored" or judged.envelope is None:
            self._recorder.count("webhook_delivery", provider=provider, status="ignored")
            event = {"event": judged.event} if recorded.reason_code == "event_filtered" else {}
            return IntakeAnswer(200, {**_ignored(recorded.id, recorded.reason_code or ""), **event})
        if recorded.waits:
            self._recorder.count("webhook_delivery", provider=provider, status="queued")
            return IntakeAnswer(200, {"status": "queued", "delivery_id": recorded.id})
        firing = Firing(
            recorded.autopilot_id,
            "webhook",
            trigger_id=recorded.trigger_id,
            delivery_id=recorded.id,
            payload=judged.envelope.render(recorded.received_at),
        )
        return await self.dispatch(provider, firing, recorded.id, recorded.trigger_id)

    # --- dispatch -----------------------------------------------------------------------------------------------------

    async def dispatch(self, provider: str, firing: Firing, delivery_id: UUID, trigger_id: UUID) -> IntakeAnswer:
        """Begin the run of a queued delivery, or return its outcome when it was decided already.

        After a failure the row is marked as failed. If not even that can be written, the row stays queued and the
        janitor finishes it later.
        """
        try:
            return await self._begin(provider, firing, delivery_id, trigger_id)
        except Exception as error:
            return await self._give_up(provider, delivery_id, error)

    async def _begin(self, provider: str, firing: Firing, delivery_id: UUID, trigger_id: UUID) -> IntakeAnswer:
        done = None if self._begin_together is None or firing.again else await self._begin_together(firing)
        if done is None:
            done = await self._dispatcher.dispatch(firing)
        reached("webhooks.dispatched")
        if done.status == "refused" and not await self._store.ignore(delivery_id, done.reason):
            return await self._as_decided(provider, delivery_id)
        return self._dispatched(provider, done, firing, delivery_id, trigger_id)

    def _dispatched(
        self, provider: str, done: Dispatched, firing: Firing, delivery_id: UUID, trigger_id: UUID
    ) -> IntakeAnswer:
        if done.status == "refused":
            self._recorder.count("webhook_delivery", provider=provider, status="ignored")
            return IntakeAnswer(200, _ignored(delivery_id, done.reason))
        if done.status == "skipped":
            self._recorder.count("webhook_delivery", provider=provider, status="skipped")
            return IntakeAnswer(200, _skipped(delivery_id, done.run_id, done.reason))
        self._recorder.count("webhook_delivery", provider=provider, status="dispatched")
        return IntakeAnswer(200, _accepted(delivery_id, done.run_id, firing.autopilot_id, trigger_id))

    async def _give_up(self, provider: str, delivery_id: UUID, error: Exception) -> IntakeAnswer:
        text = _words_of(error)
        logger.warning("webhook_dispatch_failed", delivery_id=str(delivery_id), error=text, exc_info=error)
        if not await self._store.fail(delivery_id, text):
            return await self._as_decided(provider, delivery_id)
        self._recorder.count("webhook_delivery", provider=provider, status="failed")
        return _failed(delivery_id)

    async def _as_decided(self, provider: str, delivery_id: UUID) -> IntakeAnswer:
        """Return the answer to a delivery that was settled in the meantime, by its run or by a janitor."""
        settled = await self._store.verdict(delivery_id)
        if settled is None:
            return _failed(delivery_id)
        status = "skipped" if settled.skipped else settled.status
        self._recorder.count("webhook_delivery", provider=provider, status=status)
        return _answer_of(settled)

    # --- deliveries left behind by a process that died ----------------------------------------------------------------

    async def finish_stale(self) -> int:
        """Dispatch deliveries whose process died between storing and dispatching them. Return the number settled."""
        settled = 0
        for stored in await self._store.claim_stale(STALE_ROWS_MAX):
            if await self.finish(stored):
                settled += 1
        return settled

    async def finish(self, stored: StoredDelivery) -> bool:
        """Begin the run of a stored delivery. False when this has to be tried again.

        Each row is one unit of work: an unexpected error affects only this row. It is tried again until ATTEMPTS_MAX,
        and then the row is marked as failed.
        """
        try:
            firing = await trio.to_thread.run_sync(stored_firing, stored, limiter=self._readers)
            await self._begin(stored.provider, firing, stored.id, stored.trigger_id)
        except InvalidBody as error:
            return await self._store.fail(stored.id, str(error))
        except Exception as error:
            if isinstance(error, StoreConflict) and error.constraint == DECIDED:
                return True
            logger.warning("webhook_dispatch_postponed", delivery_id=str(stored.id), exc_info=error)
            if stored.dispatch_attempts < ATTEMPTS_MAX:
                return False
            return await self._store.fail(stored.id, _words_of(error))
        return True


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judged request, with the trigger it was judged by. `refusal` is the answer if it is refused.

    `body` is what is stored: without its compression, unless it was refused before that.
    """

    trigger: KnownTrigger
    headers: RequestHeaders
    body: bytes
    verdict: SignatureVerdict
    envelope: Envelope | None
    refusal: IntakeAnswer | None
    delivery_id: UUID

    @property
    def event(self) -> str:
        return unread_event(self.headers) if self.envelope is None else self.envelope.event

    @property
    def reason(self) -> str | None:
        """The reason to start no run, as far as the request itself gives one."""
        if self.refusal is not None or self.envelope is None:
            return None if self.refusal is None else str(self.refusal.body["reason"])
        filters, handshake = self.trigger.filters, self.envelope.handshake
        wanted = is_wanted(filters, self.envelope.event, self.envelope.payload)
        if handshake and not (wanted and filters) and not names_event(filters, handshake):
            return "handshake"
        return None if wanted or handshake else "event_filtered"

    @property
    def begins(self) -> bool:
        """True for a request that asks for a run."""
        return self.refusal is None and self.reason is None

    def draft(self, *, waits: bool) -> DeliveryDraft:
        row, refusal = self.trigger.row, self.refusal
        key = dedupe_key(row.provider, self.headers, None if self.envelope is None else self.envelope.body)
        return DeliveryDraft(
            id=self.delivery_id,
            trigger_id=row.id,
            token=row.token,
            revision=row.revision,
            event=self.event,
            dedupe_key=None if key is None else key.key,
            dedupe_source=None if key is None else key.source,
            signature_status=self.verdict.status,
            secret_id=self.verdict.secret_id,
            verdict="queued" if refusal is None else "rejected",
            reason=self.reason,
            error=None if refusal is None else str(refusal.body["error"]),
            headers=msgspec.json.encode(self.headers.kept(signature_headers(row.provider))).decode(),
            content_type=shown(self.headers.first("content-type")),
            body=self.body,
            response_status=None if refusal is None else refusal.status,
            response_body=None if refusal is None else msgspec.json.encode(refusal.body).decode(),
            waits=waits,
        )


def _decode_and_read(posted: PostedRequest, encoding: str, *, takes_scalar: bool) -> tuple[bytes, Envelope]:
    body = decoded(posted.body, encoding, posted.bytes_max)
    return body, normalise(body, posted.headers, takes_scalar=takes_scalar)


def stored_firing(stored: StoredDelivery) -> Firing:
    """Make the firing of a stored delivery from its row alone. Raises InvalidBody."""
    return Firing(
        stored.autopilot_id,
        "webhook",
        trigger_id=stored.trigger_id,
        delivery_id=stored.id,
        payload=_stored_payload(stored),
        again=stored.replayed_from_delivery_id is not None,
    )


def _stored_payload(stored: StoredDelivery) -> bytes:
    """Make the envelope of a delivery from its row, with the stored event and arrival time. Raises InvalidBody."""
    if stored.raw_body is None:
        raise InvalidBody("the delivery has no stored body")
    pairs = [(name, value) for name, value in stored.selected_headers.items() if isinstance(value, str)]
    headers = RequestHeaders([*pairs, ("content-type", stored.content_type or "")])
    # Its signature allowed a scalar, or there would be no row to begin.
    envelope = normalise(stored.raw_body, headers, takes_scalar=True)
    return replace(envelope, event=stored.event).render(stored.received_at)


def _standing(verdict: SignatureVerdict) -> RequestStanding:
    if verdict.status is SignatureStatus.VALID:
        return RequestStanding.PROVEN
    unproven = verdict.undecided or verdict.status is SignatureStatus.NOT_REQUIRED
    return RequestStanding.UNPROVEN if unproven else RequestStanding.DISPROVED


def _refusal(verdict: SignatureVerdict, problem: RequestProblem | None, delivery_id: UUID) -> IntakeAnswer | None:
    """Return the answer to a request that was not read, or whose signature is not accepted. None when it is."""
    if problem is not None:
        return _rejected(problem.status, problem.reason, delivery_id, problem.text)
    if verdict.status in BELIEVED:
        return None
    if verdict.undecided:
        # The server's own fault: a stored secret cannot be opened. The sender may try again, and it does not count
        # against the sender as a bad signature.
        return _rejected(503, "signing_secret_unreadable", delivery_id, verdict.detail)
    return _rejected(401, f"{verdict.status}_signature", delivery_id, verdict.detail)


def _rejected(status: int, reason: str, delivery_id: UUID, error: str) -> IntakeAnswer:
    told = {"status": "rejected", "delivery_id": delivery_id, "reason": reason, "error": error, "code": reason}
    return IntakeAnswer(status, told)


def _ignored(delivery_id: UUID, reason: str) -> dict[str, object]:
    return {"status": "ignored", "delivery_id": delivery_id, "reason": reason}


def _skipped(delivery_id: UUID, run_id: UUID | None, reason: str) -> dict[str, object]:
    return {"status": "skipped", "delivery_id": delivery_id, "run_id": run_id, "reason": reason}


def _accepted(delivery_id: UUID, run_id: UUID | None, autopilot_id: UUID, trigger_id: UUID) -> dict[str, object]:
    return {
        "status": "accepted",
        "delivery_id": delivery_id,
        "run_id": run_id,
        "autopilot_id": autopilot_id,
        "trigger_id": trigger_id,
    }


def _words_of(error: Exception) -> str:
    """Return the text of an error for the log. For an unexpected error that is its type only.

    The text of an unexpected error could repeat what a sender wrote.
    """
    return str(error) if isinstance(error, StoreError | DomainError) else type(error).__name__


def _failed(delivery_id: UUID) -> IntakeAnswer:
    error = "the delivery is stored, but its run could not be begun; send it again"
    return IntakeAnswer(
        500, {"status": "failed", "delivery_id": delivery_id, "error": error, "code": "dispatch_failed"}
    )


def _answer_of(settled: Settled) -> IntakeAnswer:
    if settled.status == "ignored":
        return IntakeAnswer(200, _ignored(settled.id, settled.reason_code or ""))
    if settled.status != "dispatched":
        return _failed(settled.id)
    if settled.skipped:
        return IntakeAnswer(200, _skipped(settled.id, settled.autopilot_run_id, settled.skip_reason or ""))
    return IntakeAnswer(200, _accepted(settled.id, settled.autopilot_run_id, settled.autopilot_id, settled.trigger_id))
