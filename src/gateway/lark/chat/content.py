"""Reads the payload of an event into an InboundMessage: its kind, its sender, and its text as plain text.

Sans-IO. A payload comes from outside, so every field may be missing or of another type. A message is refused only if it
lacks its id, its chat or its sender.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.channel.message import IMAGE_MARKER, ChatType, InboundMessage, MediaRef, MessageType, ReplyTo, Source
from gateway.errors import RemoteProtocolError

CHANNEL_TYPE = "feishu"
"""The slug of both clouds; the `region` of an app tells them apart."""

RECEIVED = "im.message.receive_v1"

ID_CHARS_MAX = 256
"""Ids become keys of indexes, which take about 2,700 bytes; the platform's own have some forty characters."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: JSON can carry them, Postgres text cannot."""

_PLACEHOLDER = re.compile(r"@[^@]{1,64}")
"""The places where the key of a mention can stand: from an `@` to the next one at most."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A person or bot mentioned in a message. `key` is the placeholder in the text."""

    key: str
    name: str = ""
    open_id: str = ""
    union_id: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """The text of a message, with its placeholders, and the files it carries."""

    text: str
    media: tuple[MediaRef, ...] = ()


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
        envelope = _parse_leniently(payload)
    except RemoteProtocolError:
        return ""
    return _raw_text(_object(_object(envelope, "event"), "message"), "chat_id") if isinstance(envelope, dict) else ""


def decode_event(payload: bytes, *, bot_open_id: str = "", bot_union_id: str = "") -> InboundMessage | None:
    """Read one event; None if it is not a received message, which is no error.

    The bot is recognised among the mentions by its union id if that is known, else by its open id. The union id is
    better, because each app sees open ids of its own, so the open id of a sibling bot can equal ours.

    Raises RemoteProtocolError for a payload that is not JSON, and for a message without id, chat or sender, or with an
    id of an absurd length. Only an app may be a sender without an open id.
    """
    if not payload.strip():
        return None
    envelope = parse_json(payload)
    if not isinstance(envelope, dict):
        raise RemoteProtocolError("the event is not a JSON object")
    header, event = _object(envelope, "header"), _object(envelope, "event")
    if _text(envelope, "type") not in {"", "event_callback"}:
        return None
    # The older envelope has no header: type and app stand in the event, and the id is called uuid.
    event_type = _text(header, "event_type") or _text(event, "type")
    if event_type != RECEIVED:
        return None
    return _read_message(
        event,
        app_id=_id(header, "app_id") or _id(event, "app_id"),
        event_id=_id(header, "event_id") or _id(envelope, "uuid"),
        is_own=lambda mention: is_bot(mention, bot_open_id=bot_open_id, bot_union_id=bot_union_id),
    )


def message_type(platform_type: str) -> MessageType:
    """Return the message kind for the platform's name of it."""
    return _TYPES.get(platform_type, MessageType.UNKNOWN)


def flatten(platform_type: str, content: str, *, placeholders: Sequence[str] = ()) -> Content:
    """Return a message as plain text. Malformed content of a type with words gives an empty text, never an error.

    `placeholders` are the mention keys of the message. If a rich text contains one of them, the key is kept for
    `rewrite_mentions`.
    """
    fields = _content_fields(content)
    if platform_type == "text":
        return Content(_text(fields, "text"))
    if platform_type == "post":
        return _flatten_post(fields, frozenset(placeholders))
    return Content(bracketed_name(platform_type), _attachment(platform_type, fields))


def bracketed_name(platform_type: str) -> str:
    """Return the text for a message without a text form, e.g. `[Location]`; an unknown type is shown by its name."""
    if platform_type in _BRACKETED:
        return _BRACKETED[platform_type]
    known_shape = re.fullmatch(r"[a-z][a-z0-9_]{0,39}", platform_type)
    return f"[{platform_type.replace('_', ' ').title()}]" if known_shape else "[Unsupported Message]"


def rewrite_mentions(text: str, mentions: Sequence[Mention], is_own: Callable[[Mention], bool]) -> str:
    """Replace placeholders by names, and remove the bot's own mention together with one adjacent blank.

    Works in one pass from the left, and tries the longest key first, because `@_user_1` is the beginning of
    `@_user_10`. Inserted names are not read again. The removed blank is the one after the mention, else the one before.
    No other white space changes; a mention without a name stays as it is. Text and mentions come from outside, so the
    running time must depend on the length of the text only, not on the number of mentions.
    """
    by_key = {mention.key: mention for mention in mentions if _PLACEHOLDER.fullmatch(mention.key)}
    written: list[str] = []
    at = 0
    for match in _PLACEHOLDER.finditer(text) if by_key else ():
        mention = _named_at_the_start(match.group(), by_key)
        if mention is None:
            continue
        _write(written, text[at : match.start()])
        at = match.start() + len(mention.key)
        if not is_own(mention):
            _write(written, f"@{mention.name}" if mention.name else mention.key)
        elif text.startswith(" ", at):
            at += 1
        elif written:
            _write(written, written.pop().removesuffix(" "))
    return "".join([*written, text[at:]])


def _named_at_the_start(candidate: str, by_key: Mapping[str, Mention]) -> Mention | None:
    """Return the mention whose key is the longest one that `candidate` begins with; None if there is none."""
    lengths = range(len(candidate), 1, -1)
    return next((by_key[candidate[:length]] for length in lengths if candidate[:length] in by_key), None)


def _write(written: list[str], piece: str) -> None:
    """Append a piece unless it is empty, so that the last piece always holds the end of the text."""
    if piece:
        written.append(piece)


def is_bot(mention: Mention, *, bot_open_id: str, bot_union_id: str) -> bool:
    """True if a mention means this bot. A mention of all does not, and an empty id never matches."""
    if mention.key == "@_all":
        return False
    if bot_union_id:
        return mention.union_id == bot_union_id
    return bool(bot_open_id) and mention.open_id == bot_open_id


# Reading an event.


def _read_message(
    event: dict[str, Any], *, app_id: str, event_id: str, is_own: Callable[[Mention], bool]
) -> InboundMessage:
    message, sender = _object(event, "message"), _object(event, "sender")
    mentions = _mentions(message)
    source = _source(message, sender)
    kind = message_type(_text(message, "message_type"))
    said = _said(message, mentions, is_own)
    return InboundMessage(
        app_id=app_id,
        event_id=event_id,
        message_id=_required(message, "message_id"),
        source=source,
        type=kind,
        text=said.text,
        sent_at=moment(message.get("create_time")),
        command_text=said.text if kind is MessageType.TEXT else "",
        media=said.media,
        reply_to=_reply_to(message),
        addressed_to_bot=source.chat_type is ChatType.GROUP and any(map(is_own, mentions)),
        sender_is_bot=_is_app(sender),
        event_type=RECEIVED,
        bundle=_text(message, "message_type") == "merge_forward",
        raw=event,
    )


def _source(message: dict[str, Any], sender: dict[str, Any]) -> Source:
    sender_id = _object(sender, "sender_id")
    # An app may send without an open id. Later checks need to know only that the sender is an app.
    read_open_id = _id if _is_app(sender) else _required
    return Source(
        channel_type=CHANNEL_TYPE,
        chat_id=_required(message, "chat_id"),
        chat_type=_chat_type(_text(message, "chat_type")),
        sender_id=read_open_id(sender_id, "open_id"),
        sender_stable_id=_id(sender_id, "union_id"),
        thread_id=_id(message, "thread_id"),
    )


def _is_app(sender: dict[str, Any]) -> bool:
    return _text(sender, "sender_type") in {"app", "bot"}


def _said(message: dict[str, Any], mentions: Sequence[Mention], is_own: Callable[[Mention], bool]) -> Content:
    placeholders = [mention.key for mention in mentions]
    content = flatten(_text(message, "message_type"), _raw_text(message, "content"), placeholders=placeholders)
    if not mentions:
        return content
    return Content(rewrite_mentions(content.text, mentions, is_own), content.media)


def _mentions(message: dict[str, Any]) -> list[Mention]:
    listed = message.get("mentions")
    if not isinstance(listed, list):
        return []
    return [_mention(entry) for entry in listed if isinstance(entry, dict)]


def _mention(entry: dict[str, Any]) -> Mention:
    ids = _object(entry, "id")
    return Mention(
        key=_text(entry, "key"),
        name=_text(entry, "name"),
        open_id=_text(ids, "open_id"),
        union_id=_text(ids, "union_id"),
    )


def _reply_to(message: dict[str, Any]) -> ReplyTo | None:
    parent, root = _id(message, "parent_id"), _id(message, "root_id")
    return ReplyTo(parent or root, root) if parent or root else None


def _chat_type(name: str) -> ChatType:
    """Return the chat type. An unknown kind, such as a topic group, is a group: there a bot speaks only if asked."""
    return ChatType.P2P if name == "p2p" else ChatType.GROUP


def moment(milliseconds: object) -> datetime | None:
    """Read a time of the platform's clock: milliseconds since 1970, usually as a string. None if it is unreadable."""
    if not isinstance(milliseconds, str | int) or isinstance(milliseconds, bool):
        return None
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


# Reading content.

_TYPES = {
    "text": MessageType.TEXT,
    "post": MessageType.TEXT,
    "merge_forward": MessageType.TEXT,
    "image": MessageType.IMAGE,
    "file": MessageType.FILE,
    "audio": MessageType.AUDIO,
    "media": MessageType.VIDEO,
    "video": MessageType.VIDEO,
}

_BRACKETED = {
    "": "[Unsupported Message]",
    "image": IMAGE_MARKER,
    "file": "[File]",
    "audio": "[Audio]",
    "media": "[Video]",
    "video": "[Video]",
    "sticker": "[Sticker]",
    "interactive": "[interactive card]",
    "share_chat": "[Shared Chat]",
    "share_user": "[Shared User Card]",
    "merge_forward": "[forwarded messages]",
    "system": "[System Message]",
    "location": "[Location]",
    "folder": "[Folder]",
    "hongbao": "[Red Packet]",
    "video_chat": "[Video Chat]",
    "vote": "[Vote]",
    "todo": "[To-do]",
    "calendar": "[Calendar Event]",
    "share_calendar_event": "[Calendar Event]",
    "general_calendar": "[Calendar Event]",
}


def _flatten_post(fields: dict[str, Any], placeholders: frozenset[str]) -> Content:
    """Return a rich text as the title, then a line per paragraph, with one blank between its spans."""
    paragraphs = fields.get("content")
    lines: list[str] = []
    media: list[MediaRef] = []
    for paragraph in paragraphs if isinstance(paragraphs, list) else []:
        spans = [span for span in paragraph if isinstance(span, dict)] if isinstance(paragraph, list) else []
        said = [_span_text(span, placeholders) for span in spans]
        lines.append(" ".join(words for words in said if words))
        media.extend(ref for span in spans for ref in _span_media(span))
    title = _text(fields, "title")
    text = "\n".join([title, *lines] if title else lines)
    return Content(text.rstrip("\n"), tuple(media))


def _span_text(span: dict[str, Any], placeholders: frozenset[str]) -> str:
    match _text(span, "tag"):
        case "a":
            return _link(_text(span, "text"), _text(span, "href"))
        case "at":
            return _named(_text(span, "user_id"), _text(span, "user_name"), placeholders)
        case "img":
            return IMAGE_MARKER
        case "media":
            return "[Video]"
        case "hr":
            return "---"
        case "emotion":
            return ""
        case _:
            return _text(span, "text")


def _link(words: str, href: str) -> str:
    return f"{words} ({href})" if words and href else words or href


def _named(user_id: str, user_name: str, placeholders: frozenset[str]) -> str:
    """Return a mention in rich text: its placeholder if the message lists it, else the name in the span."""
    if user_id in placeholders or not user_name:
        return user_id
    return f"@{user_name}"


def _span_media(span: dict[str, Any]) -> tuple[MediaRef, ...]:
    match _text(span, "tag"):
        case "img":
            return _reference(MessageType.IMAGE, _text(span, "image_key"))
        case "media":
            return _reference(MessageType.VIDEO, _text(span, "file_key"), _text(span, "file_name"))
        case _:
            return ()


def _attachment(platform_type: str, fields: dict[str, Any]) -> tuple[MediaRef, ...]:
    kind = message_type(platform_type)
    if kind is MessageType.IMAGE:
        return _reference(kind, _text(fields, "image_key"))
    if kind in {MessageType.FILE, MessageType.AUDIO, MessageType.VIDEO}:
        return _reference(kind, _text(fields, "file_key"), _text(fields, "file_name"))
    return ()


def _reference(kind: MessageType, key: str, name: str = "") -> tuple[MediaRef, ...]:
    return (MediaRef(kind, key, name),) if 0 < len(key) <= ID_CHARS_MAX else ()


def _content_fields(content: str) -> dict[str, Any]:
    try:
        fields = parse_json(content.encode(errors="surrogatepass"))
    except RemoteProtocolError:
        return {}
    return fields if isinstance(fields, dict) else {}


# Reading untrusted JSON.


def parse_json(data: bytes) -> Any:
    """Decode JSON, also with lone surrogates in it. Raises RemoteProtocolError."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return _parse_leniently(data)


def _parse_leniently(data: bytes) -> Any:
    """Decode JSON with the standard library, which accepts lone surrogates.

    A client that cuts a text inside an emoji does send them.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{len(data)} bytes that are not JSON") from error


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _raw_text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _text(fields: dict[str, Any], name: str) -> str:
    """Return a string without the characters that the database cannot hold; "" if the value is no string."""
    return _UNSTORABLE.sub("", _raw_text(fields, name))


def _id(fields: dict[str, Any], name: str) -> str:
    """Return an id, "" if it is missing. Raises RemoteProtocolError for one over `ID_CHARS_MAX` characters."""
    value = _text(fields, name)
    if len(value) > ID_CHARS_MAX:
        raise RemoteProtocolError(f"a message whose {name} has {len(value)} characters; the limit is {ID_CHARS_MAX}")
    return value


def _required(fields: dict[str, Any], name: str) -> str:
    value = _id(fields, name)
    if not value:
        raise RemoteProtocolError(f"a message without {name}")
    return value
