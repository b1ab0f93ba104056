"""The endpoint to which Lark posts the events of installations in HTTP mode.

The request itself carries its proof. No session and no token of this server is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from quart import Blueprint, Response, request

from gateway.channel.push import TakePushed
from gateway.errors import Invalid, NotFound, Unauthenticated, Unavailable
from gateway.http.body import json_response
from gateway.http.client import Network, request_address, throttle_key
from gateway.http.throttle import bad_posts_limit

BAD_POST = (Invalid, Unauthenticated, NotFound)
"""The errors of a post that is not the platform's: a bad body, a bad signature, or an unknown installation."""


def routes(take: TakePushed | None, trusted_proxies: Sequence[Network]) -> Blueprint:
    """Build the route. Without `take` it answers that Lark is off.

    A malformed id is refused before the body is read.
    """
    blueprint = Blueprint("lark_events", __name__)
    bad_posts = bad_posts_limit()

    @blueprint.post("/api/webhooks/lark/<installation_id>")
    async def take_lark_event(installation_id: str) -> Response:
        if take is None:
            raise Unavailable("lark_off", "Lark is off on this server: secret_key is unset")
        try:
            installation = _installation(installation_id)
            body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
            return json_response(await take(installation, dict(request.headers.items()), body))
        except BAD_POST:
            # Only bad posts count. All bots of a tenant share the platform's addresses, so a limit that counted every
            # post would refuse good ones.
            bad_posts.hit(throttle_key(request_address(trusted_proxies)))
            raise

    return blueprint


def _installation(text: str) -> UUID:
    """Parse an installation's id. Malformed and unknown ids both give 404."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("not_found", "there is no such installation") from None
