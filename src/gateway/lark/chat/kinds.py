"""The kinds of messages: what each is to the rest of the gateway, what it is called, and the words and files in it.

Sans-IO. A kind without a text form is shown by its name in brackets, followed by the words that its content has, such
as the name of a place. Ids are no words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from gateway.channel.message import IMAGE_MARKER, MediaRef, MessageType
from gateway.lark.chat.untrusted import list_in, object_in, objects_in, raw_text_in, text_in

CARD = "interactive"
BUNDLE = "merge_forward"
VIDEO_MARKER = "[Video]"
UNSUPPORTED = "[Unsupported Message]"

ID_CHARS_MAX = 256
"""Ids become keys of indexes, which take about 2,700 bytes; the platform's own have some forty characters."""

_TYPES = {
    "text": MessageType.TEXT,
    "post": MessageType.TEXT,
    BUNDLE: MessageType.TEXT,
    "image": MessageType.IMAGE,
    "file": MessageType.FILE,
    "audio": MessageType.AUDIO,
    "media": MessageType.VIDEO,
    "video": MessageType.VIDEO,
}

_BRACKETED = {
    "": UNSUPPORTED,
    "image": IMAGE_MARKER,
    "file": "[File]",
    "audio": "[Audio]",
    "media": VIDEO_MARKER,
    "video": VIDEO_MARKER,
    "sticker": "[Sticker]",
    CARD: "[interactive card]",
    "share_chat": "[Shared Chat]",
    "share_user": "[Shared User Card]",
    BUNDLE: "[forwarded messages]",
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

_KNOWN_SHAPE = re.compile(r"[a-z][a-z0-9_]{0,39}")
_BLANK = re.compile(r"\{([a-z_]{1,40})\}")
_WORDS_MAX = 50
"""The most options of a vote, or names of a system message, that are shown."""


def message_type(platform_type: str) -> MessageType:
    """Return the message kind for the platform's name of it."""
    return _TYPES.get(platform_type, MessageType.UNKNOWN)


def bracketed_name(platform_type: str) -> str:
    """Return the text for a message without a text form, e.g. `[Location]`; an unknown type is shown by its name."""
    if platform_type in _BRACKETED:
        return _BRACKETED[platform_type]
    return f"[{platform_type.replace('_', ' ').title()}]" if _KNOWN_SHAPE.fullmatch(platform_type) else UNSUPPORTED


def named_with_words(platform_type: str, fields: dict[str, Any]) -> str:
    """Return the bracketed name, and after it the words of the content on one line, if there are any."""
    read = _WORDS.get(platform_type)
    words = " ".join(read(fields).split()) if read is not None else ""
    return f"{bracketed_name(platform_type)} {words}" if words else bracketed_name(platform_type)


def attachment(platform_type: str, fields: dict[str, Any]) -> tuple[MediaRef, ...]:
    """Return the file that a message of this kind is; none for a kind that is no file."""
    kind = message_type(platform_type)
    if kind is MessageType.IMAGE:
        return reference(kind, raw_text_in(fields, "image_key"))
    if kind in {MessageType.FILE, MessageType.AUDIO, MessageType.VIDEO}:
        return reference(kind, raw_text_in(fields, "file_key"), text_in(fields, "file_name"))
    return ()


def reference(kind: MessageType, key: str, name: str = "") -> tuple[MediaRef, ...]:
    return (MediaRef(kind, key, name),) if 0 < len(key) <= ID_CHARS_MAX else ()


def moment(milliseconds: object) -> datetime | None:
    """Read a time of the platform's clock: milliseconds since 1970, usually as a string. None if it is unreadable."""
    if not isinstance(milliseconds, str | int) or isinstance(milliseconds, bool):
        return None
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


# The words of each kind.


def _location(fields: dict[str, Any]) -> str:
    place = ", ".join(filter(None, (_number(fields, "latitude"), _number(fields, "longitude"))))
    return f"{text_in(fields, 'name')} ({place})" if place else text_in(fields, "name")


def _todo(fields: dict[str, Any]) -> str:
    # The summary is rich text with a title and paragraphs of spans, of which only words are expected here.
    summary = object_in(fields, "summary")
    spans = [span for line in list_in(summary, "content") if isinstance(line, list) for span in line]
    words = [text_in(summary, "title"), *(text_in(span, "text") for span in spans if isinstance(span, dict))]
    due = _time(fields, "due_time")
    return " ".join(filter(None, [*words, f"(due {due})" if due else ""]))


def _event(fields: dict[str, Any]) -> str:
    times = " – ".join(filter(None, (_time(fields, "start_time"), _time(fields, "end_time"))))
    return f"{text_in(fields, 'summary')} ({times})" if times else text_in(fields, "summary")


def _video_chat(fields: dict[str, Any]) -> str:
    start = _time(fields, "start_time")
    return f"{text_in(fields, 'topic')} ({start})" if start else text_in(fields, "topic")


def _vote(fields: dict[str, Any]) -> str:
    options = [option for option in list_in(fields, "options")[:_WORDS_MAX] if isinstance(option, str)]
    options += [text_in(option, "text") for option in objects_in(fields, "options")[:_WORDS_MAX]]
    chosen = "; ".join(filter(None, options))
    topic = text_in(fields, "topic")
    return f"{topic}: {chosen}" if topic and chosen else topic or chosen


def _system(fields: dict[str, Any]) -> str:
    """Fill the blanks of the template, which are named after the members that hold the names."""

    def fill(blank: re.Match[str]) -> str:
        named = fields.get(blank[1])
        names = named[:_WORDS_MAX] if isinstance(named, list) else [named]
        return ", ".join(name for name in names if isinstance(name, str))

    return _BLANK.sub(fill, text_in(fields, "template"))


def _name(fields: dict[str, Any]) -> str:
    return text_in(fields, "user_name") or text_in(fields, "name")


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "location": _location,
    "todo": _todo,
    "share_calendar_event": _event,
    "calendar": _event,
    "general_calendar": _event,
    "video_chat": _video_chat,
    "vote": _vote,
    "system": _system,
    "share_user": _name,
    "folder": lambda fields: text_in(fields, "file_name"),
    "hongbao": lambda fields: text_in(fields, "text"),
}


def _time(fields: dict[str, Any], name: str) -> str:
    at = moment(fields.get(name))
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M UTC")


def _number(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return text_in(fields, name)
