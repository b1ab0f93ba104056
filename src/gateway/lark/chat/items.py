"""Reads messages as REST calls return them: flat mentions, bots by their app id, a bundle as a list. Sans-IO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.channel.message import MediaRef
from gateway.core.attachments import display_name
from gateway.core.enrichment import Author, AuthorKind, Said, SharedFile
from gateway.lark.chat.content import flatten
from gateway.lark.chat.kinds import BUNDLE, bracketed_name, moment
from gateway.lark.chat.mentions import Mention, rewrite_mentions
from gateway.lark.chat.untrusted import object_in, objects_in, raw_text_in

_BRACKETS = str.maketrans("[]", "()")


def read_items(items: Sequence[object], *, app_id: str) -> list[Said]:
    """Read messages, in the order given. `app_id` identifies our own bot. Items without an id are left out."""
    read = (read_item(item, app_id=app_id) for item in items if isinstance(item, dict))
    return [said for said in read if said is not None]


def read_item(item: dict[str, Any], *, app_id: str) -> Said | None:
    message_id = raw_text_in(item, "message_id")
    if not message_id:
        return None
    kind = raw_text_in(item, "msg_type")
    text, files = _content(item, kind)
    return Said(
        message_id=message_id,
        author=_author(object_in(item, "sender"), app_id),
        type=kind,
        text=text,
        sent_at=moment(item.get("create_time")),
        chat_id=raw_text_in(item, "chat_id"),
        thread_id=raw_text_in(item, "thread_id"),
        within=raw_text_in(item, "upper_message_id"),
        bundle=kind == BUNDLE,
        gone=item.get("deleted") is True,
        files=tuple(SharedFile(message_id, file.kind.value, file.key, file.name) for file in files),
    )


def _author(sender: dict[str, Any], app_id: str) -> Author:
    """Return the author: a bot by its app id, a person by the open id that this app sees."""
    sender_id = raw_text_in(sender, "id")
    if raw_text_in(sender, "sender_type") == "app" or raw_text_in(sender, "id_type") == "app_id":
        return Author(sender_id, AuthorKind.ASSISTANT if sender_id == app_id else AuthorKind.BOT)
    return Author(sender_id)


def _content(item: dict[str, Any], kind: str) -> tuple[str, tuple[MediaRef, ...]]:
    """Return the words of a message and its files. A file that is a message of its own is shown with its name."""
    content = raw_text_in(object_in(item, "body"), "content")
    mentions = _mentions(item)
    said = flatten(kind, content, placeholders=[mention.key for mention in mentions])
    names = [display_name(file.name).translate(_BRACKETS) for file in said.media]
    if any(names) and said.text == bracketed_name(kind):
        return f"{said.text[:-1]}: {names[0]}]", said.media
    return rewrite_mentions(said.text, mentions, lambda _: False), said.media


def _mentions(item: dict[str, Any]) -> list[Mention]:
    entries = objects_in(item, "mentions")
    return [
        Mention(raw_text_in(entry, "key"), raw_text_in(entry, "name"), raw_text_in(entry, "id")) for entry in entries
    ]
