"""What a message looks like on the platform: plain text, or a card. Pure.

Cards are of schema 2.0. Every card says `update_multi`: one that does not can be patched by nobody, and the platform
answers such a patch with success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from gateway.core.markdown import shortened
from gateway.lark.chat.markdown import count_tables, divide, is_markdown

TEXT_REQUEST_BYTES_MAX = 150 * 1024
"""What the platform takes for a text message, the whole body counted."""
CARD_REQUEST_BYTES_MAX = 30 * 1024
"""The same for a card."""
CARD_TABLES_MAX = 3
"""A card with more tables may be refused as a whole."""
CARDS_MAX = 5
"""An answer that would fill more cards is sent as text, of which fewer messages hold more."""
SUMMARY_CHARS_MAX = 80

_ENVELOPE_BYTES = 1024
"""Room for everything in a request that is not the words: ids, the card around them, its summary."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message as the platform takes it: `content` is JSON inside a string, made from `words`."""

    type: Literal["text", "interactive"]
    content: str = field(repr=False)
    words: str = field(repr=False)

    @property
    def request_bytes(self) -> int:
        """What it costs in a request body, where it is encoded once more."""
        return len(msgspec.json.encode({"content": self.content}))

    @property
    def request_bytes_max(self) -> int:
        return TEXT_REQUEST_BYTES_MAX if self.type == "text" else CARD_REQUEST_BYTES_MAX


def split_answer(text: str) -> list[str]:
    """An answer as the texts of the messages that will carry it, each of which `render_answer` can render."""
    if wants_card(text):
        parts = divide(text, weight=_weight, limit=CARD_REQUEST_BYTES_MAX - _ENVELOPE_BYTES)
        if len(parts) <= CARDS_MAX:
            return parts
    return divide(text, weight=_weight, limit=TEXT_REQUEST_BYTES_MAX - _ENVELOPE_BYTES)


def wants_card(text: str) -> bool:
    """Whether a card shows `text` better than plain text does, and is able to."""
    return is_markdown(text) and count_tables(text) <= CARD_TABLES_MAX


def render_answer(text: str) -> Rendered:
    """A card for Markdown that fits into one, else plain text."""
    if wants_card(text):
        card = render_card(text)
        if card.request_bytes <= CARD_REQUEST_BYTES_MAX - _ENVELOPE_BYTES // 2:
            return card
    return render_text(text)


def render_text(text: str) -> Rendered:
    return Rendered("text", msgspec.json.encode({"text": text}).decode(), text)


def render_card(markdown: str) -> Rendered:
    """The words, and nothing around them."""
    return _card(markdown, summary=markdown)


def render_error(markdown: str) -> Rendered:
    """A card that nobody takes for an answer."""
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
    """Bytes of `text` in a request: it is encoded as JSON twice, character by character."""
    return len(msgspec.json.encode(msgspec.json.encode(text).decode())) - len(b'"\\"\\""')
