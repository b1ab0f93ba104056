"""Names that a platform gives for a person and a bot, made safe to show to the person who decides about a binding."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

NAME_CHARS_MAX = 80
"""A longer name is cut, so that it cannot push the rest of a page out of sight."""

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of writing. A name with one could rearrange the words beside it."""
_NOT_SHOWN = frozenset({"Cc", "Cn", "Co", "Cs"})


@dataclass(frozen=True, slots=True)
class Introduction:
    """Names as the platform gives them; "" for one that it does not give."""

    person: str = ""
    bot: str = ""


def plain_name(text: str) -> str:
    """Return a name on one line of bounded length, without characters that control a page or a terminal."""
    kept = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or (character not in _TURNING and unicodedata.category(character) not in _NOT_SHOWN)
    )
    name = " ".join(kept.split())
    return name if len(name) <= NAME_CHARS_MAX else name[: NAME_CHARS_MAX - 1] + "…"
