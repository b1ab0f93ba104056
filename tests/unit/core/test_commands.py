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


@given(st.text(alphabet="[]()!< aA\n"))
def test_text_without_links_stays_as_it_is_the_second_time(text: str) -> None:
    once = without_links(text)
    assert "](" not in once
    assert "<a " not in once.lower()
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


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x85", "\r"])
def test_directive_with_a_line_end_of_another_kind_is_found_behind_its_quotation(odd: str) -> None:
    words = f"/issue a{odd}b\nmine"
    assert description_of(f"/issue a{odd}b\nquoted\n{words}", words, fallback="") == "mine"
    assert description_of("rewritten", words, fallback="fallback") == "fallback"


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


@pytest.mark.parametrize(
    "words",
    [
        "/issue\u3000Fix",
        "\u3000/issue Fix",
        "\u00a0/issue\u00a0Fix",
        "\ufeff/issue Fix",
        "\u200b\u2060/issue Fix\u200b",
        "\u2028/issue\u2003Fix\u2003",
        "[Image]\n/issue Fix",
        "[Image] /issue Fix",
        "[Image][File]\n\n /issue Fix",
    ],
)
def test_command_is_found_behind_what_is_no_word(words: str) -> None:
    found = parse_command(words)
    assert isinstance(found, FileIssue)
    assert found.title == "Fix"
    assert isinstance(parse_command(words.replace("/issue", "/new")), StartFresh)


@pytest.mark.parametrize(
    "words", ["x /issue Fix", "[image] /issue Fix", "/issue\u0301 Fix", "[Image] about /issue Fix"]
)
def test_command_behind_words_is_none(words: str) -> None:
    assert parse_command(words) is None


@pytest.mark.parametrize("words", ["/confirm", " \ufeff/confirm\u3000", "/confirm\n\u200b\n"])
def test_confirmation_may_have_blanks_around_it(words: str) -> None:
    assert parse_command(words) == Confirm()


@pytest.mark.parametrize(
    ("words", "title", "description"),
    [
        ("[Image]\n/issue Fix\nmore", "Fix", "P0\n\nmore"),
        ("/issue Fix [Image] now\nmore", "Fix now", "P0\n\nmore"),
        ("/issue Fix\n[Image]\nmore [Image]", "Fix", "P0\nmore P1"),
        ("[Image] /issue [Image] Fix", "Fix", "P0\nP1"),
        ("/issue [Image]", "", "P0"),
    ],
)
def test_picture_above_beside_or_below_is_in_the_description(words: str, title: str, description: str) -> None:
    places = [("[Image]", occurrence, f"P{occurrence}") for occurrence in range(2)]
    body = f"quoted [Image]\n/issue Fix\n\n{words}"
    given = [("[Image]", occurrence + 1, text) for _, occurrence, text in places]
    command = parse_issue(words)
    assert command is not None
    assert command.title == title
    assert description_with_media(words, words, places, fallback="lost") == (description, True)
    assert description_with_media(body, words, given, fallback="lost") == (description, True)
    assert command.description == description_of(words, words, fallback="lost")


def test_command_behind_a_mention_is_found_in_the_body() -> None:
    assert description_of("@Bo Li /issue Fix\nmore", "/issue Fix\nmore", fallback="lost") == "more"
    assert fresh_body("@Bo /new look\nthere", "/new look\nthere", fallback="lost") == "look\nthere"
