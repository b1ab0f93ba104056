"""The API calls about the bot itself and about people."""

from __future__ import annotations

from typing import Any

from gateway.simulator.exchange import Refusal, Request
from gateway.simulator.messages import BAD_FIELD
from gateway.simulator.platform import App, open_id
from gateway.simulator.world import AppCall, World, ok

BATCH_USERS_MAX = 50
OPEN_ID_UNKNOWN = 99992351


def bot_info(world: World, app: App, _request: Request) -> dict[str, Any]:
    """Return the bot. The platform puts it at the top level of the document, and leaves out its union id."""
    bot = {
        "activate_status": 2,
        "app_name": app.name,
        "avatar_url": "",
        "ip_white_list": [],
        "open_id": app.open_id,
    }
    return {"code": 0, "msg": "ok", "bot": bot}


def user(world: World, app: App, request: Request) -> dict[str, Any]:
    found = _user(world, app, request.params["user_id"], request.argument("user_id_type", "open_id"))
    if found is None:
        raise Refusal(OPEN_ID_UNKNOWN, "not a valid user id, or the id of another app")
    return ok({"user": found})


def users(world: World, app: App, request: Request) -> dict[str, Any]:
    """Return up to 50 people. Unknown ids are left out."""
    handles = request.query.get("user_ids", ())
    if not 0 < len(handles) <= BATCH_USERS_MAX:
        raise Refusal(
            BAD_FIELD, f"field validation failed: user_ids has {len(handles)} of 1 to {BATCH_USERS_MAX} items"
        )
    id_type = request.argument("user_id_type", "open_id")
    found = [_user(world, app, handle, id_type) for handle in handles]
    return ok({"items": [one for one in found if one is not None]})


def _user(world: World, app: App, handle: str, id_type: str) -> dict[str, Any] | None:
    for union_id, name in world.platform.names().items():
        seen_as = {"open_id": open_id(app.app_id, union_id), "union_id": union_id}
        if seen_as.get(id_type) == handle:
            return {"name": name, **seen_as} if app.shows_names else dict(seen_as)
    return None


CALLS: tuple[tuple[str, str, AppCall], ...] = (
    ("GET", "/open-apis/bot/v3/info", bot_info),
    ("GET", "/open-apis/contact/v3/users/batch", users),
    ("GET", "/open-apis/contact/v3/users/{user_id}", user),
)
