"""The API calls about messages: sending, reading, listing, changing, reacting."""

from __future__ import annotations

import base64
from typing import Any

from gateway.simulator.cards import AS_SENT, CARD, FORMS, card_content
from gateway.simulator.events import viewed
from gateway.simulator.exchange import Refusal, Request
from gateway.simulator.limits import PER_CHAT
from gateway.simulator.messages import BAD_CONTENT, BAD_FIELD, Draft, Mention, Message
from gateway.simulator.people_calls import OPEN_ID_UNKNOWN
from gateway.simulator.platform import TENANT_KEY, App, Chat
from gateway.simulator.world import AppCall, World, number, ok, require_member

PAGE_SIZE_MAX = 50
NO_SUCH_CHAT = 230001
SCOPE_MISSING = 99991672
WITHDRAWN = "This message was recalled"


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
    return ok(_item(world, app, message))


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
    """Return one message. A bundle of forwarded ones is followed by its contents, linked by `upper_message_id`."""
    message = world.messages.get(request.params["message_id"])
    require_member(world, app, message.chat_id)
    id_type, card_form = _id_type(app, request), _card_form(request)
    found = [message, *world.messages.bundled(message.message_id)]
    return ok({"items": [_item(world, app, one, id_type, card_form) for one in found]})


def list_messages(world: World, app: App, request: Request) -> dict[str, Any]:
    """List the messages of a chat or a thread. Here `start_time` and `end_time` are seconds, unlike times in events.

    Recalled messages are listed without their content. Replies in a topic are listed by their thread only, not by their
    chat.
    """
    found = sorted(_contained(world, app, request), key=lambda message: message.create_time)
    sort_type = request.argument("sort_type", "ByCreateTimeAsc")
    if sort_type not in ("ByCreateTimeAsc", "ByCreateTimeDesc"):
        raise Refusal(BAD_FIELD, f"field validation failed: sort_type {sort_type!r}")
    if sort_type == "ByCreateTimeDesc":
        found.reverse()
    size = number(request, "page_size", 20)
    if not 1 <= size <= PAGE_SIZE_MAX:
        raise Refusal(BAD_FIELD, f"field validation failed: page_size {size} is not 1 to {PAGE_SIZE_MAX}")
    rest = _after(found, request.argument("page_token"))
    page, more = rest[:size], len(rest) > size
    id_type, card_form = _id_type(app, request), _card_form(request)
    items = [_item(world, app, message, id_type, card_form) for message in page]
    return ok({"has_more": more, "page_token": _page_token(page[-1]) if more else "", "items": items})


def _page_token(last: Message) -> str:
    return base64.urlsafe_b64encode(last.message_id.encode()).decode()


def _after(found: list[Message], page_token: str) -> list[Message]:
    """Return the messages after the page that gave out this token, including ones written since.

    Raises Refusal for an unknown token.
    """
    if not page_token:
        return found
    for index, message in enumerate(found):
        if _page_token(message) == page_token:
            return found[index + 1 :]
    raise Refusal(BAD_FIELD, "field validation failed: page_token is unknown")


def _contained(world: World, app: App, request: Request) -> list[Message]:
    id_type, container_id = request.argument("container_id_type"), request.argument("container_id")
    start, end = number(request, "start_time", 0), number(request, "end_time", 0)
    if id_type == "thread":
        if start or end:
            raise Refusal(BAD_CONTENT, "a thread takes no start_time and end_time")
        found = world.messages.in_thread(container_id, include_deleted=True)
        if not found:
            raise Refusal(BAD_CONTENT, "Your request contains an invalid request parameter: container_id")
        require_member(world, app, found[0].chat_id)
        return found
    if id_type != "chat" or container_id not in world.platform.chats:
        raise Refusal(BAD_CONTENT, "Your request contains an invalid request parameter: container_id")
    require_member(world, app, container_id)
    return [
        message
        for message in world.messages.in_chat(container_id, include_deleted=True)
        if message.create_time // 1000 >= start
        and (not end or message.create_time // 1000 <= end)
        and not (message.thread_id and message.parent_id)
    ]


def _id_type(app: App, request: Request) -> str:
    """Return the type of id by which the answer names people. Raises Refusal for one that this app may not see."""
    id_type = request.argument("user_id_type", "open_id")
    if id_type not in ("open_id", "union_id", "user_id"):
        raise Refusal(BAD_FIELD, f"field validation failed: user_id_type {id_type!r}")
    if id_type == "user_id" and not app.shows_user_ids:
        raise Refusal(SCOPE_MISSING, "Access denied. The app lacks the scope to see user ids.")
    return id_type


def _card_form(request: Request) -> str:
    """Return the form in which the answer shows cards; "" is the degraded one."""
    form = request.argument("card_msg_content_type")
    if form not in FORMS:
        raise Refusal(BAD_FIELD, f"field validation failed: card_msg_content_type {form!r}")
    return form


def patch_card(world: World, app: App, request: Request) -> dict[str, Any]:
    content = _draft(request.document()).content
    world.messages.edit(app, request.params["message_id"], "interactive", content, world.clock.wall_ms())
    return ok({})


def edit_text(world: World, app: App, request: Request) -> dict[str, Any]:
    draft = _draft(request.document())
    message = world.messages.edit(
        app, request.params["message_id"], draft.message_type, draft.content, world.clock.wall_ms()
    )
    return ok(_item(world, app, message))


def recall(world: World, app: App, request: Request) -> dict[str, Any]:
    world.messages.recall(app, request.params["message_id"])
    return ok({})


def react(world: World, app: App, request: Request) -> dict[str, Any]:
    kind = request.document().get("reaction_type")
    emoji = kind.get("emoji_type") if isinstance(kind, dict) else None
    if not isinstance(emoji, str) or not emoji:
        raise Refusal(231001, "reaction type is invalid.")
    reaction_id = world.messages.react(app, request.params["message_id"], emoji)
    return ok(_reaction(world, app, reaction_id, emoji))


def unreact(world: World, app: App, request: Request) -> dict[str, Any]:
    reaction_id = request.params["reaction_id"]
    emoji = world.messages.unreact(app, request.params["message_id"], reaction_id)
    return ok(_reaction(world, app, reaction_id, emoji))


def _reaction(world: World, app: App, reaction_id: str, emoji: str) -> dict[str, Any]:
    return {
        "reaction_id": reaction_id,
        "operator": {"operator_id": app.app_id, "operator_type": "app"},
        "action_time": str(world.clock.wall_ms()),
        "reaction_type": {"emoji_type": emoji},
    }


def _item(
    world: World, app: App, message: Message, id_type: str = "open_id", card_form: str = AS_SENT
) -> dict[str, Any]:
    """Return a message as the REST API shows it: bots by app id, people by the id type asked for, flat mentions."""
    is_bot = message.sender_type == "app"
    sender = {
        "id": message.sender_id if is_bot else _named(world, app, message.sender_id, id_type),
        "id_type": "app_id" if is_bot else id_type,
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
        "body": {"content": _shown(message, card_form)},
    }
    if message.mentions and not message.deleted:
        item["mentions"] = [_flat_mention(world, app, mention, id_type) for mention in message.mentions]
    linked = ("root_id", "parent_id", "thread_id", "upper_message_id")
    return item | {name: value for name in linked if (value := getattr(message, name))}


def _shown(message: Message, card_form: str) -> str:
    if message.deleted:
        return WITHDRAWN
    return card_content(message.content, card_form) if message.message_type == CARD else message.content


def _flat_mention(world: World, app: App, mention: Mention, id_type: str) -> dict[str, Any]:
    return {
        "key": mention.key,
        "id": _named(world, app, mention.union_id, id_type),
        "id_type": id_type,
        "name": mention.name,
        "tenant_key": TENANT_KEY,
    }


def _named(world: World, app: App, union_id: str, id_type: str) -> str:
    return viewed(world.platform, app, union_id)[id_type] or ""


CALLS: tuple[tuple[str, str, AppCall], ...] = (
    ("POST", "/open-apis/im/v1/messages", send),
    ("GET", "/open-apis/im/v1/messages", list_messages),
    ("POST", "/open-apis/im/v1/messages/{message_id}/reply", reply),
    ("GET", "/open-apis/im/v1/messages/{message_id}", read_message),
    ("PATCH", "/open-apis/im/v1/messages/{message_id}", patch_card),
    ("PUT", "/open-apis/im/v1/messages/{message_id}", edit_text),
    ("DELETE", "/open-apis/im/v1/messages/{message_id}", recall),
    ("POST", "/open-apis/im/v1/messages/{message_id}/reactions", react),
    ("DELETE", "/open-apis/im/v1/messages/{message_id}/reactions/{reaction_id}", unreact),
)
