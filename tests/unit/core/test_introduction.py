from __future__ import annotations

import pytest

from gateway.core.introduction import NAME_CHARS_MAX, plain_name


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("Eve", "Eve"),
        ("  Eve \t of\nElsewhere ", "Eve of Elsewhere"),
        ("Eve\u202eevE\u2066", "EveevE"),
        ("Eve\x1b[2J\x00", "Eve[2J"),
        ("王小明", "王小明"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\ud800", ""),
        ("", ""),
        ("x" * NAME_CHARS_MAX, "x" * NAME_CHARS_MAX),
        ("x" * (NAME_CHARS_MAX + 1), "x" * (NAME_CHARS_MAX - 1) + "…"),
    ],
)
def test_name_from_outside_is_one_short_line_that_steers_nothing(told: str, shown: str) -> None:
    assert plain_name(told) == shown
