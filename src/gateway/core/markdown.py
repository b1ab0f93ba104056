"""Sanitising of people's text before it is put into Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

Replacement = tuple[str, int, str]
"""A marker that stands for a file (`[Image]`), the index of the occurrence to replace (from 0), and the new text."""

_ANCHOR = re.compile(r"<(?=a\b)", re.IGNORECASE)
_MENTION = re.compile(r"<(?=at)", re.IGNORECASE)
"""The `<` of tags that chats understand in upper or lower case."""


_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""Fillers, blanks and selectors that are drawn as nothing, although their Unicode category suggests otherwise."""


def is_blank(text: str) -> bool:
    """True if the text shows nothing: only white space, control characters and characters that are drawn as nothing."""
    return all(map(_is_unseen, set(text)))  # `set`: each distinct character is examined once


def _is_unseen(character: str) -> bool:
    return (
        character.isspace()
        or unicodedata.category(character) in {"Cc", "Cf"}
        or _INVISIBLE.match(character) is not None
    )


def without_links(text: str) -> str:
    """Return `text` with its links disabled: a space goes between `]` and `(`, and into `<a …>`. Idempotent.

    A link definition (`[name]: address`) stays as it is, because it shows its address.
    """
    return _ANCHOR.sub("< ", text.replace("](", "] ("))


def without_mentions(text: str) -> str:
    """Return `text` with its mentions disabled. Chats read `<at …>` as a mention, even of all members."""
    return _MENTION.sub("< ", text)


def shortened(text: str, *, chars_max: int) -> str:
    """Return `text` on one line of at most `chars_max` characters, with an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= chars_max else line[: chars_max - 1].rstrip() + "…"


def place_media(body: str, replacements: Sequence[Replacement], *, since: int = 0) -> str:
    """Return `body` from the index `since` on, with markers replaced. Nothing else changes, not even white space.

    Occurrences are counted from the beginning of `body`. Inserted text is not searched again. A replacement is ignored
    if its occurrence does not exist or begins before `since`.
    """
    placed: list[str] = []
    at = since
    for start, marker, text in sorted(_places(body, replacements)):
        if start >= at:
            placed += [body[at:start], text]
            at = start + len(marker)
    return "".join([*placed, body[at:]])


def _places(body: str, replacements: Sequence[Replacement]) -> list[tuple[int, str, str]]:
    """Return (start, marker, text) of each replacement whose occurrence exists."""
    # Each marker is searched once only. Markers and files come from outside, and a search per file could be quadratic.
    found = {marker: list(_occurrences(body, marker)) for marker in {each[0] for each in replacements} if marker}
    return [
        (found[marker][occurrence], marker, text)
        for marker, occurrence, text in replacements
        if occurrence < len(found.get(marker, ()))
    ]


def _occurrences(body: str, marker: str) -> Iterator[int]:
    at = body.find(marker)
    while at >= 0:
        yield at
        at = body.find(marker, at + len(marker))
