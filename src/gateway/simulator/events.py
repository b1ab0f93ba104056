"""Event payloads as the platform writes them: schema 2.0, with the ids that the receiving app sees."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.simulator.cards import CARD, card_content
from gateway.simulator.messages import Mention, Message
from gateway.simulator.platform import TENANT_KEY, App, Platform, open_id

MESSAGE_RECEIVED = "im.message.receive_v1"


def envelope(app: App, event_type: str, event: dict[str, Any], *, event_id: str, now_ms: int) -> bytes:
    """Encode a whole v2 event. On the long connection its verification token is empty."""
    header = {
        "event_id": event_id,
        "token": app.verification_token if app.event_mode == "http" else "",
        "create_time": str(now_ms),
        "event_type": event_type,
        "tenant_key": TENANT_KEY,
        "app_id": app.app_id,
    }
    return msgspec.json.encode({"schema": "2.0", "header": header, "event": event})


def message_event(platform: Platform, app: App, message: Message) -> dict[str, Any]:
    """Return the `event` member of the event for a received message."""
    chat = platform.chats[message.chat_id]
    body: dict[str, Any] = {
        "message_id": message.message_id,
        "create_time": str(message.create_time),
        "update_time": str(message.update_time),
        "chat_id": message.chat_id,
        "chat_type": chat.chat_type,
        "message_type": message.message_type,
        "content": card_content(message.content, "") if message.message_type == CARD else message.content,
        "user_agent": "Mozilla/5.0 (simulated)",
    }
    if message.mentions:
        body["mentions"] = [_mention(platform, app, mention) for mention in message.mentions]
    body |= {name: value for name in ("root_id", "parent_id", "thread_id") if (value := getattr(message, name))}
    union_id = message.sender_id
    if message.sender_type == "app":
        union_id = platform.apps[message.sender_id].union_id
    sender = {
        "sender_id": viewed(platform, app, union_id),
        "sender_type": message.sender_type,
        "tenant_key": TENANT_KEY,
    }
    return {"sender": sender, "message": body}


def viewed(platform: Platform, app: App, union_id: str) -> dict[str, str | None]:
    """Return the three ids of a person or bot as `app` sees them. `user_id` is None without the scope for it."""
    person = platform.people.get(union_id)
    user_id = person.user_id if person is not None and app.shows_user_ids else None
    return {"union_id": union_id, "user_id": user_id, "open_id": open_id(app.app_id, union_id)}


def _mention(platform: Platform, app: App, mention: Mention) -> dict[str, Any]:
    return {
        "key": mention.key,
        "id": viewed(platform, app, mention.union_id),
        "name": mention.name,
        "tenant_key": TENANT_KEY,
        "mentioned_type": "bot" if mention.is_bot else "user",
    }
