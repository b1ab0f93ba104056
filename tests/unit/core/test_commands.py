from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.commands import (
    Confirm,
    FileIssue,
    StartFresh,
    description_of,
    description_with_media,
    fresh_body,
    parse_command,
    parse_fresh,
    parse_issue,
    title_from,
)
from gateway.core.markdown import place_media, shortened, without_links

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parent / "cases" / "commands.json").read_bytes()
)


def cases(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("given", "expected"),
        [pytest.param(case["input"], case["expected"], id=case["name"]) for case in CASES[group]],
    )


@cases("issue_command")
def test_issue_command_is_read_as_expected(given: str, expected: dict[str, str] | None) -> None:
    assert parse_issue(given) == (None if expected is None else FileIssue(**expected))


@cases("fresh_command")
def test_fresh_command_is_read_as_expected(given: str, expected: str | None) -> None:
    assert parse_fresh(given) == expected


@cases("previous_message_title")
def test_title_from_a_former_message_is_as_expected(given: str, expected: str) -> None:
    assert title_from(given) == expected


@cases("issue_description")
def test_description_from_the_body_is_as_expected(given: dict[str, str], expected: str) -> None:
    assert description_of(given["body"], given["command_text"], fallback=given["fallback"]) == expected


@cases("inline_media")
def test_media_are_placed_where_their_markers_stand(given: dict[str, Any], expected: str | dict[str, Any]) -> None:
    replacements = [(marker, occurrence, text) for marker, occurrence, text in given["replacements"]]
    if isinstance(expected, str):
        assert place_media(given["body"], replacements) == expected
    else:
        placed = description_with_media(given["body"], given["command_text"], replacements, fallback=given["fallback"])
        assert placed == (expected["text"], expected["changed"])


@given(st.text(alphabet="[Image] \n\rx"), st.lists(st.integers(0, 3)))
def test_media_of_no_consequence_change_nothing(body: str, occurrences: list[int]) -> None:
    assert place_media(body, [("[Image]", occurrence, "[Image]") for occurrence in occurrences]) == body


@cases("link_adjacency")
def test_text_without_links_is_as_expected(given: str, expected: str) -> None:
    assert without_links(given) == expected


@given(st.text(alphabet="[]()! a\n"))
def test_text_without_links_stays_as_it_is_the_second_time(text: str) -> None:
    once = without_links(text)
    assert "](" not in once
    assert without_links(once) == once


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("/new /issue x", StartFresh("/issue x")),
        ("/confirm", Confirm()),
        (" \n/confirm \n", Confirm()),
        ("/confirm that it works", None),
        ("/issue x", FileIssue("x", "")),
        ("hello", None),
        ("", None),
    ],
)
def test_command_of_somebodys_words_is_one_or_none(words: str, command: object) -> None:
    assert parse_command(words) == command


@given(st.text(alphabet="/isuenwcofrm \t\n\r\0x"))
def test_command_of_any_words_is_read_without_a_failure(words: str) -> None:
    parse_command(words)
    title_from(words)
    assert description_of(words, words, fallback=words) is not None
    assert fresh_body(words, words, fallback=words) is not None


@pytest.mark.parametrize(
    ("body", "words", "expected"),
    [
        ("/new start over", "/new start over", "start over"),
        ("quoted: /new\n\n/new start\nover", "/new start\nover", "quoted: /new\n\nstart\nover"),
        ("something else", "/new start", "fallback"),
    ],
)
def test_fresh_body_keeps_what_was_added_above(body: str, words: str, expected: str) -> None:
    assert fresh_body(body, words, fallback="fallback") == expected


def test_shortened_text_is_one_line_of_bounded_length() -> None:
    assert shortened(" two\nlines ", chars_max=10) == "two lines"
    assert shortened("x" * 11, chars_max=10) == "x" * 9 + "…"
