"""Conversion of outside values to values that a Postgres column accepts.

A platform's texts and numbers are only shown, and nothing depends on them. A value that Postgres cannot hold must not
fail the statement that carries it, because that statement settles a row, or stores the state of every bot at once.
"""

from __future__ import annotations

TEXT_CHARS_MAX = 500
_BIGINT_MAX = 2**63 - 1


def shown_text(said: str) -> str:
    """Return `said` cut to bounded length, without what a text column refuses (NUL, half of a surrogate pair)."""
    return said[:TEXT_CHARS_MAX].replace("\x00", "").encode("utf-8", "replace").decode()


def shown_code(code: int) -> int:
    """Return `code`, or 0 when it does not fit a bigint."""
    return code if -_BIGINT_MAX <= code <= _BIGINT_MAX else 0
