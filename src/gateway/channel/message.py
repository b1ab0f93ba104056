"""Platform-neutral messages: the incoming one, and the outgoing one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from gateway.core.replies import Button


class ChatType(StrEnum):
    """A conversation of two, or of several people."""

    P2P = "p2p"
    GROUP = "group"


class MessageType(StrEnum):
    """The closed set of message kinds; an adapter maps the kinds of its platform into it."""

    TEXT = "text"
    IMAGE = "image"
    FILE = "file"
    AUDIO = "audio"
    VIDEO = "video"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Source:
    """The sender of a message and its chat. Ids are the platform's own."""

    channel_type: str
    chat_id: str
    chat_type: ChatType
    sender_id: str
    sender_stable_id: str = ""
    thread_id: str = ""

    @property
    def session_key(self) -> str:
        """The key of the conversation: the chat, or one topic of a group. A stray thread id in p2p is ignored."""
        if self.chat_type is ChatType.GROUP and self.thread_id:
            return f"{self.chat_id}:{self.thread_id}"
        return self.chat_id


IMAGE_MARKER = "[Image]"
"""Stands for a picture in the text of a message. The k-th marker is the k-th picture among its files."""


@dataclass(frozen=True, slots=True)
class MediaRef:
    """A file that stays on the platform until an agent asks for it; `key` is the platform's handle."""

    kind: MessageType
    key: str
    name: str = ""
    mime_type: str = ""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """The message that was quoted, and the first one of its tree."""

    message_id: str
    root_id: str = ""


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """One message as the core sees it. Its repr, which may end up in a log, leaves out the words of the message.

    `command_text` holds the sender's own words, before anything was added to `text`; commands are read from it alone.
    `raw` is opaque: only the adapter that produced it may look inside. `sent_at` is the platform's clock. `problem` is
    the reason why the event is no usable message; such an event is recorded as `invalid_event` and dropped.
    """

    app_id: str
    event_id: str
    message_id: str
    source: Source
    type: MessageType
    text: str = field(repr=False)
    sent_at: datetime | None = None
    command_text: str = field(default="", repr=False)
    media: tuple[MediaRef, ...] = ()
    reply_to: ReplyTo | None = None
    addressed_to_bot: bool = False
    sender_is_bot: bool = False
    event_type: str = ""
    bundle: bool = False
    """True if the message only wraps messages of others that were forwarded together; those are looked up."""
    withheld: bool = False
    """True if the event came without the words of the message; those are looked up as if it quoted itself."""
    raw: Any = field(default=None, repr=False, compare=False)
    problem: str = ""


class Tone(StrEnum):
    """The speaker of an outgoing message, because a platform may show each of them differently."""

    ANSWER = "answer"
    """The agent: its words may be Markdown."""
    NOTICE = "notice"
    """The gateway, in plain words."""
    ERROR = "error"
    """The gateway, about an answer that will not come."""


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """One message to send. `idempotency_key` stays the same over every attempt, at most 50 characters.

    Exactly one of `chat_id` and `user_id` is set: a chat, or a person's direct conversation. `button` is the link that
    `text` ends with: a platform may show it as a button instead. `title` is a heading, for platforms that draw cards.
    """

    text: str = field(repr=False)
    idempotency_key: str
    tone: Tone = Tone.NOTICE
    chat_id: str = ""
    user_id: str = ""
    thread_id: str = ""
    reply_to: str = ""
    button: Button | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class SendResult:
    """The platform's id of the sent message."""

    message_id: str
