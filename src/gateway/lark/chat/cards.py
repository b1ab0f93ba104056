"""Renders a message for the platform: as plain text, or as a card. Pure.

Cards are of schema 2.0. Every card sets `update_multi`: a card without it cannot be patched, and the platform answers
such a patch with success although it has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from gateway.core.markdown import shortened
from gateway.core.replies import Button
from gateway.lark.chat.markdown import divide, divide_plain, read_markdown

TEXT_REQUEST_BYTES_MAX = 150 * 1024
"""The platform's limit on a text message, for the whole request body."""
CARD_REQUEST_BYTES_MAX = 30 * 1024
"""The platform's limit on a card, for the whole request body."""
CARD_TABLES_MAX = 3
"""The platform may refuse a card with more tables as a whole."""
CARDS_MAX = 5
"""An answer that would fill more cards is sent as text, because a text message holds more."""
PARSED_BYTES_MAX = CARDS_MAX * CARD_REQUEST_BYTES_MAX
"""A longer answer is sent as text without being parsed."""
SUMMARY_CHARS_MAX = 80

_ENVELOPE_BYTES = 1024
"""Room in a request for everything but the words: ids, the frame of the card, its summary."""


_CALL_TO_ALL = re.compile(
    r"""<at\s[^<>]{0,100}id\s{0,4}=\s{0,4}["']?all\b[^<>]{0,100}>(?:[^<>]{0,100}</at>)?""", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message in the platform's form: `content` is JSON inside a string, made from `words`."""

    type: Literal["text", "interactive"]
    content: str = field(repr=False)
    words: str = field(repr=False)

    @property
    def request_bytes(self) -> int:
        """The bytes that the content takes in a request body, where it is encoded as JSON once more."""
        return len(msgspec.json.encode({"content": self.content}))

    @property
    def request_bytes_max(self) -> int:
        return TEXT_REQUEST_BYTES_MAX if self.type == "text" else CARD_REQUEST_BYTES_MAX


def split_answer(text: str) -> list[str]:
    """Split an answer into the texts of its messages, each of which `render_answer` can render."""
    weight, limit = _weight(text), CARD_REQUEST_BYTES_MAX - _ENVELOPE_BYTES
    read = read_markdown(text) if weight <= PARSED_BYTES_MAX else None
    if read is not None and read.markup:
        if weight <= limit and read.tables <= CARD_TABLES_MAX:
            return [text]
        parts = divide(read.blocks, weight=_weight, limit=limit, tables_max=CARD_TABLES_MAX)
        if len(parts) <= CARDS_MAX:
            return parts
    if weight <= TEXT_REQUEST_BYTES_MAX - _ENVELOPE_BYTES:
        return [text]
    return divide_plain(text, weight=_weight, limit=TEXT_REQUEST_BYTES_MAX - _ENVELOPE_BYTES)


def render_answer(text: str) -> Rendered:
    """Render Markdown that fits into one card as a card, anything else as plain text.

    Pictures by address become links, because the platform refuses a card with one as a whole.
    """
    read = read_markdown(text) if len(text) <= CARD_REQUEST_BYTES_MAX else None
    if read is not None and read.markup and read.tables <= CARD_TABLES_MAX:
        card = render_card(read.text)
        if card.request_bytes <= CARD_REQUEST_BYTES_MAX - _ENVELOPE_BYTES // 2:
            return card
    return render_text(text)


def without_calls_to_all(text: str) -> str:
    """Return `text` with every tag that would call all members of the chat shown as words."""
    return _CALL_TO_ALL.sub("@all", text)


def render_text(text: str) -> Rendered:
    return Rendered("text", msgspec.json.encode({"text": text}).decode(), text)


def render_card(markdown: str) -> Rendered:
    """Render a card that holds the words and nothing else."""
    return _card(markdown, summary=markdown)


def render_error(markdown: str) -> Rendered:
    """Render a card with a red header, so that it is not mistaken for an answer."""
    header = {"template": "red", "title": {"tag": "plain_text", "content": "⚠️"}}
    return _card(markdown, summary=f"⚠️ {markdown}", header=header)


def render_notice(text: str, title: str) -> Rendered:
    """Render a card with a heading above the words."""
    header = {"template": "blue", "title": {"tag": "plain_text", "content": title}}
    return _card(text, summary=text, header=header)


def render_question(text: str, button: Button) -> Rendered:
    """Render a card whose button leads where the link at the end of `text` leads."""
    drawn = {
        "tag": "button",
        "type": "primary",
        "text": {"tag": "plain_text", "content": button.label},
        "behaviors": [{"type": "open_url", "default_url": button.url}],
    }
    words = text.removesuffix(button.url).rstrip()
    return _card(words, summary=words, elements=[drawn])


def _card(words: str, *, summary: str, elements: Sequence[dict[str, Any]] = (), **parts: Any) -> Rendered:
    card = {
        "schema": "2.0",
        "config": {"update_multi": True, "summary": {"content": shortened(summary, chars_max=SUMMARY_CHARS_MAX)}},
        **parts,
        "body": {"elements": [{"tag": "markdown", "content": words}, *elements]},
    }
    return Rendered("interactive", msgspec.json.encode(card).decode(), words)


def _weight(text: str) -> int:
    """Return the bytes of `text` in a request, where it is encoded as JSON twice, character by character."""
    return len(msgspec.json.encode(msgspec.json.encode(text).decode())) - len(b'"\\"\\""')
