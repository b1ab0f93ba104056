"""Text of people, on its way into Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

Replacement = tuple[str, int, str]
"""A marker that stands for a file (`[Image]`), which occurrence of it (from 0), and what comes in its place."""

_ANCHOR = re.compile(r"<(?=a\b)", re.IGNORECASE)
_MENTION = re.compile(r"<(?=at)", re.IGNORECASE)
"""The `<` of tags that chats understand in whatever case."""


_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""Fillers, blanks and selectors that are drawn as nothing although their category is a visible one's, or none."""


def is_blank(text: str) -> bool:
    """Whether nobody would see anything: only white space, control characters, and those that are drawn as nothing."""
    return all(map(_is_unseen, set(text)))  # each character once, however many there are


def _is_unseen(character: str) -> bool:
    return (
        character.isspace()
        or unicodedata.category(character) in {"Cc", "Cf"}
        or _INVISIBLE.match(character) is not None
    )


def without_links(text: str) -> str:
    """`text` in which nobody can mint a link: a space between `]` and `(`, and in `<a …>`. Twice changes nothing more.

    A definition (`[name]: address`) stays as it is: it shows its address.
    """
    return _ANCHOR.sub("< ", text.replace("](", "] ("))


def without_mentions(text: str) -> str:
    """`text` that calls nobody: chats read `<at …>` as a mention, even of everybody."""
    return _MENTION.sub("< ", text)


def shortened(text: str, *, chars_max: int) -> str:
    """`text` of at most that many characters, on one line, with an ellipsis where something was cut off."""
    line = " ".join(text.split())
    return line if len(line) <= chars_max else line[: chars_max - 1].rstrip() + "…"


def place_media(body: str, replacements: Sequence[Replacement], *, since: int = 0) -> str:
    """`body` from `since` on, with files where their markers stand; nothing else changes, no white space either.

    Occurrences are counted from the beginning of `body`. What was put in is not read again; an occurrence that is not
    there, or that begins before `since`, is left out.
    """
    placed: list[str] = []
    at = since
    for start, marker, text in sorted(_places(body, replacements)):
        if start >= at:
            placed += [body[at:start], text]
            at = start + len(marker)
    return "".join([*placed, body[at:]])


def _places(body: str, replacements: Sequence[Replacement]) -> list[tuple[int, str, str]]:
    """Where each replacement goes, for those that go anywhere."""
    # Each marker is looked for once, however many files a message has: both come from outside.
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
