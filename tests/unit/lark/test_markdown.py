"""Markdown is recognised, and long answers are divided without losing words or breaking code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lark.chat.markdown import count_tables, divide, is_markdown


@pytest.mark.parametrize(
    "text",
    [
        "**bold** statement",
        "call __init__ then run",
        "run `make check` first",
        "  - indented bullet",
        "* star",
        "+ plus",
        "intro\n1. first",
        "# Title",
        "###### deep",
        "> said",
        "above\n---\nbelow",
        "***",
        "___",
        "| a | b |",
        "[words](https://example.test)",
        "```\ncode\n```",
        "an open ``` fence",
    ],
)
def test_markdown_is_recognised(text: str) -> None:
    assert is_markdown(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sure, on it",
        "Hello, world. How are you?",
        "我已经创建了 issue MUL-42",
        "#hashtag",
        "####### seven",
        "-5 degrees",
        "2.5 metres",
        "a > b",
        ">quoted without a blank",
        "--",
        "a | b",
        "snake_case_name and __dunder",
        "one ` alone",
        "[not a link] (spaced)",
        "5 * 3 * 2",
        "**",
        "an email: a@example.test",
    ],
)
def test_prose_is_no_markdown(text: str) -> None:
    assert not is_markdown(text)


def test_tables_are_counted_outside_of_code_only() -> None:
    table = "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n"
    assert count_tables(table * 4) == 4
    assert count_tables(f"```\n{table}```\n{table}") == 1
    assert count_tables("a\n---\nb") == 0


def test_short_text_is_left_alone() -> None:
    assert divide("  one\n\ntwo \n", weight=len, limit=100) == ["  one\n\ntwo \n"]


def test_long_text_is_cut_between_paragraphs() -> None:
    assert divide("one two\n\nthree\n\nfour five", weight=len, limit=16) == ["one two\n\nthree", "four five"]


def test_code_block_that_fits_is_never_cut() -> None:
    code = "```py\na = 1\n\nb = 2\n```"
    assert divide(f"words before\n{code}\nwords after", weight=len, limit=26) == ["words before", code, "words after"]


def test_code_block_that_is_too_long_is_closed_and_opened_again() -> None:
    body = "\n".join(f"line {n}" for n in range(12))
    parts = divide(f"```py\n{body}\n```\nend", weight=len, limit=50)
    code = parts if parts[-1].endswith("```") else parts[:-1]
    assert all(part.startswith("```py\n") for part in code)
    assert all(part.count("```") == 2 for part in code)
    assert "".join(parts).count("line") == 12


def test_line_without_a_blank_is_cut_anywhere() -> None:
    parts = divide("x" * 95, weight=len, limit=10)
    assert "".join(parts) == "x" * 95
    assert max(map(len, parts)) <= 10


def test_line_is_cut_after_a_blank_where_one_is_near() -> None:
    assert divide("alpha beta gamma", weight=len, limit=12)[0] == "alpha beta "


def _weight(text: str) -> int:
    return len(text.encode())


@given(st.lists(st.sampled_from(["word ", "\n", "\n\n", "```py\n", "```\n", "~~~\n", "漢字", "|a|b|\n", "x" * 30])))
def test_divided_text_keeps_its_words_and_every_part_fits(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = divide(text, weight=_weight, limit=60)
    assert all(_weight(part) <= 60 for part in parts)
    kept = [character for part in parts for character in part if character not in "`~\n py "]
    assert kept == [character for character in text if character not in "`~\n py "]
