"""The messages of people and bots in the simulated chats."""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from gateway.simulator.cards import card_lines
from gateway.simulator.exchange import Refusal
from gateway.simulator.platform import App, Person, SimChat, derive

DEDUPE_SECONDS = 3600.0
UUID_LENGTH_MAX = 50
TEXT_BYTES_MAX = 150 * 1024
RICH_BYTES_MAX = 30 * 1024
WRITTEN_TYPES = frozenset({"text", "post", "interactive"})
MEDIA_TYPES = frozenset({"image", "file", "audio", "media", "sticker"})
SHARED_TYPES = frozenset({"share_chat", "share_user", "system"})
MESSAGE_TYPES = WRITTEN_TYPES | MEDIA_TYPES | SHARED_TYPES
"""The types of message that a bot may send. People can send any type."""

FORWARDED = "Merged and Forwarded Message"
"""The whole content of a bundle of forwarded messages. The messages in it have to be fetched."""

BAD_CONTENT = 230001
NOT_IN_CHAT = 230002
RECALLED = 230011
NOT_OWN = 230012
TOO_LONG = 230025
GONE = 231003
BAD_FIELD = 99992402


@dataclass(frozen=True, slots=True)
class PlacedMention:
    """The person or bot that an `@_user_N` placeholder (`key`) stands for."""

    key: str
    union_id: str
    name: str
    is_bot: bool


@dataclass(slots=True)
class Message:
    """One message. `sender_id` is an app id for a bot and a union id for a person. Times are ms since 1970.

    `calls` counts how often its bot sent it: more than 1 means that repeats with the same uuid were dropped.
    `upper_message_id` is set for a copy in a bundle of forwarded messages, and names that bundle.
    """

    message_id: str
    chat_id: str
    sender_type: str
    sender_id: str
    message_type: str
    content: str
    create_time: int
    update_time: int
    root_id: str = ""
    parent_id: str = ""
    thread_id: str = ""
    mentions: tuple[PlacedMention, ...] = ()
    uuid: str = ""
    deleted: bool = False
    updated: bool = False
    calls: int = 1
    upper_message_id: str = ""
    reactions: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """Return the content as a JSON object; {} if it is something else."""
        try:
            document = msgspec.json.decode(self.content)
        except (msgspec.DecodeError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def text(self) -> str:
        """Return the words of a text message, mention placeholders included; "" for other types."""
        return str(self.document.get("text", ""))


@dataclass(frozen=True, slots=True)
class MessageDraft:
    """A message as its sender wants it, before it is checked and has an id."""

    message_type: str
    content: str
    uuid: str = ""
    reply_to: str = ""
    in_thread: bool = False


class MessageStore:
    """The newest `history_max` messages. `changed` is called after every visible change."""

    def __init__(self, *, history_max: int, changed: Callable[[], None]) -> None:
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._by_chat: dict[str, dict[str, Message]] = {}
        self._forwarded: dict[str, list[Message]] = {}
        self._sent: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._history_max = history_max
        self._changed = changed
        self._numbers = itertools.count(1)

    def in_chat(self, chat_id: str, sender_type: str = "", *, include_deleted: bool = False) -> list[Message]:
        """Return the messages of a chat, the oldest first."""
        return [
            message
            for message in self._by_chat.get(chat_id, {}).values()
            if sender_type in ("", message.sender_type) and (include_deleted or not message.deleted)
        ]

    def in_thread(self, thread_id: str, *, include_deleted: bool = False) -> list[Message]:
        """Return the messages of a topic, the oldest first, so that its root comes first."""
        found = (one for one in self._messages.values() if one.thread_id == thread_id)
        return [one for one in found if include_deleted or not one.deleted]

    def get(self, message_id: str) -> Message:
        """Return a message by id. Raises Refusal if it is unknown or was recalled."""
        message = self._messages.get(message_id)
        if message is None:
            raise Refusal(GONE, "The message is not found")
        if message.deleted:
            raise Refusal(RECALLED, "The message was withdrawn.")
        return message

    # -- people

    def write(
        self,
        person: Person,
        chat: SimChat,
        draft: MessageDraft,
        mentions: Sequence[PlacedMention],
        *,
        now_ms: int,
        message_id: str = "",
    ) -> Message:
        """Store a person's message. Raises Refusal if the message that it replies to is unknown or was recalled."""
        return self._store(
            chat, "user", person.union_id, draft, now_ms=now_ms, mentions=tuple(mentions), message_id=message_id
        )

    def forward(self, bundle: Message, originals: Sequence[Message]) -> None:
        """Put copies of `originals`, and of the messages that they bundle themselves, into a bundle."""
        self._forwarded[bundle.message_id] = copies = [_copy(original, bundle) for original in originals]
        for copy, original in zip(copies, originals, strict=True):
            if original.message_id in self._forwarded:
                self.forward(copy, self._forwarded[original.message_id])

    def bundled(self, message_id: str) -> Iterator[Message]:
        """Yield the messages in a bundle. A bundle among them is followed by its own messages."""
        for child in self._forwarded.get(message_id, ()):
            yield child
            yield from self.bundled(child.message_id)

    def is_bundled(self, message_id: str) -> bool:
        """True if this is the id of a copy inside a bundle."""
        return any(child.message_id == message_id for children in self._forwarded.values() for child in children)

    def withdraw(self, message_id: str) -> Message:
        """Recall a message in the name of its sender. Raises Refusal as `get` does."""
        message = self.get(message_id)
        message.deleted = True
        self._changed()
        return message

    # -- bots

    def send(self, app: App, chat: SimChat, draft: MessageDraft, *, now: float, now_ms: int) -> tuple[Message, bool]:
        """Store a bot's message and return it with True. A repeated uuid returns the first message with False.

        Raises Refusal.
        """
        check_draft(draft)
        if app.app_id not in chat.app_ids:
            raise Refusal(NOT_IN_CHAT, "Bot/User can NOT be out of the chat.")
        earlier = self._repeated(app, draft.uuid, now)
        if earlier is not None:
            earlier.calls += 1
            return earlier, False
        message = self._store(chat, "app", app.app_id, draft, now_ms=now_ms)
        if draft.uuid:
            self._sent[app.app_id, draft.uuid] = (message.message_id, now)
        return message, True

    def edit(self, app: App, message_id: str, message_type: str, content: str, now_ms: int) -> Message:
        """Replace the content of a bot's own message. Raises Refusal."""
        message = self._own(app, message_id)
        if message.message_type != message_type:
            raise Refusal(BAD_CONTENT, f"a {message.message_type} message cannot become {message_type}")
        check_draft(MessageDraft(message_type, content))
        message.content, message.update_time, message.updated = content, now_ms, True
        self._changed()
        return message

    def recall(self, app: App, message_id: str) -> None:
        """Withdraw a bot's own message. Raises Refusal."""
        self.withdraw(self._own(app, message_id).message_id)

    def react(self, app: App, message_id: str, emoji: str) -> str:
        """Add a bot's reaction to a message and return the reaction's id. Raises Refusal as `get` does."""
        message = self.get(message_id)
        reaction_id = derive("ZCaCIjUBVVWSrm5L-", message_id, app.app_id, emoji)
        message.reactions[reaction_id] = (app.app_id, emoji)
        self._changed()
        return reaction_id

    def unreact(self, app: App, message_id: str, reaction_id: str) -> str:
        """Take back a bot's own reaction and return its emoji. Raises Refusal."""
        message = self.get(message_id)
        owner, emoji = message.reactions.get(reaction_id, ("", ""))
        if not owner:
            raise Refusal(231007, "The reaction is not found")
        if owner != app.app_id:
            raise Refusal(NOT_OWN, "The reaction belongs to somebody else")
        del message.reactions[reaction_id]
        self._changed()
        return emoji

    # -- inside

    def _own(self, app: App, message_id: str) -> Message:
        message = self.get(message_id)
        if message.sender_id != app.app_id:
            raise Refusal(NOT_OWN, "The operator is not the sender of the message")
        return message

    def _repeated(self, app: App, uuid: str, now: float) -> Message | None:
        while self._sent and next(iter(self._sent.values()))[1] <= now - DEDUPE_SECONDS:
            self._sent.popitem(last=False)
        message_id, _ = self._sent.get((app.app_id, uuid), ("", 0.0)) if uuid else ("", 0.0)
        return self._messages.get(message_id)

    def _store(
        self,
        chat: SimChat,
        sender_type: str,
        sender_id: str,
        draft: MessageDraft,
        *,
        now_ms: int,
        mentions: tuple[PlacedMention, ...] = (),
        message_id: str = "",
    ) -> Message:
        quoted = self.get(draft.reply_to) if draft.reply_to else None
        message = Message(
            message_id=message_id or derive("om_", sender_id, str(next(self._numbers)), str(now_ms)),
            chat_id=chat.chat_id,
            sender_type=sender_type,
            sender_id=sender_id,
            message_type=draft.message_type,
            content=draft.content,
            create_time=now_ms,
            update_time=now_ms,
            parent_id=quoted.message_id if quoted else "",
            root_id=(quoted.root_id or quoted.message_id) if quoted else "",
            mentions=mentions,
            uuid=draft.uuid,
        )
        message.thread_id = self._thread_of(message, quoted, draft)
        self._messages[message.message_id] = message
        self._by_chat.setdefault(chat.chat_id, {})[message.message_id] = message
        self._forget_oldest()
        self._changed()
        return message

    def _forget_oldest(self) -> None:
        while len(self._messages) > self._history_max:
            message_id, message = self._messages.popitem(last=False)
            del self._by_chat[message.chat_id][message_id]
            for child in [*self.bundled(message_id), message]:
                self._forwarded.pop(child.message_id, None)

    def _thread_of(self, message: Message, quoted: Message | None, draft: MessageDraft) -> str:
        if quoted is not None and quoted.thread_id:
            return quoted.thread_id
        if not draft.in_thread:
            return ""
        root = quoted or message
        root.thread_id = derive("omt_", root.message_id)
        return root.thread_id


def _copy(original: Message, bundle: Message) -> Message:
    """Copy a message for a bundle: with its sender, time and chat, but without threads, replies and reactions."""
    return replace(
        original,
        message_id=derive("om_", bundle.message_id, original.message_id),
        upper_message_id=bundle.message_id,
        root_id="",
        parent_id="",
        thread_id="",
        reactions={},
    )


def check_draft(draft: MessageDraft) -> None:
    """Check a message as the platform does. Raises Refusal with the platform's code for a bad one."""
    if len(draft.uuid) > UUID_LENGTH_MAX:
        raise Refusal(BAD_FIELD, f"field validation failed: uuid has {len(draft.uuid)} of {UUID_LENGTH_MAX} characters")
    if draft.message_type not in MESSAGE_TYPES:
        raise Refusal(BAD_CONTENT, f"Your request contains an invalid request parameter: msg_type {draft.message_type}")
    limit = TEXT_BYTES_MAX if draft.message_type == "text" else RICH_BYTES_MAX
    if len(draft.content.encode()) > limit:
        raise Refusal(TOO_LONG, f"The length of the message content reaches its limit of {limit} bytes.")
    try:
        content = msgspec.json.decode(draft.content)
    except msgspec.DecodeError as error:
        raise Refusal(BAD_CONTENT, "content is not a string in json format") from error
    if not isinstance(content, dict):
        raise Refusal(BAD_CONTENT, "content is not a JSON object")
    if draft.message_type == "text" and not (isinstance(content.get("text"), str) and content["text"]):
        raise Refusal(BAD_CONTENT, "a text message needs content.text")


def place_mentions(text: str, candidates: Sequence[tuple[str, str, bool]]) -> tuple[str, tuple[PlacedMention, ...]]:
    """Replace each `@name` of a candidate (name, union id, is bot) by `@_user_N`, numbered as they appear.

    Returns the text and its mentions. A longer name wins over a shorter one that it begins with. A person gets one
    mention, even if the name is written several times.
    """
    by_name = {name: (union_id, is_bot) for name, union_id, is_bot in reversed(candidates) if name}
    if not by_name:
        return text, ()
    names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    found: dict[str, PlacedMention] = {}

    def placeholder(match: re.Match[str]) -> str:
        union_id, is_bot = by_name[match[1]]
        mention = found.setdefault(union_id, PlacedMention(f"@_user_{len(found) + 1}", union_id, match[1], is_bot))
        return mention.key

    return re.sub(f"@({names})", placeholder, text), tuple(found.values())


def readable(message: Message) -> str:
    """Return a message's words as a person reads them, with names for placeholders.

    A card gives its words and the addresses of its buttons. A message without words is shown as its type in brackets.
    """
    text = message.text or "\n".join(card_lines(message.document.get("body"))) or f"[{message.message_type}]"
    for mention in _longest_first(message.mentions):
        text = text.replace(mention.key, f"@{mention.name}")
    return text


def _longest_first(mentions: Sequence[PlacedMention]) -> Iterator[PlacedMention]:
    return iter(sorted(mentions, key=lambda mention: len(mention.key), reverse=True))
