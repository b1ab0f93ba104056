"""The endpoint to which senders deliver webhooks. The token in the path and the trigger's signature are the proof.

The proof is checked before the limits. So the requests of others, from the same address or to the same trigger, never
keep out a request that proves itself. Requests without a proof meet their limit before their body is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from quart import Blueprint, Response, request

from gateway.errors import NotFound, StoreError, Unsettled
from gateway.http.body import json_response
from gateway.http.client import Network, request_address, throttle_key
from gateway.http.errors import TooLarge
from gateway.recorder import Recorder
from gateway.webhooks.delivery import Answer, Intake, Trigger
from gateway.webhooks.headers import RequestHeaders
from gateway.webhooks.known import KnownTokens
from gateway.webhooks.limits import Gates, LimitReached

logger = structlog.get_logger(__name__)

PREFIX = "/api/webhooks/"
TOKEN_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class Ingress:
    """The services behind the endpoint."""

    intake: Intake
    gates: Gates
    known: KnownTokens
    recorder: Recorder
    body_bytes_max: int = 262_144
    trusted_proxies: tuple[Network, ...] = field(default=())


def routes(ingress: Ingress) -> Blueprint:
    blueprint = Blueprint("webhooks", __name__)

    @blueprint.post(f"{PREFIX}autopilots/<token>")
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
        return json_response(answer.body, answer.status)

    return blueprint


async def _receive(ingress: Ingress, token: str, address: str) -> Answer:
    trigger = await _with_room(ingress, await _find(ingress, token, address))
    answer = None
    if trigger is not None:
        body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
        if len(body) > ingress.body_bytes_max:
            raise TooLarge(f"the body has more than {ingress.body_bytes_max} bytes")
        headers = RequestHeaders(request.headers.items())
        answer = await ingress.intake.receive(trigger, headers, body, gates=ingress.gates, address=address)
    if answer is None:
        ingress.gates.count_unknown(address)
        raise NotFound("webhook_not_found", "there is no webhook at this address")
    return answer


async def _find(ingress: Ingress, token: str, address: str) -> Trigger | None:
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


async def _with_room(ingress: Ingress, trigger: Trigger | None) -> Trigger | None:
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
