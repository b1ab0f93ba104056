"""The one rule for names that are stored and shown in lists, on terminals and in chats."""

from __future__ import annotations

import unicodedata

from gateway.errors import Invalid

NAME_CHARS_MAX = 200

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of the text behind them, so that a name can be shown as another one."""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that show nothing."""
_REFUSED = {"Cc": "a control character", "Cs": "half of a surrogate pair", "Zl": "a line end", "Zp": "a line end"}
_UNSEEN = frozenset({"Cf", "Zs", "Mn", "Me"})


def checked_name(text: str, field: str = "name", *, required: bool = True, chars_max: int = NAME_CHARS_MAX) -> str:
    """Return a name without the blanks around it, and with single blanks within.

    Raises Invalid, which names `field`, for a name that is too long, that holds control characters or turns the
    direction of text, or that shows nothing. An empty name is allowed if it is not `required`.
    """
    for character in text.strip():
        kind = "a character that turns the direction of text" if character in _TURNING else None
        kind = kind or _REFUSED.get(unicodedata.category(character))
        if kind is not None:
            raise _bad(field, f"the {field} holds U+{ord(character):04X}, which is {kind}")
    name = " ".join(text.split())
    if len(name) > chars_max:
        raise _bad(field, f"the {field} has {len(name)} characters; it takes {int(required)} to {chars_max}")
    if not name and not required:
        return name
    if not any(map(_is_seen, name)):
        raise _bad(field, f"the {field} shows nothing" if name else f"the {field} is empty")
    return name


def _is_seen(character: str) -> bool:
    return character not in _BLANK and unicodedata.category(character) not in _UNSEEN


def _bad(field: str, message: str) -> Invalid:
    return Invalid(f"invalid_{field}", message, field=field)
