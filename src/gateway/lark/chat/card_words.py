"""Reads the words of a card, of whichever schema and in whichever form the platform returns it. Sans-IO.

A card comes as it was sent (schema 1.0 or 2.0), wrapped in `json_card`, or degraded to a title and lines of spans. The
reader knows the tags that need a form of their own. Any other tag gives its title, its text, its address and its
children, so that a tag which is newer than this reader loses no words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from gateway.channel.message import IMAGE_MARKER
from gateway.lark.chat.kinds import CARD, bracketed_name
from gateway.lark.chat.post import fenced
from gateway.lark.chat.spans import Span, SpanKind, join, link, mark
from gateway.lark.chat.untrusted import content_fields, object_in, objects_in, text_in

UPGRADE_SENTENCE = "请升级至最新版本客户端，以查看内容"
"""The platform returns this in place of the words of a card of schema 2.0 unless it is asked for the card as sent."""

DEPTH_MAX = 12
LINES_MAX = 200
CELLS_MAX = 20

_TITLES = ("header", "title", "subtitle")
_TEXTS = ("text", "content", "label", "placeholder")
_CHILDREN = ("body", "elements", "columns", "fields", "actions", "options", "extra", "rows")
_LAYERS = ("i18n_elements", "i18n_body")
_LANGUAGES = ("i18n", "i18n_content")
_SPAN_TAGS = frozenset({"text", "a", "at", "img", "md"})


def card_words(fields: dict[str, Any]) -> str:
    """Return the words of a card, a line per element; "" if there are none, or only the platform's substitute."""
    lines: list[str] = []
    for line in _lines(_unwrapped(fields), 0):
        if line.strip() and UPGRADE_SENTENCE not in line:
            lines.append(line)
        if len(lines) == LINES_MAX:
            break
    return "\n".join(lines)


def is_substituted(fields: dict[str, Any]) -> bool:
    """True if a card has the platform's substitute in place of its words."""
    return not card_words(fields) and any(UPGRADE_SENTENCE in line for line in _lines(_unwrapped(fields), 0))


def _unwrapped(fields: dict[str, Any]) -> dict[str, Any]:
    wrapped = fields.get("json_card")
    return content_fields(wrapped) if isinstance(wrapped, str) else fields


def _lines(node: object, depth: int) -> Iterator[str]:
    if depth > DEPTH_MAX:
        return
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        yield from _lines_of_list(node, depth)
    elif isinstance(node, dict):
        yield from _lines_of_element(node, depth)


def _lines_of_list(nodes: list[Any], depth: int) -> Iterator[str]:
    """A list of spans is one paragraph; of anything else, each entry is an element."""
    if nodes and all(isinstance(node, dict) and text_in(node, "tag") in _SPAN_TAGS for node in nodes):
        yield join(_span(node) for node in nodes)
        return
    for node in nodes:
        yield from _lines(node, depth + 1)


def _lines_of_element(element: dict[str, Any], depth: int) -> Iterator[str]:
    match text_in(element, "tag"):
        case "img" | "img_combination":
            yield _picture(element)
        case "at" | "person" | "a":
            yield _span(element).text
        case "table":
            yield from _table(element)
        case "button":
            yield link(" ".join(_words_of(element, depth)), _address(element)).text
        case "hr" | "br":
            return
        case "code_block":
            yield fenced(text_in(element, "text") or text_in(element, "content"), text_in(element, "language"))
        case _:
            yield from _other(element, depth)


def _other(element: dict[str, Any], depth: int) -> Iterator[str]:
    for name in _TITLES:
        yield from _lines(element.get(name), depth + 1)
    words = list(_words_of(element, depth))
    address = _address(element)
    if address:
        yield link(" ".join(words), address).text
    else:
        yield from words
    children = [element[name] for name in _CHILDREN if name in element]
    for child in children:
        yield from _lines(child, depth + 1)
    if not words and not any(name in element for name in ("elements", "body")):
        for name in _LAYERS:
            yield from _lines(_first_layer(element.get(name)), depth + 1)


def _words_of(element: dict[str, Any], depth: int) -> Iterator[str]:
    """Yield the texts of an element itself. One in several languages gives the first that has words."""
    found = False
    for name in _TEXTS:
        for line in _lines(element.get(name), depth + 1):
            found = found or bool(line.strip())
            yield line
    for name in _LANGUAGES if not found else ():
        yield from _lines(_first_layer(element.get(name)), depth + 1)


def _first_layer(layers: object) -> object:
    """Return the first language that says anything."""
    values = layers.values() if isinstance(layers, dict) else ()
    return next((value for value in values if value), None)


def _span(span: dict[str, Any]) -> Span:
    match text_in(span, "tag"):
        case "a":
            return link(text_in(span, "text") or text_in(span, "content"), _address(span))
        case "at" | "person":
            return mark(_mention(span))
        case "img":
            return mark(_picture(span))
        case _:
            return Span(text_in(span, "text") or text_in(span, "content"), SpanKind.WORDS)


def _mention(span: dict[str, Any]) -> str:
    name = text_in(span, "user_name") or text_in(span, "name")
    shown = name or text_in(span, "user_id") or text_in(span, "id")
    return f"@{shown}" if shown else ""


def _picture(element: dict[str, Any]) -> str:
    """Return the marker of a picture, with its name if the card has one for it."""
    named = " ".join(join([Span(line) for line in _lines(element.get(name), 0)]) for name in ("title", "alt"))
    words = " ".join(named.split())
    return f"{IMAGE_MARKER[:-1]}: {words}]" if words else IMAGE_MARKER


def _address(element: dict[str, Any]) -> str:
    """Return the address that an element leads to, at any of the places where cards have one."""
    behaviours = [each for each in objects_in(element, "behaviors") if text_in(each, "type") in {"", "open_url"}]
    places = (element, object_in(element, "multi_url"), object_in(element, "card_link"), *behaviours)
    names = ("href", "url", "default_url", "pc_url", "android_url", "ios_url")
    return next((text_in(place, name) for place in places for name in names if text_in(place, name)), "")


def _table(element: dict[str, Any]) -> Iterator[str]:
    """Yield a line per row, the names of the columns first, in the form of a Markdown table."""
    columns = objects_in(element, "columns")[:CELLS_MAX]
    keys = [text_in(column, "name") for column in columns]
    yield _row(text_in(column, "display_name") or text_in(column, "name") for column in columns)
    yield _row("---" for _ in columns)
    for row in objects_in(element, "rows"):
        yield _row(_cell(row.get(key)) for key in keys)


def _row(cells: Iterable[str]) -> str:
    shown = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(shown)} |" if shown else ""


def _cell(value: object) -> str:
    """Return a cell, which may be a text, a number, an element, or a list of tags and people."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return json.dumps(value)
    return " ".join(_lines(value, DEPTH_MAX - 4))


def card_or_name(fields: dict[str, Any]) -> str:
    """Return the words of a card, or its bracketed name when it has none."""
    return card_words(fields) or bracketed_name(CARD)
