"""The endpoint to which senders deliver webhooks. The token in the path and the trigger's signature are the proof.

The proof is checked before the limits. So the requests of others, from the same address or to the same trigger, never
keep out a request that proves itself. Requests without a proof meet their limit before their body is read. Every
request to a known address leaves a row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio
from quart import Blueprint, Response, request
from werkzeug.exceptions import RequestTimeout

from gateway.errors import NotFound, StoreError, Unsettled
from gateway.http.body import json_response
from gateway.http.client import ProxyNetwork, request_address, throttle_key
from gateway.http.requests import BoundedRequest
from gateway.recorder import Recorder
from gateway.webhooks.delivery import Intake, IntakeAnswer, KnownTrigger, PostedRequest, RequestProblem
from gateway.webhooks.headers import RequestHeaders
from gateway.webhooks.known import KnownTokens
from gateway.webhooks.limited import LimitedRequests
from gateway.webhooks.limits import Gates, LimitReached

logger = structlog.get_logger(__name__)

PREFIX = "/api/webhooks/"
TOKEN_CHARS_MAX = 128
GITHUB_BODY_BYTES_MAX = 26_214_400
"""The largest body that GitHub sends. It never sends a refused one again."""
HEAD_BYTES = 4_096
"""The part that is kept of a body above its bound."""
LARGE_BODIES_MAX = 2
ROOM_SECONDS = 5.0
"""The longest time that a large body waits for room. GitHub waits ten seconds for its answer."""
RETRY_SECONDS = 10
NO_ROOM = RequestProblem(503, "no_room", "too many large bodies arrive at the same time; send it again")


class LargeBodies:
    """The room for bodies above `body_bytes_max`, of which a process holds only a few at the same time.

    Only the senders of triggers that take such bodies get here, so whoever knows no address holds no memory.
    """

    def __init__(self, *, at_once: int = LARGE_BODIES_MAX, wait_seconds: float = ROOM_SECONDS) -> None:
        self._places = trio.CapacityLimiter(at_once)
        self._wait_seconds = wait_seconds

    @asynccontextmanager
    async def room(self) -> AsyncIterator[bool]:
        """Hold room for one large body. Yields False if there was none for ROOM_SECONDS."""
        holder = object()
        with trio.move_on_after(self._wait_seconds) as waiting:
            await self._places.acquire_on_behalf_of(holder)
        if waiting.cancelled_caught:
            yield False
            return
        try:
            yield True
        finally:
            self._places.release_on_behalf_of(holder)


@dataclass(frozen=True, slots=True)
class Ingress:
    """The services behind the endpoint."""

    intake: Intake
    gates: Gates
    known: KnownTokens
    recorder: Recorder
    limited: LimitedRequests
    body_bytes_max: int = 262_144
    trusted_proxies: tuple[ProxyNetwork, ...] = field(default=())
    large: LargeBodies = field(default_factory=LargeBodies)

    def bytes_max(self, provider: str) -> int:
        """Return the bound of the bodies of a provider's triggers."""
        return max(self.body_bytes_max, GITHUB_BODY_BYTES_MAX) if provider == "github" else self.body_bytes_max


def routes(ingress: Ingress) -> Blueprint:
    blueprint = Blueprint("webhooks", __name__)

    @blueprint.post(f"{PREFIX}autopilots/<token>")
    @blueprint.post(f"{PREFIX}autopilots/<token>/")
    async def receive_webhook(token: str) -> Response:
        address = throttle_key(request_address(ingress.trusted_proxies))
        try:
            answer = await _receive(ingress, token, address)
        except LimitReached as refused:
            ingress.recorder.count("webhook_rate_limited", gate=refused.gate)
            raise
        except StoreError as error:
            # Never 404: senders do not try again after a 404.
            logger.warning("webhook_not_stored", error=str(error))
            raise Unsettled("store_unavailable", "the delivery could not be stored; send it again") from error
        headers = {"Retry-After": str(RETRY_SECONDS)} if answer.status == 503 else None
        return json_response(answer.body, answer.status, headers)

    return blueprint


async def _receive(ingress: Ingress, token: str, address: str) -> IntakeAnswer:
    trigger, answer = await _find(ingress, token, address), None
    if trigger is not None:
        headers = RequestHeaders(request.headers.items())
        try:
            trigger = await _with_room(ingress, trigger)
            if trigger is not None:
                answer = await _take_in(ingress, trigger, headers, address)
        except LimitReached:
            if trigger is not None:
                await ingress.limited.note(trigger.row, headers)
            raise
    if answer is None:
        ingress.gates.count_unknown(address)
        raise NotFound("webhook_not_found", "there is no webhook at this address")
    return answer


async def _take_in(
    ingress: Ingress, trigger: KnownTrigger, headers: RequestHeaders, address: str
) -> IntakeAnswer | None:
    """Read the body and hand the request to the intake. A large body waits for room first."""
    bytes_max = ingress.bytes_max(trigger.row.provider)
    length = request.content_length
    is_small = length is not None and length <= ingress.body_bytes_max and "content-encoding" not in headers
    if is_small or bytes_max <= ingress.body_bytes_max:
        body, problem = await _read_body(bytes_max)
        posted = PostedRequest(headers, body, address, bytes_max, problem)
        return await ingress.intake.receive(trigger, posted, ingress.gates)
    async with ingress.large.room() as has_room:
        body, problem = await _read_body(bytes_max if has_room else 0)
        problem = problem if has_room else NO_ROOM
        posted = PostedRequest(headers, body, address, bytes_max, problem)
        return await ingress.intake.receive(trigger, posted, ingress.gates)


async def _read_body(bytes_max: int) -> tuple[bytes, RequestProblem | None]:
    """Read the current request's body, and only the beginning of one above `bytes_max`."""
    bounded: BoundedRequest = request._get_current_object()  # type: ignore[attr-defined]  # a werkzeug proxy
    bounded.admit_beginning(bytes_max, kept_bytes=HEAD_BYTES)
    try:
        body: bytes = await bounded.get_data(as_text=False, cache=False, parse_form_data=False)
    except RequestTimeout:
        return b"", RequestProblem(408, "body_incomplete", "the body did not arrive in time")
    if bounded.is_cut:
        text = f"the body has more than {bytes_max} bytes; only its beginning is kept, and its signature was not judged"
        return body[:HEAD_BYTES], RequestProblem(413, "body_too_large", text)
    return body, None


async def _find(ingress: Ingress, token: str, address: str) -> KnownTrigger | None:
    """Return the trigger of a token, or None for an unknown token.

    An address that has sent too many unknown tokens gets no look-up for a token that certainly does not exist. So a
    flood of guesses costs the database nothing. The trigger of a good sender behind the same address is still found.
    """
    if not _is_token(token):
        return None
    known = ingress.intake.remembered(token)
    if known is not None:
        return known
    if ingress.gates.is_spent(address) and not await ingress.known.may_exist(token):
        return None
    return await ingress.intake.find_trigger(token)


def _is_token(text: str) -> bool:
    return len(text) <= TOKEN_CHARS_MAX and text.isascii() and text.isprintable()


async def _with_room(ingress: Ingress, trigger: KnownTrigger | None) -> KnownTrigger | None:
    """Check the limit on requests without proof, and return the trigger.

    A trigger that asks for proof has no such limit. At the limit the trigger is read again, because it may ask for
    proof by now. Raises LimitReached if it does not. Returns None if the trigger is gone.
    """
    if trigger is None or trigger.asks_for_proof:
        return trigger
    try:
        ingress.gates.check_unsigned(trigger.row.id)
    except LimitReached:
        trigger = await ingress.intake.reread(trigger)
        if trigger is not None and not trigger.asks_for_proof:
            raise
    return trigger
