"""Reads messages as REST calls return them: flat mentions, bots by their app id, a bundle as a list. Sans-IO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.core.enrichment import Author, AuthorKind, Said
from gateway.lark.chat.content import flatten
from gateway.lark.chat.kinds import BUNDLE, moment
from gateway.lark.chat.mentions import Mention, rewrite_mentions
from gateway.lark.chat.untrusted import object_in, objects_in, raw_text_in


def read_items(items: Sequence[object], *, app_id: str) -> list[Said]:
    """Read messages, in the order given. `app_id` identifies our own bot. Items without an id are left out."""
    read = (read_item(item, app_id=app_id) for item in items if isinstance(item, dict))
    return [said for said in read if said is not None]


def read_item(item: dict[str, Any], *, app_id: str) -> Said | None:
    message_id = raw_text_in(item, "message_id")
    if not message_id:
        return None
    kind = raw_text_in(item, "msg_type")
    return Said(
        message_id=message_id,
        author=_author(object_in(item, "sender"), app_id),
        type=kind,
        text=_words(item, kind),
        sent_at=moment(item.get("create_time")),
        chat_id=raw_text_in(item, "chat_id"),
        thread_id=raw_text_in(item, "thread_id"),
        within=raw_text_in(item, "upper_message_id"),
        bundle=kind == BUNDLE,
        gone=item.get("deleted") is True,
    )


def _author(sender: dict[str, Any], app_id: str) -> Author:
    """Return the author: a bot by its app id, a person by the open id that this app sees."""
    sender_id = raw_text_in(sender, "id")
    if raw_text_in(sender, "sender_type") == "app" or raw_text_in(sender, "id_type") == "app_id":
        return Author(sender_id, AuthorKind.ASSISTANT if sender_id == app_id else AuthorKind.BOT)
    return Author(sender_id)


def _words(item: dict[str, Any], kind: str) -> str:
    content = raw_text_in(object_in(item, "body"), "content")
    mentions = _mentions(item)
    text = flatten(kind, content, placeholders=[mention.key for mention in mentions]).text
    return rewrite_mentions(text, mentions, lambda _: False)


def _mentions(item: dict[str, Any]) -> list[Mention]:
    entries = objects_in(item, "mentions")
    return [
        Mention(raw_text_in(entry, "key"), raw_text_in(entry, "name"), raw_text_in(entry, "id")) for entry in entries
    ]
