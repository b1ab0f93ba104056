"""The Open Platform's REST API: the table of calls, tokens, and the bootstrap of the long connection."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from gateway.simulator import message_calls, people_calls, resource_calls
from gateway.simulator.exchange import Answer, Refusal, Request, Router, json_answer
from gateway.simulator.limits import PER_APP
from gateway.simulator.platform import BAD_APP_ID, TOKEN_INVALID, derive
from gateway.simulator.world import AppCall, World

FORBIDDEN = 403
WRONG_CREDENTIALS = 514
TOO_MANY_CONNECTIONS = 1000040350


def add_routes(router: Router, world: World) -> None:
    """Add every call of the platform.

    Errors are HTTP 400 (429 when throttled) with `code`, `msg` and `error.log_id`.
    """
    _add(router, "POST", "/callback/ws/endpoint", lambda request: bootstrap(world, request))
    _add(router, "POST", "/open-apis/auth/v3/tenant_access_token/internal", lambda request: grant(world, request))
    for method, pattern, call in (*message_calls.CALLS, *resource_calls.CALLS, *people_calls.CALLS):
        _add(router, method, pattern, _authenticated(world, f"{method} {pattern}", call))


def _add(router: Router, method: str, pattern: str, call: Callable[[Request], dict[str, Any] | Answer]) -> None:
    async def respond(request: Request) -> Answer:
        log_id = _next_log_id()
        headers = (("x-tt-logid", log_id),)
        try:
            answered = call(request)
        except Refusal as refusal:
            document = {"code": refusal.code, "msg": refusal.msg, "error": {"log_id": log_id}}
            return json_answer(document, status=refusal.status, headers=(*headers, *refusal.headers))
        if isinstance(answered, Answer):
            return replace(answered, headers=(*headers, *answered.headers))
        return json_answer(answered, headers=headers)

    router.add(method, pattern, respond)


def _authenticated(world: World, name: str, call: AppCall) -> Callable[[Request], dict[str, Any] | Answer]:
    def respond(request: Request) -> dict[str, Any] | Answer:
        now = world.clock.now()
        app = world.platform.authenticate(request.headers.get("authorization", ""), now)
        if not world.knows(app, request):
            raise Refusal(TOKEN_INVALID, "Invalid access token for authorization. The token is of another cloud.")
        world.limits.admit(now, ((app.app_id, name), PER_APP))
        return call(world, app, request)

    return respond


_log_numbers = itertools.count(1)


def _next_log_id() -> str:
    return derive("202500000000", "log", str(next(_log_numbers)), digits=20).upper()


# -- credentials


def bootstrap(world: World, request: Request) -> dict[str, Any]:
    """Return the URL for one long connection, with the ticket for it. Refusals of this call come as HTTP 200."""
    document = request.document()
    now = world.clock.now()
    app = world.platform.apps.get(str(document.get("AppID", "")))
    if app is None or not world.knows(app, request) or not app.accepts(str(document.get("AppSecret", "")), now):
        return {"code": WRONG_CREDENTIALS, "msg": "app_id or app_secret is invalid", "data": None}
    if app.forbidden:
        return {"code": FORBIDDEN, "msg": "the app may not use the long connection", "data": None}
    if len(world.connections.live(app.app_id)) >= app.connections_max:
        return {"code": TOO_MANY_CONNECTIONS, "msg": "the number of connections exceeded the limit", "data": None}
    text, ticket = world.platform.grant_ticket(app, now)
    query = {
        "fpid": "493",
        "aid": "552564",
        "device_id": ticket.device_id,
        "access_key": derive("", "access", text),
        "service_id": str(app.service_id),
        "ticket": text,
    }
    ws_url = world.ws_urls.get(request.region, world.ws_url)
    data = {"URL": f"{ws_url}/ws/v2?{urlencode(query)}", "ClientConfig": world.client_config}
    return {"code": 0, "msg": "", "data": data}


def grant(world: World, request: Request) -> dict[str, Any]:
    document = request.document()
    app_id, secret = str(document.get("app_id", "")), str(document.get("app_secret", ""))
    if app_id in world.platform.apps and not world.knows(world.platform.apps[app_id], request):
        raise Refusal(BAD_APP_ID, "invalid app_id")
    token, expire = world.platform.grant_token(app_id, secret, world.clock.now())
    return {"code": 0, "msg": "ok", "tenant_access_token": token, "expire": expire}
