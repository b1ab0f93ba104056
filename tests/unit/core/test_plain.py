"""Answers of programs reach people without the codes of a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.plain import plain


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b[32mOK\x1b[0m done\n\x1b]0;title\x07bye", "OK done\nbye"),
        ("\x1b]8;;https://a.test\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[1;38;5;208mhi\x1b[m\x1b(B\x1b[?25h", "hi"),
        ("\x9b31mred\x9b0m", "red"),
        ("\x1b[2K⠋ thinking\r\x1b[2K⠙ thinking\rdone\n", "done\n"),
        (" 10%\r 20%\r100%\r\nnext\r\n", "100%\nnext\n"),
        ("a\bbc\x0bd", "abcd"),
        ("\ufeffwords", "words"),
        ("tab\tstays\n\nlines too", "tab\tstays\n\nlines too"),
        ("cut \ud83d here", "cut \ufffd here"),
        ("whole \U0001f600", "whole \U0001f600"),
        ("\ud83d\ude00 in two halves", "\U0001f600 in two halves"),
        ("end \x1b[", "end "),
        ("\x00\x7f", ""),
        ("", ""),
    ],
)
def test_codes_of_a_terminal_are_gone(said: str, shown: str) -> None:
    assert plain(said) == shown


@given(st.text())
def test_plain_text_can_be_stored_and_stays_as_it_is(said: str) -> None:
    once = plain(said)
    assert "\x00" not in once
    once.encode()
    assert plain(once) == once
