from __future__ import annotations

import string

import pytest

from gateway.core.replies import QUOTE_CHARS_MAX, WORDS, Reply, identifier, issue_link, quoted, say


@pytest.mark.parametrize("language", sorted(WORDS))
def test_every_language_says_everything_with_the_same_values(language: str) -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert set(WORDS[language]) == set(Reply)
    assert {reply: fields(text) for reply, text in WORDS[language].items()} == {
        reply: fields(text) for reply, text in WORDS["en"].items()
    }


def test_language_that_is_not_ours_becomes_english() -> None:
    assert say(Reply.NOTHING_TO_CONFIRM, "tlh") == WORDS["en"][Reply.NOTHING_TO_CONFIRM]


def test_values_with_braces_are_not_read_as_fields() -> None:
    assert say(Reply.ISSUE_CREATED, "en", issue="A-1", title="{title}") == "Created A-1: {title}"


def test_quoted_words_are_short_and_link_to_nothing_and_mention_nobody() -> None:
    assert quoted('wake <at user_id="all"></at>') == 'wake < at user_id="all"></at>'
    assert quoted("see [this](https://evil.example)") == "see [this] (https://evil.example)"
    assert len(quoted("x" * 1000)) == QUOTE_CHARS_MAX


def test_identifier_without_a_prefix_is_the_number() -> None:
    assert identifier("ABC", 42) == "ABC-42"
    assert identifier(None, 7) == "#7"


@pytest.mark.parametrize(
    ("public_url", "issue", "expected"),
    [
        ("https://app.example.test/", "ABC-42", "https://app.example.test/issues/ABC-42"),
        ("https://app.example.test/", "MUL-42", "https://app.example.test/issues/MUL-42"),
        ("https://app.example.test", "ABC-42", "https://app.example.test/issues/ABC-42"),
        ("https://app.example.test", "#42", ""),
        (None, "ABC-42", ""),
    ],
)
def test_issue_link_needs_an_address_and_an_identifier(public_url: str | None, issue: str, expected: str) -> None:
    assert issue_link(public_url, issue) == expected
