"""Renders a message for the platform: as plain text, or as a card. Pure.

Cards are of schema 2.0. Every card sets `update_multi`: a card without it cannot be patched, and the platform answers
such a patch with success although it has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from gateway.core.markdown import shortened
from gateway.lark.chat.markdown import count_tables, divide, is_markdown

TEXT_REQUEST_BYTES_MAX = 150 * 1024
"""The platform's limit on a text message, for the whole request body."""
CARD_REQUEST_BYTES_MAX = 30 * 1024
"""The platform's limit on a card, for the whole request body."""
CARD_TABLES_MAX = 3
"""The platform may refuse a card with more tables as a whole."""
CARDS_MAX = 5
"""An answer that would fill more cards is sent as text, because a text message holds more."""
SUMMARY_CHARS_MAX = 80

_ENVELOPE_BYTES = 1024
"""Room in a request for everything but the words: ids, the frame of the card, its summary."""


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
    if wants_card(text):
        parts = divide(text, weight=_weight, limit=CARD_REQUEST_BYTES_MAX - _ENVELOPE_BYTES)
        if len(parts) <= CARDS_MAX:
            return parts
    return divide(text, weight=_weight, limit=TEXT_REQUEST_BYTES_MAX - _ENVELOPE_BYTES)


def wants_card(text: str) -> bool:
    """True if a card shows `text` better than plain text does, and can draw all of its tables."""
    return is_markdown(text) and count_tables(text) <= CARD_TABLES_MAX


def render_answer(text: str) -> Rendered:
    """Render Markdown that fits into one card as a card, anything else as plain text."""
    if wants_card(text):
        card = render_card(text)
        if card.request_bytes <= CARD_REQUEST_BYTES_MAX - _ENVELOPE_BYTES // 2:
            return card
    return render_text(text)


def render_text(text: str) -> Rendered:
    return Rendered("text", msgspec.json.encode({"text": text}).decode(), text)


def render_card(markdown: str) -> Rendered:
    """Render a card that holds the words and nothing else."""
    return _card(markdown, summary=markdown)


def render_error(markdown: str) -> Rendered:
    """Render a card with a red header, so that it is not mistaken for an answer."""
    header = {"template": "red", "title": {"tag": "plain_text", "content": "⚠️"}}
    return _card(markdown, summary=f"⚠️ {markdown}", header=header)


def _card(words: str, *, summary: str, **parts: Any) -> Rendered:
    card = {
        "schema": "2.0",
        "config": {"update_multi": True, "summary": {"content": shortened(summary, chars_max=SUMMARY_CHARS_MAX)}},
        **parts,
        "body": {"elements": [{"tag": "markdown", "content": words}]},
    }
    return Rendered("interactive", msgspec.json.encode(card).decode(), words)


def _weight(text: str) -> int:
    """Return the bytes of `text` in a request, where it is encoded as JSON twice, character by character."""
    return len(msgspec.json.encode(msgspec.json.encode(text).decode())) - len(b'"\\"\\""')
