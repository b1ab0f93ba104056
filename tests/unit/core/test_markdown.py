"""What nobody would see."""

from __future__ import annotations

import pytest

from gateway.core.markdown import is_blank


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\r\n\u00a0\u3000",
        "\x00\x1b",
        "\u200b\u200d\ufeff\u2060\u00ad",
        "\u3164\u115f\u1160\uffa0",
        "\u2800",
        "\ufe0f\U000e0100\U000e0041",
        "\u034f\u180e",
        " " * 1_000_000 + "\u3164" * 1_000_000,
    ],
)
def test_text_that_is_drawn_as_nothing_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", [".", "\u200b0", "\u2764\ufe0f", "\u0301", "\ufffd", "\u3163", "a" * 1_000_000])
def test_text_with_anything_to_see_is_not_blank(text: str) -> None:
    assert not is_blank(text)
