"""Cards as the platform returns them to readers: degraded, unless the reader asks for them as they were sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

UPGRADE_SENTENCE = "请升级至最新版本客户端，以查看内容"
CARD = "interactive"
AS_SENT = "user_card_content"
WRAPPED = "raw_card_content"
FORMS = ("", AS_SENT, WRAPPED)


def card_content(content: str, form: str) -> str:
    """Return the content of a card in the form that a reader asked for by `card_msg_content_type`."""
    if form == AS_SENT:
        return content
    if form == WRAPPED:
        return json.dumps({"json_card": content}, ensure_ascii=False)
    return json.dumps(_degraded(json.loads(content)), ensure_ascii=False)


def card_lines(node: object) -> Iterator[str]:
    """Give the words of a card's body, and the addresses of its buttons, one by one."""
    if isinstance(node, list):
        for child in node:
            yield from card_lines(child)
    elif isinstance(node, dict):
        for key in ("content", "default_url"):
            if isinstance(node.get(key), str):
                yield node[key]
        for key in ("text", "behaviors", "elements"):
            yield from card_lines(node.get(key))


def _degraded(card: Any) -> dict[str, Any]:
    """Return a card as a title and lines of spans. Of schema 2.0 only a sentence is left."""
    if not isinstance(card, dict):
        return {"title": None, "elements": []}
    if card.get("schema") == "2.0" or card.get("type") == "card":
        return {"title": None, "elements": [[{"tag": "text", "text": UPGRADE_SENTENCE}]]}
    if "header" not in card and isinstance(card.get("title"), str | None) and "title" in card:
        return card  # It has the degraded form already: a person's client sent it so.
    title = card.get("header", {}).get("title", {}).get("content")
    return {"title": title, "elements": [list(_spans(element)) for element in card.get("elements", ())]}


def _spans(element: dict[str, Any]) -> Iterator[dict[str, Any]]:
    match element.get("tag"):
        case "div":
            texts = [element.get("text"), *(field.get("text") for field in element.get("fields", ()))]
            yield from ({"tag": "text", "text": text["content"]} for text in texts if text)
        case "markdown" | "plain_text" | "lark_md":
            yield {"tag": "text", "text": element.get("content", "")}
        case "img":
            yield {"tag": "img", "image_key": element.get("img_key", "")}
        case "hr":
            yield {"tag": "hr"}
        case "button":
            yield {"tag": "button", "text": element.get("text", {}).get("content", ""), "type": element.get("type", "")}
        case _:
            for child in (*element.get("actions", ()), *element.get("elements", ())):
                yield from _spans(child)
