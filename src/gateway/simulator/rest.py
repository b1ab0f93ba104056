"""The Open Platform calls a bot makes: tokens, messages, reactions, the bot itself, people; and the bootstrap."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from gateway.simulator.clock import Clock
from gateway.simulator.connections import Connections
from gateway.simulator.exchange import Answer, Refusal, Request, Router, json_answer
from gateway.simulator.limits import PER_APP, PER_CHAT, Limits
from gateway.simulator.messages import (
    BAD_CONTENT,
    BAD_FIELD,
    NOT_IN_CHAT,
    Draft,
    Mention,
    Message,
    MessageStore,
)
from gateway.simulator.platform import TENANT_KEY, App, Chat, Platform, derive, open_id

PAGE_SIZE_MAX = 50
BATCH_USERS_MAX = 50
OPEN_ID_UNKNOWN = 99992351
NO_SUCH_CHAT = 230001

FORBIDDEN = 403
WRONG_CREDENTIALS = 514
TOO_MANY_CONNECTIONS = 1000040350


@dataclass(slots=True)
class World:
    """What the calls act on."""

    platform: Platform
    messages: MessageStore
    connections: Connections
    limits: Limits
    clock: Clock
    ws_url: str
    client_config: dict[str, Any]
    heard: Callable[[App, Message], None]
    """Called for each new message of a bot: other bots in the chat may hear it."""


AppCall = Callable[[World, App, Request], dict[str, Any]]


def add_routes(router: Router, world: World) -> None:
    """Every call of the platform. Errors are HTTP 400 (429 when throttled) with `code`, `msg` and `error.log_id`."""
    _add(router, "POST", "/callback/ws/endpoint", lambda request: bootstrap(world, request))
    _add(router, "POST", "/open-apis/auth/v3/tenant_access_token/internal", lambda request: grant(world, request))
    calls: list[tuple[str, str, AppCall]] = [
        ("POST", "/open-apis/im/v1/messages", send),
        ("GET", "/open-apis/im/v1/messages", list_messages),
        ("POST", "/open-apis/im/v1/messages/{message_id}/reply", reply),
        ("GET", "/open-apis/im/v1/messages/{message_id}", read_message),
        ("PATCH", "/open-apis/im/v1/messages/{message_id}", patch_card),
        ("PUT", "/open-apis/im/v1/messages/{message_id}", edit_text),
        ("DELETE", "/open-apis/im/v1/messages/{message_id}", recall),
        ("POST", "/open-apis/im/v1/messages/{message_id}/reactions", react),
        ("DELETE", "/open-apis/im/v1/messages/{message_id}/reactions/{reaction_id}", unreact),
        ("GET", "/open-apis/bot/v3/info", bot_info),
        ("GET", "/open-apis/contact/v3/users/batch", users),
        ("GET", "/open-apis/contact/v3/users/{user_id}", user),
    ]
    for method, pattern, call in calls:
        _add(router, method, pattern, _authenticated(world, f"{method} {pattern}", call))


def _add(router: Router, method: str, pattern: str, call: Callable[[Request], dict[str, Any]]) -> None:
    async def respond(request: Request) -> Answer:
        log_id = _next_log_id()
        headers = (("x-tt-logid", log_id),)
        try:
            return json_answer(call(request), headers=headers)
        except Refusal as refusal:
            document = {"code": refusal.code, "msg": refusal.msg, "error": {"log_id": log_id}}
            return json_answer(document, status=refusal.status, headers=(*headers, *refusal.headers))

    router.add(method, pattern, respond)


def _authenticated(world: World, name: str, call: AppCall) -> Callable[[Request], dict[str, Any]]:
    def respond(request: Request) -> dict[str, Any]:
        now = world.clock.now()
        app = world.platform.authenticate(request.headers.get("authorization", ""), now)
        world.limits.admit(now, ((app.app_id, name), PER_APP))
        return call(world, app, request)

    return respond


_log_numbers = itertools.count(1)


def _next_log_id() -> str:
    return derive("202500000000", "log", str(next(_log_numbers)), digits=20).upper()


# -- credentials


def bootstrap(world: World, request: Request) -> dict[str, Any]:
    """Where to open a long connection, with a ticket that opens one. Its refusals come as HTTP 200."""
    document = request.document()
    now = world.clock.now()
    app = world.platform.apps.get(str(document.get("AppID", "")))
    if app is None or not app.accepts(str(document.get("AppSecret", "")), now):
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
    data = {"URL": f"{world.ws_url}/ws/v2?{urlencode(query)}", "ClientConfig": world.client_config}
    return {"code": 0, "msg": "", "data": data}


def grant(world: World, request: Request) -> dict[str, Any]:
    document = request.document()
    app_id, secret = str(document.get("app_id", "")), str(document.get("app_secret", ""))
    token, expire = world.platform.grant_token(app_id, secret, world.clock.now())
    return {"code": 0, "msg": "ok", "tenant_access_token": token, "expire": expire}


# -- messages


def send(world: World, app: App, request: Request) -> dict[str, Any]:
    document = request.document()
    chat = _receiver(world, app, request.argument("receive_id_type"), document.get("receive_id"))
    return _say(world, app, chat, _draft(document))


def reply(world: World, app: App, request: Request) -> dict[str, Any]:
    document = request.document()
    quoted = world.messages.get(request.params["message_id"])
    draft = _draft(document, reply_to=quoted.message_id, in_thread=document.get("reply_in_thread") is True)
    return _say(world, app, world.platform.chats[quoted.chat_id], draft)


def _say(world: World, app: App, chat: Chat, draft: Draft) -> dict[str, Any]:
    now = world.clock.now()
    world.limits.admit(now, (("chat", chat.chat_id), PER_CHAT))
    message, new = world.messages.send(app, chat, draft, now=now, now_ms=world.clock.wall_ms())
    if new:
        world.heard(app, message)
    return _ok(_item(world, app, message))


def _draft(document: dict[str, Any], *, reply_to: str = "", in_thread: bool = False) -> Draft:
    content = document.get("content")
    if not isinstance(content, str):
        raise Refusal(BAD_CONTENT, "Your request contains an invalid request parameter: content is not a string")
    uuid = document.get("uuid") or ""
    if not isinstance(uuid, str):
        raise Refusal(BAD_FIELD, "field validation failed: uuid is not a string")
    return Draft(str(document.get("msg_type", "")), content, uuid, reply_to, in_thread)


def _receiver(world: World, app: App, id_type: str, receive_id: object) -> Chat:
    platform = world.platform
    handle = receive_id if isinstance(receive_id, str) else ""
    if id_type == "chat_id":
        if handle not in platform.chats:
            raise Refusal(NO_SUCH_CHAT, "Your request contains an invalid request parameter: invalid receive_id")
        return platform.chats[handle]
    if id_type == "open_id":
        person = platform.resolve_open_id(app, handle)
    elif id_type == "union_id":
        person = platform.people.get(handle)
    else:
        raise Refusal(BAD_FIELD, f"field validation failed: receive_id_type {id_type!r}")
    if person is None:
        raise Refusal(OPEN_ID_UNKNOWN, "not a valid receive_id, or the id of another app")
    return platform.direct_chat(person, app)


def read_message(world: World, app: App, request: Request) -> dict[str, Any]:
    message = world.messages.get(request.params["message_id"])
    _require_member(world, app, message.chat_id)
    return _ok({"items": [_item(world, app, message)]})


def list_messages(world: World, app: App, request: Request) -> dict[str, Any]:
    """A chat's or a thread's messages; unlike in events, `start_time` and `end_time` are seconds here."""
    container_id = request.argument("container_id")
    found = _contained(world, app, request.argument("container_id_type"), container_id, request)
    if request.argument("sort_type", "ByCreateTimeAsc") == "ByCreateTimeDesc":
        found = found[::-1]
    size = min(_number(request, "page_size", 20), PAGE_SIZE_MAX)
    start = _number(request, "page_token", 0)
    page = found[start : start + size]
    more = start + size < len(found)
    items = [_item(world, app, message) for message in page]
    return _ok({"has_more": more, "page_token": str(start + size) if more else "", "items": items})


def _contained(world: World, app: App, id_type: str, container_id: str, request: Request) -> list[Message]:
    start, end = _number(request, "start_time", 0), _number(request, "end_time", 0)
    if id_type == "thread":
        if start or end:
            raise Refusal(BAD_CONTENT, "a thread takes no start_time and end_time")
        return world.messages.in_thread(container_id)
    if id_type != "chat" or container_id not in world.platform.chats:
        raise Refusal(BAD_CONTENT, "Your request contains an invalid request parameter: container_id")
    _require_member(world, app, container_id)
    return [
        message
        for message in world.messages.in_chat(container_id)
        if message.create_time // 1000 >= start and (not end or message.create_time // 1000 <= end)
    ]


def _require_member(world: World, app: App, chat_id: str) -> None:
    if app.app_id not in world.platform.chats[chat_id].app_ids:
        raise Refusal(NOT_IN_CHAT, "Bot/User can NOT be out of the chat.")


def patch_card(world: World, app: App, request: Request) -> dict[str, Any]:
    content = _draft(request.document()).content
    world.messages.edit(app, request.params["message_id"], "interactive", content, world.clock.wall_ms())
    return _ok({})


def edit_text(world: World, app: App, request: Request) -> dict[str, Any]:
    draft = _draft(request.document())
    message = world.messages.edit(
        app, request.params["message_id"], draft.message_type, draft.content, world.clock.wall_ms()
    )
    return _ok(_item(world, app, message))


def recall(world: World, app: App, request: Request) -> dict[str, Any]:
    world.messages.recall(app, request.params["message_id"])
    return _ok({})


def react(world: World, app: App, request: Request) -> dict[str, Any]:
    kind = request.document().get("reaction_type")
    emoji = kind.get("emoji_type") if isinstance(kind, dict) else None
    if not isinstance(emoji, str) or not emoji:
        raise Refusal(231001, "reaction type is invalid.")
    reaction_id = world.messages.react(app, request.params["message_id"], emoji)
    return _ok(_reaction(world, app, reaction_id, emoji))


def unreact(world: World, app: App, request: Request) -> dict[str, Any]:
    reaction_id = request.params["reaction_id"]
    emoji = world.messages.unreact(app, request.params["message_id"], reaction_id)
    return _ok(_reaction(world, app, reaction_id, emoji))


def _reaction(world: World, app: App, reaction_id: str, emoji: str) -> dict[str, Any]:
    return {
        "reaction_id": reaction_id,
        "operator": {"operator_id": app.app_id, "operator_type": "app"},
        "action_time": str(world.clock.wall_ms()),
        "reaction_type": {"emoji_type": emoji},
    }


# -- bot and people


def bot_info(world: World, app: App, _request: Request) -> dict[str, Any]:
    """The bot, at the top level and without its union id."""
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
    return _ok({"user": found})


def users(world: World, app: App, request: Request) -> dict[str, Any]:
    """Up to 50 people; who is not found is left out."""
    handles = request.query.get("user_ids", ())
    if not 0 < len(handles) <= BATCH_USERS_MAX:
        raise Refusal(
            BAD_FIELD, f"field validation failed: user_ids has {len(handles)} of 1 to {BATCH_USERS_MAX} items"
        )
    id_type = request.argument("user_id_type", "open_id")
    found = [_user(world, app, handle, id_type) for handle in handles]
    return _ok({"items": [one for one in found if one is not None]})


def _user(world: World, app: App, handle: str, id_type: str) -> dict[str, Any] | None:
    for union_id, name in world.platform.names().items():
        seen_as = {"open_id": open_id(app.app_id, union_id), "union_id": union_id}
        if seen_as.get(id_type) == handle:
            return {"name": name, **seen_as}
    return None


# -- forms


def _item(world: World, app: App, message: Message) -> dict[str, Any]:
    """A message as REST shows it: a bot by its app id, a person by the open id this app knows, flat mentions."""
    is_bot = message.sender_type == "app"
    sender = {
        "id": message.sender_id if is_bot else open_id(app.app_id, message.sender_id),
        "id_type": "app_id" if is_bot else "open_id",
        "sender_type": message.sender_type,
        "tenant_key": TENANT_KEY,
    }
    item = {
        "message_id": message.message_id,
        "msg_type": message.message_type,
        "create_time": str(message.create_time),
        "update_time": str(message.update_time),
        "deleted": message.deleted,
        "updated": message.updated,
        "chat_id": message.chat_id,
        "sender": sender,
        "body": {"content": message.content},
    }
    if message.mentions:
        item["mentions"] = [_flat_mention(app, mention) for mention in message.mentions]
    return item | {name: value for name in ("root_id", "parent_id", "thread_id") if (value := getattr(message, name))}


def _flat_mention(app: App, mention: Mention) -> dict[str, Any]:
    return {
        "key": mention.key,
        "id": open_id(app.app_id, mention.union_id),
        "id_type": "open_id",
        "name": mention.name,
        "tenant_key": TENANT_KEY,
    }


def _ok(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 0, "msg": "success", "data": data}


def _number(request: Request, name: str, default: int) -> int:
    text = request.argument(name) or str(default)
    if not text.isdigit():
        raise Refusal(BAD_FIELD, f"field validation failed: {name} is not a number")
    return int(text)
