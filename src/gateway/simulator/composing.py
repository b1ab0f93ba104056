"""Composes messages as the app of a person does: from typed text and attachments to a message's type and content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gateway.simulator.messages import PlacedMention
from gateway.simulator.resources import Attachment, ResourceStore


def compose(
    store: ResourceStore,
    message_type: str,
    text: str,
    mentions: Sequence[PlacedMention],
    attachments: Sequence[Attachment],
) -> tuple[str, dict[str, Any]]:
    """Return the type and content of a message.

    One attachment without text is a message of its kind. Attachments with text, or several of them, are a post. Raises
    ValueError for a post with attachments other than pictures and videos.
    """
    if message_type == "post" or (attachments and (text or len(attachments) > 1)):
        lines = [_spans(line, mentions) for line in text.splitlines()]
        return "post", {"title": "", "content": [*lines, *([_span(store, one)] for one in attachments)]}
    if attachments:
        return attachments[0].kind, store.content(attachments[0])
    return message_type, {"text": text}


def place_attachments(store: ResourceStore, content: dict[str, Any], attachments: Sequence[Attachment]) -> Any:
    """Store the attachments, and return `content` with their keys.

    An `image_key` or `file_key` that holds an attachment's name gets that attachment's key.
    """
    keys = {attachment.name: store.add(attachment) for attachment in attachments}

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: keys.get(inner, inner) if name in ("image_key", "file_key") else placed(inner)
            for name, inner in value.items()
        }

    return placed(content)


def _span(store: ResourceStore, attachment: Attachment) -> dict[str, Any]:
    if attachment.kind == "image":
        return {"tag": "img", "image_key": store.add(attachment), "width": 1, "height": 1}
    if attachment.kind == "media":
        content = store.content(attachment)
        return {"tag": "media", "file_key": content["file_key"], "image_key": content["image_key"]}
    raise ValueError(f"a post holds pictures and videos, no {attachment.kind}")


def _spans(line: str, mentions: Sequence[PlacedMention]) -> list[dict[str, Any]]:
    """Return the spans of one paragraph: texts, and an `at` for each mention's placeholder."""
    by_key = {mention.key: mention for mention in mentions}
    return [
        {"tag": "at", "user_id": part, "user_name": by_key[part].name, "style": []}
        if part in by_key
        else {"tag": "text", "text": part, "style": []}
        for part in re.split(r"(@_user_\d+)", line)
        if part
    ]
