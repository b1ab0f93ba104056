"""Where senders of webhooks deliver. No session: the token in the path, and the trigger's signature, are the proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from quart import Quart, Response, request

from gateway.errors import RejectedRequest, StoreError
from gateway.http.body import json_response
from gateway.http.client import Network, request_address, throttle_key
from gateway.webhooks.delivery import Answer, Intake, Trigger
from gateway.webhooks.headers import RequestHeaders
from gateway.webhooks.limits import RateLimit

logger = structlog.get_logger(__name__)

PREFIX = "/api/webhooks/"
TOKEN_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class Ingress:
    """What the entrance stands on. `limited` is told of every request that was turned away, by the gate that did it."""

    intake: Intake
    per_token: RateLimit
    per_address: RateLimit
    limited: Callable[[str], None]
    body_bytes_max: int = 262_144
    trusted_proxies: tuple[Network, ...] = field(default=())


def add_routes(app: Quart, ingress: Ingress) -> None:
    @app.post(f"{PREFIX}autopilots/<token>")
    async def receive_webhook(token: str) -> Response:
        address = throttle_key(request_address(ingress.trusted_proxies))
        try:
            _gate(ingress, ingress.per_address.check, "ip", address)
            answer = await _receive(ingress, token, address)
        except StoreError as error:
            # Never 404, after which no sender tries again.
            logger.warning("webhook_not_stored", error=str(error))
            raise RejectedRequest(
                500, "store_unavailable", "the delivery could not be stored; send it again"
            ) from error
        return json_response(answer.body, answer.status)


async def _receive(ingress: Ingress, token: str, address: str) -> Answer:
    trigger = await _find(ingress, token, address)
    _gate(ingress, ingress.per_token.hit, "token", str(trigger.row.id))
    body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
    if len(body) > ingress.body_bytes_max:
        raise RejectedRequest(413, "body_too_large", f"the body has more than {ingress.body_bytes_max} bytes")
    answer = await ingress.intake.receive(trigger, RequestHeaders(request.headers.items()), body)
    if answer is None:
        raise _unknown()
    if not answer.believed:
        ingress.per_address.count(address)
    return answer


async def _find(ingress: Ingress, token: str, address: str) -> Trigger:
    """The trigger of a token. Raises RejectedRequest (404), which counts against who guesses."""
    trigger = await ingress.intake.find_trigger(token) if _is_token(token) else None
    if trigger is None:
        ingress.per_address.count(address)
        raise _unknown()
    return trigger


def _is_token(text: str) -> bool:
    return len(text) <= TOKEN_CHARS_MAX and text.isascii() and text.isprintable()


def _unknown() -> RejectedRequest:
    return RejectedRequest(404, "webhook_not_found", "there is no webhook at this address")


def _gate(ingress: Ingress, pass_through: Callable[[str], None], gate: str, key: str) -> None:
    try:
        pass_through(key)
    except RejectedRequest:
        ingress.limited(gate)
        raise
