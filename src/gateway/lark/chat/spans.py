"""Joins the spans of a paragraph: words stay as they were written, and what is no word stands apart from them. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

_SCHEMES = ("https://", "http://")
_OPENING = frozenset({"Ps", "Pi"})
_CLOSING = frozenset({"Pe", "Pf"})
_STOPS = frozenset(".,;:!?…'\"。，、；：！？．")
"""Punctuation that ends what stands before it, beside closing brackets and quotation marks."""


class SpanKind(Enum):
    WORDS = "words"
    MARK = "mark"
    """A mention, a link or a picture."""
    ADDRESS = "address"
    """A link that shows its own address. The platform may cut a long one, and send the rest as words."""
    BLOCK = "block"
    """Something that takes lines of its own."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a paragraph in the form in which it is shown."""

    text: str
    kind: SpanKind = SpanKind.WORDS


def mark(text: str) -> Span:
    return Span(text, SpanKind.MARK)


def link(words: str, address: str) -> Span:
    """Return a link as `words (address)`. One whose words are its address is shown once."""
    if not words or not address:
        return mark(words or address)
    if _bare(words) == _bare(address):
        return Span(address if len(address) >= len(words) else words, SpanKind.ADDRESS)
    return mark(f"{words} ({address})")


def join(spans: Iterable[Span]) -> str:
    """Join spans with nothing between them, but for a blank where words touch a mention, a link or a picture.

    Punctuation needs no blank: `(`, a link and `).` stay together.
    """
    joined: list[str] = []
    last: Span | None = None
    for span in spans:
        if not span.text:
            continue
        if last is not None:
            joined.append(_between(last, span))
        joined.append(span.text)
        last = span
    return "".join(joined)


def _between(left: Span, right: Span) -> str:
    if SpanKind.BLOCK in {left.kind, right.kind}:
        return "\n"
    return " " if _needs_blank(left, right) else ""


def _needs_blank(left: Span, right: Span) -> bool:
    before, after = left.text[-1], right.text[0]
    if (left.kind, right.kind) == (SpanKind.WORDS, SpanKind.WORDS) or before.isspace() or after.isspace():
        return False
    # The rest of an address is printable ASCII.
    if left.kind is SpanKind.ADDRESS and right.kind is SpanKind.WORDS and "!" <= after <= "~":
        return False
    if left.kind is SpanKind.WORDS and unicodedata.category(before) in _OPENING:
        return False
    return not (right.kind is SpanKind.WORDS and (after in _STOPS or unicodedata.category(after) in _CLOSING))


def _bare(address: str) -> str:
    scheme = next((each for each in _SCHEMES if address.lower().startswith(each)), "")
    return address[len(scheme) :].rstrip("/")
