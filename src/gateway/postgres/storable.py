"""What others say, made fit for a column.

A platform's words and numbers are shown, and decide nothing. One that Postgres cannot hold must not fail the statement
that carries it: that statement settles a row, or stores the state of every bot at once.
"""

from __future__ import annotations

import re

import msgspec

TEXT_CHARS_MAX = 500
_BIGINT_MAX = 2**63 - 1
# An escape, and not the end of an escaped backslash before the letters u0000.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def shown_text(said: str) -> str:
    """`said` without what a text column refuses (NUL, half of a surrogate pair), of bounded length."""
    return said[:TEXT_CHARS_MAX].replace("\x00", "").encode("utf-8", "replace").decode()


def shown_code(code: int) -> int:
    """`code`, or 0 when it is no bigint."""
    return code if -_BIGINT_MAX <= code <= _BIGINT_MAX else 0


def storable_json(value: object) -> str:
    """JSON text of `value` for a jsonb column, which refuses NUL inside a text."""
    return _NUL.sub(r"\1", msgspec.json.encode(value).decode())
