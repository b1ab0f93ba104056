"""Where Lark posts events of installations in HTTP mode. What vouches for a request is in it: no session, no token."""

from __future__ import annotations

from uuid import UUID

from quart import Quart, Response, request

from gateway.channel.push import TakePushed
from gateway.errors import RejectedRequest
from gateway.http.body import json_response


def add_routes(app: Quart, take: TakePushed | None) -> None:
    """Without `take` the route says that Lark is off. The body is bounded as for the whole application."""

    @app.post("/api/webhooks/lark/<installation_id>")
    async def take_lark_event(installation_id: str) -> Response:
        if take is None:
            raise RejectedRequest(503, "lark_off", "Lark is off on this server: secret_key is unset")
        target = _installation(installation_id)
        body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
        return json_response(await take(target, dict(request.headers.items()), body))


def _installation(text: str) -> UUID:
    """To a stranger, what is no id at all is as unknown as an id of nothing."""
    try:
        return UUID(text)
    except ValueError:
        raise RejectedRequest(404, "not_found", "there is no such installation") from None
