"""Every page speaks every language, and the reader's is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.http.console import language
from gateway.http.console.language import LANGUAGES, choose_language, words_of

CONSOLE = Path(language.__file__).parent


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_has_the_same_texts_with_the_same_places_to_fill(code: str) -> None:
    def shape(code: str) -> dict[str, list[str]]:
        return {key: sorted(re.findall(r"\{(\w+)\}", text)) for key, text in words_of(code).items()}

    assert shape(code) == shape("en")
    assert all(text.strip() for text in words_of(code).values())


def test_no_language_is_without_its_file_and_no_file_without_its_language() -> None:
    assert {path.stem for path in (CONSOLE / "locales").iterdir()} == set(LANGUAGES)


def test_every_text_is_said_somewhere() -> None:
    source = "".join(path.read_text() for path in [*CONSOLE.glob("*.py"), *(CONSOLE / "templates").iterdir()])
    assert not [key for key in words_of("en") if not re.search(rf"(words\.|\"){key}\b", source)]


@pytest.mark.parametrize(
    ("asked", "accepted", "chosen"),
    [
        (None, [], "en"),
        ("ko", ["ja"], "ko"),
        ("xx", ["ja"], "ja"),
        (None, ["fr-FR", "zh-CN", "en"], "zh-Hans"),
        (None, ["ZH-hant-TW"], "zh-Hans"),
        (None, ["ko_KR", "en"], "ko"),
        (None, ["*"], "en"),
    ],
)
def test_language_is_the_one_asked_for_or_the_first_accepted(
    asked: str | None, accepted: list[str], chosen: str
) -> None:
    assert choose_language(asked, accepted) == chosen
