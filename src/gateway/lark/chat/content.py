"""Reads the payload of an event into an InboundMessage: its kind, its sender, and its text as plain text.

Sans-IO. A payload comes from outside, so every field may be missing or of another type. A message is unusable only if
it lacks its id, its chat or its sender, or if one of its ids is too long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.channel.message import ChatType, InboundMessage, MediaRef, MessageType, ReplyTo, Source
from gateway.errors import RemoteProtocolError
from gateway.lark.chat.card_words import card_or_name, is_substituted
from gateway.lark.chat.kinds import BUNDLE, CARD, ID_CHARS_MAX, attachment, message_type, moment, named_with_words
from gateway.lark.chat.mentions import Mention, is_bot, rewrite_mentions, without_leading_mentions
from gateway.lark.chat.post import read_post
from gateway.lark.chat.untrusted import (
    content_fields,
    object_in,
    objects_in,
    parse_json,
    parse_leniently,
    raw_text_in,
    text_in,
)

CHANNEL_TYPE = "feishu"
"""The slug of both clouds; the `region` of an app tells them apart."""

RECEIVED = "im.message.receive_v1"


@dataclass(frozen=True, slots=True)
class Content:
    """The text of a message, with its placeholders, and the files it carries. `withheld`: its words were left out."""

    text: str
    media: tuple[MediaRef, ...] = ()
    withheld: bool = False


class _Chat(msgspec.Struct):
    chat_id: str = ""


class _Event(msgspec.Struct):
    message: _Chat = msgspec.field(default_factory=_Chat)


class _Envelope(msgspec.Struct):
    event: _Event = msgspec.field(default_factory=_Event)


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def order_key(payload: bytes) -> str:
    """Return the chat id of an event, "" if it has none or is unreadable. Decodes nothing but that string."""
    try:
        return _envelope_decoder.decode(payload).event.message.chat_id
    except msgspec.ValidationError:
        return ""
    except (ValueError, RecursionError):
        return _order_key_leniently(payload)


def _order_key_leniently(payload: bytes) -> str:
    """Return the chat id of an event that only the lenient parser can read.

    `decode_event` accepts such an event too, so it must keep its place in the order of its chat.
    """
    try:
        envelope = parse_leniently(payload)
    except RemoteProtocolError:
        return ""
    return (
        raw_text_in(object_in(object_in(envelope, "event"), "message"), "chat_id") if isinstance(envelope, dict) else ""
    )


def decode_event(payload: bytes, *, bot_open_id: str = "", bot_union_id: str = "") -> InboundMessage | None:
    """Read one event; None if it is not a received message, which is no error.

    The bot is recognised among the mentions by its union id if that is known, else by its open id. The union id is
    better, because each app sees open ids of its own, so the open id of a sibling bot can equal ours.

    A message without id, chat or sender, or with an id of an absurd length, has a `problem`, and nothing but its ids.
    Only an app may be a sender without an open id. Raises RemoteProtocolError for a payload that is not a JSON object.
    """
    if not payload.strip():
        return None
    envelope = parse_json(payload)
    if not isinstance(envelope, dict):
        raise RemoteProtocolError("the event is not a JSON object")
    header, event = object_in(envelope, "header"), object_in(envelope, "event")
    if text_in(envelope, "type") not in {"", "event_callback"}:
        return None
    # The older envelope has no header: type and app stand in the event, and the id is called uuid.
    event_type = text_in(header, "event_type") or text_in(event, "type")
    if event_type != RECEIVED:
        return None
    app_id = text_in(header, "app_id") or text_in(event, "app_id")
    event_id = text_in(header, "event_id") or text_in(envelope, "uuid")
    try:
        _check_ids(app_id=app_id, event_id=event_id)
        return _read_message(
            event,
            app_id=app_id,
            event_id=event_id,
            is_own=lambda mention: is_bot(mention, bot_open_id=bot_open_id, bot_union_id=bot_union_id),
        )
    except UnusableMessage as error:
        return _unusable(object_in(event, "message"), app_id=app_id, event_id=event_id, problem=str(error))


def flatten(platform_type: str, content: str, *, placeholders: Sequence[str] = ()) -> Content:
    """Return a message as plain text. Malformed content of a type with words gives an empty text, never an error.

    `placeholders` are the mention keys of the message. If a rich text contains one of them, the key is kept for
    `rewrite_mentions`.
    """
    fields = content_fields(content)
    if platform_type == "text":
        return Content(text_in(fields, "text"))
    if platform_type == "post":
        return Content(*read_post(fields, frozenset(placeholders)))
    if platform_type == CARD:
        return Content(card_or_name(fields), withheld=is_substituted(fields))
    return Content(named_with_words(platform_type, fields), attachment(platform_type, fields))


def _read_message(
    event: dict[str, Any], *, app_id: str, event_id: str, is_own: Callable[[Mention], bool]
) -> InboundMessage:
    message, sender = object_in(event, "message"), object_in(event, "sender")
    mentions = _mentions(message)
    source = _source(message, sender)
    kind = message_type(text_in(message, "message_type"))
    placeholders = [mention.key for mention in mentions]
    said = flatten(text_in(message, "message_type"), raw_text_in(message, "content"), placeholders=placeholders)
    text = rewrite_mentions(said.text, mentions, is_own)
    return InboundMessage(
        app_id=app_id,
        event_id=event_id,
        message_id=_required(message, "message_id"),
        source=source,
        type=kind,
        text=text,
        sent_at=moment(message.get("create_time")),
        command_text=_words(said.text, text, mentions, is_own) if kind is MessageType.TEXT else "",
        media=said.media,
        reply_to=_reply_to(message),
        addressed_to_bot=source.chat_type is ChatType.GROUP and any(map(is_own, mentions)),
        sender_is_bot=_is_app(sender),
        event_type=RECEIVED,
        bundle=text_in(message, "message_type") == BUNDLE,
        withheld=said.withheld,
        raw=event,
    )


def _source(message: dict[str, Any], sender: dict[str, Any]) -> Source:
    sender_id = object_in(sender, "sender_id")
    # An app may send without an open id. Later checks need to know only that the sender is an app.
    read_open_id = _id if _is_app(sender) else _required
    return Source(
        channel_type=CHANNEL_TYPE,
        chat_id=_required(message, "chat_id"),
        chat_type=_chat_type(text_in(message, "chat_type")),
        sender_id=read_open_id(sender_id, "open_id"),
        sender_stable_id=_id(sender_id, "union_id"),
        thread_id=_id(message, "thread_id"),
    )


def _is_app(sender: dict[str, Any]) -> bool:
    return text_in(sender, "sender_type") in {"app", "bot"}


def _words(flat: str, text: str, mentions: Sequence[Mention], is_own: Callable[[Mention], bool]) -> str:
    """Return the text that a command is looked for in: `text` without the mentions before its first word."""
    if "/" not in flat or "@" not in flat:
        return text
    return rewrite_mentions(without_leading_mentions(flat, mentions), mentions, is_own)


def _mentions(message: dict[str, Any]) -> list[Mention]:
    return [_mention(entry) for entry in objects_in(message, "mentions")]


def _mention(entry: dict[str, Any]) -> Mention:
    ids = object_in(entry, "id")
    return Mention(
        key=text_in(entry, "key"),
        name=text_in(entry, "name"),
        open_id=text_in(ids, "open_id"),
        union_id=text_in(ids, "union_id"),
    )


def _reply_to(message: dict[str, Any]) -> ReplyTo | None:
    parent, root = _id(message, "parent_id"), _id(message, "root_id")
    return ReplyTo(parent or root, root) if parent or root else None


def _chat_type(name: str) -> ChatType:
    """Return the chat type. An unknown kind, such as a topic group, is a group: there a bot speaks only if asked."""
    return ChatType.P2P if name == "p2p" else ChatType.GROUP


class UnusableMessage(RemoteProtocolError):
    """A message lacks an id that it must have, or has an id of an absurd length."""


def _unusable(message: dict[str, Any], *, app_id: str, event_id: str, problem: str) -> InboundMessage:
    """Return what may be recorded of a message that cannot be taken: its ids, without those that are too long."""
    return InboundMessage(
        app_id=_short(app_id),
        event_id=_short(event_id),
        message_id=_short(text_in(message, "message_id")),
        source=Source(CHANNEL_TYPE, _short(text_in(message, "chat_id")), _chat_type(text_in(message, "chat_type")), ""),
        type=MessageType.UNKNOWN,
        text="",
        event_type=RECEIVED,
        problem=problem,
    )


def _short(value: str) -> str:
    return value if len(value) <= ID_CHARS_MAX else ""


def _check_ids(**ids: str) -> None:
    """Raise UnusableMessage for an id of more than `ID_CHARS_MAX` characters."""
    for name, value in ids.items():
        if len(value) > ID_CHARS_MAX:
            raise UnusableMessage(f"a message whose {name} has {len(value)} characters; the limit is {ID_CHARS_MAX}")


def _id(fields: dict[str, Any], name: str) -> str:
    """Return an id, "" if it is missing. Raises UnusableMessage for one that is too long."""
    value = text_in(fields, name)
    _check_ids(**{name: value})
    return value


def _required(fields: dict[str, Any], name: str) -> str:
    value = _id(fields, name)
    if not value:
        raise UnusableMessage(f"a message without {name}")
    return value
