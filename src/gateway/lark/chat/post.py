"""Reads rich text (`post`): a title, and paragraphs of spans. Sans-IO."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from gateway.channel.message import IMAGE_MARKER, MediaRef, MessageType
from gateway.lark.chat.kinds import VIDEO_MARKER, reference
from gateway.lark.chat.spans import Span, SpanKind, join, link, mark
from gateway.lark.chat.untrusted import list_in, raw_text_in, text_in

_BACKTICKS = re.compile("`{3,}")


def read_post(fields: dict[str, Any], placeholders: Collection[str]) -> tuple[str, tuple[MediaRef, ...]]:
    """Return the text and the files of a rich text: the title, then a line per paragraph.

    A key of `placeholders` in a mention is kept, because the caller knows the name for it.
    """
    layer = _layer(fields)
    paragraphs = [_spans_of(paragraph) for paragraph in _paragraphs(layer)]
    title = text_in(layer, "title")
    lines = [join(_span(span, placeholders) for span in spans) for spans in paragraphs]
    media = [ref for spans in paragraphs for span in spans for ref in _media(span)]
    return "\n".join([title, *lines] if title else lines).rstrip("\n"), tuple(media)


def _layer(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the object with title and content. Senders may wrap it in a layer per language; the first one is read."""
    if "content" in fields or "title" in fields:
        return fields
    layers = [value for value in fields.values() if isinstance(value, dict)]
    return next((layer for layer in layers if "content" in layer or "title" in layer), {})


def _paragraphs(layer: dict[str, Any]) -> list[Any]:
    """Return the paragraphs. Spans that stand in no paragraph of their own are a paragraph together."""
    paragraphs: list[Any] = []
    loose: list[Any] = []
    for entry in list_in(layer, "content"):
        if isinstance(entry, dict):
            if not loose:
                paragraphs.append(loose)
            loose.append(entry)
        else:
            loose = []
            paragraphs.append(entry)
    return paragraphs


def _spans_of(paragraph: object) -> list[dict[str, Any]]:
    return [span for span in paragraph if isinstance(span, dict)] if isinstance(paragraph, list) else []


def _span(span: dict[str, Any], placeholders: Collection[str]) -> Span:
    match text_in(span, "tag"):
        case "a":
            return link(text_in(span, "text"), text_in(span, "href"))
        case "at":
            return mark(_mention(text_in(span, "user_id"), text_in(span, "user_name"), placeholders))
        case "img":
            return mark(IMAGE_MARKER)
        case "media":
            return mark(VIDEO_MARKER)
        case "hr":
            return mark("---")
        case "emotion":
            return Span("")
        case "code_block":
            return Span(fenced(text_in(span, "text"), text_in(span, "language")), SpanKind.BLOCK)
        case _:
            # Unknown tags: a newer one may carry its words under either name.
            return Span(text_in(span, "text") or text_in(span, "content"))


def _mention(user_id: str, user_name: str, placeholders: Collection[str]) -> str:
    """Return the mention's placeholder if the message lists it, else the name in the span."""
    if user_id in placeholders or not user_name:
        return user_id
    return f"@{user_name}"


def fenced(code: str, language: str) -> str:
    """Return a code block in a fence that the code itself cannot close."""
    longest = max((len(run) for run in _BACKTICKS.findall(code)), default=2)
    fence = "`" * max(3, longest + 1)
    named = "".join(language.split()).replace("`", "").lower()
    body = code.removesuffix("\n")
    return f"{fence}{named}\n{body}\n{fence}"


def _media(span: dict[str, Any]) -> tuple[MediaRef, ...]:
    match text_in(span, "tag"):
        case "img":
            return reference(MessageType.IMAGE, raw_text_in(span, "image_key"))
        case "media":
            return reference(MessageType.VIDEO, raw_text_in(span, "file_key"), text_in(span, "file_name"))
        case _:
            return ()
