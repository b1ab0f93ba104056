"""Reads messages as REST calls return them: flat mentions, bots by their app id, a bundle as a list. Sans-IO."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.core.enrichment import Author, AuthorKind, Said
from gateway.lark.chat.content import Mention, flatten, moment, rewrite_mentions

CARD = "interactive"
BUNDLE = "merge_forward"

_CARD_DEPTH_MAX = 12
_CARD_PIECES_MAX = 200


def read_items(items: Sequence[object], *, app_id: str) -> list[Said]:
    """Read messages, in the order given. `app_id` identifies our own bot. Items without an id are left out."""
    read = (read_item(item, app_id=app_id) for item in items if isinstance(item, dict))
    return [said for said in read if said is not None]


def read_item(item: dict[str, Any], *, app_id: str) -> Said | None:
    message_id = _text(item, "message_id")
    if not message_id:
        return None
    kind = _text(item, "msg_type")
    return Said(
        message_id=message_id,
        author=_author(_object(item, "sender"), app_id),
        type=kind,
        text=_words(item, kind),
        sent_at=moment(item.get("create_time")),
        chat_id=_text(item, "chat_id"),
        thread_id=_text(item, "thread_id"),
        within=_text(item, "upper_message_id"),
        bundle=kind == BUNDLE,
        gone=item.get("deleted") is True,
    )


def card_text(content: str) -> str:
    """Return the words of a card that stand in it as plain values, a line per element; "" if there are none."""
    try:
        card = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    lines = [line for _, line in zip(range(_CARD_PIECES_MAX), _card_lines(card, 0), strict=False)]
    return "\n".join(line for line in lines if line.strip())


def _card_lines(node: object, depth: int) -> Iterator[str]:
    """Yield titles, texts and Markdown at any place in a card; a paragraph of spans is one line."""
    if depth > _CARD_DEPTH_MAX:
        return
    if isinstance(node, list):
        if node and all(isinstance(span, dict) and isinstance(span.get("text"), str) for span in node):
            yield " ".join(span["text"] for span in node if span["text"])
            return
        for element in node:
            yield from _card_lines(element, depth + 1)
    elif isinstance(node, dict):
        for name in ("header", "title", "text", "content", "body", "elements", "columns", "fields"):
            value = node.get(name)
            if isinstance(value, str):
                yield value
            else:
                yield from _card_lines(value, depth + 1)


def _author(sender: dict[str, Any], app_id: str) -> Author:
    """Return the author: a bot by its app id, a person by the open id that this app sees."""
    sender_id = _text(sender, "id")
    if _text(sender, "sender_type") == "app" or _text(sender, "id_type") == "app_id":
        return Author(sender_id, AuthorKind.ASSISTANT if sender_id == app_id else AuthorKind.BOT)
    return Author(sender_id)


def _words(item: dict[str, Any], kind: str) -> str:
    content = _text(_object(item, "body"), "content")
    mentions = _mentions(item)
    text = flatten(kind, content, placeholders=[mention.key for mention in mentions]).text
    if kind == CARD:
        text = card_text(content) or text
    return rewrite_mentions(text, mentions, lambda _: False)


def _mentions(item: dict[str, Any]) -> list[Mention]:
    entries = item.get("mentions")
    listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [Mention(_text(entry, "key"), _text(entry, "name"), _text(entry, "id")) for entry in listed]


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
