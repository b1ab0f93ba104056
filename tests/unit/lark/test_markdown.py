"""Markdown is recognised, and long answers are divided without losing words or breaking code."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lark.chat.markdown import divide, divide_plain, is_markdown, read_markdown


def divided(text: str, limit: int, *, tables_max: int = 3) -> list[str]:
    return divide(read_markdown(text).blocks, weight=_weight, limit=limit, tables_max=tables_max)


def _weight(text: str) -> int:
    return len(text.encode())


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
    assert read_markdown(table * 4).tables == 4
    assert read_markdown(f"```\n{table}```\n{table}").tables == 1
    assert read_markdown("a\n---\nb").tables == 0


def test_long_text_is_cut_between_paragraphs() -> None:
    assert divided("one two\n\nthree\n\nfour five", 16) == ["one two\n\nthree", "four five"]


def test_code_block_that_fits_is_never_cut() -> None:
    code = "```py\na = 1\n\nb = 2\n```"
    assert divided(f"words before\n{code}\nwords after", 26) == ["words before", code, "words after"]


def test_code_block_that_is_too_long_is_closed_and_opened_again() -> None:
    body = "\n".join(f"line {n}" for n in range(12))
    parts = divided(f"```py\n{body}\n```\nend", 50)
    code = parts if parts[-1].endswith("```") else parts[:-1]
    assert all(part.startswith("```py\n") for part in code)
    assert all(part.count("```") == 2 for part in code)
    assert "".join(parts).count("line") == 12


def test_line_without_a_blank_is_cut_anywhere() -> None:
    parts = divided("x" * 95, 10)
    assert "".join(parts) == "x" * 95
    assert max(map(len, parts)) <= 10


def test_line_is_cut_after_a_blank_where_one_is_near() -> None:
    assert divided("alpha beta gamma", 12)[0] == "alpha beta "


@given(st.lists(st.sampled_from(["word ", "\n", "\n\n", "```py\n", "```\n", "~~~\n", "漢字", "|a|b|\n", "x" * 30])))
def test_divided_text_keeps_its_words_and_every_part_fits(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = divided(text, 60)
    assert all(_weight(part) <= 60 for part in parts)
    kept = [character for part in parts for character in part if character not in "`~\n py "]
    assert kept == [character for character in text if character not in "`~\n py "]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![cat](https://img.test/c.png)", "[cat](https://img.test/c.png)"),
        ("![](https://img.test/c.png)", "[Image](https://img.test/c.png)"),
        ("- a\n  ![b](https://b.test) and ![c](https://c.test)", "- a\n  [b](https://b.test) and [c](https://c.test)"),
        ("> ![q](https://q.test)\nlazy ![r](https://r.test)", "> [q](https://q.test)\nlazy [r](https://r.test)"),
        ("a|b\n-|-\n![1](https://1.test) | `![` ![2](https://2.test)",
         "a|b\n-|-\n[1](https://1.test) | `![` [2](https://2.test)"),
        ("`![x](https://x.test)` ![y](https://y.test)", "`![x](https://x.test)` [y](https://y.test)"),
        ("```\n![x](https://x.test)\n```", "```\n![x](https://x.test)\n```"),
        ("[![badge](https://b.test)](https://l.test)", "[[badge](https://b.test)](https://l.test)"),
        ("![ours](img_v2_key) ![theirs](https://t.test)", "![ours](img_v2_key) [theirs](https://t.test)"),
        ("\\![no](https://n.test) ![yes](https://y.test)", "\\![no](https://n.test) [yes](https://y.test)"),
        ("see ![a][ref]\n\n[ref]: https://a.test", "see [a][ref]\n\n[ref]: https://a.test"),
    ],
)  # fmt: skip
def test_picture_by_address_becomes_a_link(text: str, shown: str) -> None:
    assert read_markdown(text).text == shown


@pytest.mark.parametrize("text", ["a | b\n---|---\n1 | 2", "See [wiki](https://en.test/A_(b))", "~~gone~~", "1) one"])
def test_forms_that_patterns_missed_are_markdown(text: str) -> None:
    assert is_markdown(text)


@pytest.mark.parametrize(
    "text", [">_<", ">:( no", '<at user_id="ou_1"></at> hi', "<b>bold</b>", "    indented", "a*b*c"]
)
def test_what_cards_would_not_show_better_is_prose(text: str) -> None:
    assert not is_markdown(text)


def test_table_that_is_too_long_repeats_its_head() -> None:
    rows = "".join(f"| row {n} | x |\n" for n in range(20))
    parts = divided(f"| a | b |\n|---|---|\n{rows}", 120)
    assert len(parts) > 2
    assert all(part.startswith("| a | b |\n|---|---|\n") for part in parts)
    assert "".join(parts).count("row") == 20


def test_list_that_is_too_long_is_cut_between_its_items() -> None:
    text = "".join(f"- item {n}\n  more of it\n" for n in range(9))
    parts = divided(text, 60)
    assert all(part.startswith("- item") for part in parts)
    assert all(part.endswith("more of it") for part in parts)


def test_tables_beyond_those_of_a_part_go_to_the_next_one() -> None:
    table = "a | b\n---|---\n1 | 2\n\n"
    assert [part.count("---|---") for part in divided(table * 7, 10_000)] == [3, 3, 1]


def test_plain_text_is_cut_between_lines() -> None:
    assert divide_plain("one\ntwo\n\nthree", weight=len, limit=9) == ["one\ntwo", "three"]


@pytest.mark.parametrize("unit", ["[", "![", "*a ", "- a\n", "a|b\n-|-\n", "[a][", "> ", "`", "``a`"])
def test_reading_takes_linear_time(unit: str) -> None:
    def seconds(chars: int) -> float:
        text = (unit * chars)[:chars]
        begun = time.thread_time()
        read_markdown(text)
        return time.thread_time() - begun

    seconds(1_000)
    short, long = (min(seconds(chars) for _ in range(3)) for chars in (1_500, 6_000))
    assert long < 12 * short + 0.01
