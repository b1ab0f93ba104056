"""What may be a name, wherever one is stored."""

from __future__ import annotations

import pytest

from gateway.core.naming import checked_name
from gateway.errors import Invalid


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Helper", "Helper"),
        ("  Helper \n", "Helper"),
        ("研发  部", "研发 部"),
        ("עוזר", "עוזר"),
        ("مساعد", "مساعد"),
        ("नमस्ते", "नमस्ते"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("e\u0301", "e\u0301"),
        ("a\u00a0b", "a b"),
        ("x" * 200, "x" * 200),
        ("'; drop table agent; --", "'; drop table agent; --"),
    ],
)
def test_name_of_any_script_is_kept(text: str, name: str) -> None:
    assert checked_name(text) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \t\n", "is empty"),
        ("a\x00b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\tb", "U+0009"),
        ("\x1b[31mred", "U+001B"),
        ("a\x7f", "U+007F"),
        ("a\x9bm", "U+009B"),
        ("a\u2028b", "U+2028"),
        ("nimdA\u202e", "U+202E"),
        ("\u2067a\u2069", "U+2067"),
        ("a\ud800", "U+D800"),
        ("\u200b", "shows nothing"),
        ("\ufeff\u200d\u2060", "shows nothing"),
        ("\u3164", "shows nothing"),
        ("\u2800", "shows nothing"),
        ("\u0301", "shows nothing"),
        ("\u00ad \u200b", "shows nothing"),
        ("x" * 201, "201 characters"),
    ],
)
def test_name_that_would_mislead_is_refused_with_its_field(text: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked_name(text, "title")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert (caught.value.code, caught.value.extra["field"]) == ("invalid_title", "title")


def test_name_that_is_not_required_may_be_empty_but_not_unseen() -> None:
    assert checked_name(" ", required=False) == ""
    with pytest.raises(Invalid):
        checked_name("\u200b", required=False)
