"""The language of a page, and the texts in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import msgspec
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from gateway.http.bounds import ACCEPT_LANGUAGE_CHARS_MAX

LANGUAGES = ("en", "zh-Hans", "ja", "ko")
DEFAULT = "en"

_LOCALES = Path(__file__).parent / "locales"
_BY_PRIMARY_TAG = {language.partition("-")[0]: language for language in LANGUAGES}


def choose_language(asked: str | None, accepted: Iterable[str]) -> str:
    """Return the language asked for if it is supported, else the first accepted one that is, else English."""
    if asked in LANGUAGES:
        return asked
    for tag in accepted:
        language = _BY_PRIMARY_TAG.get(tag.replace("_", "-").partition("-")[0].lower())
        if language is not None:
            return language
    return DEFAULT


def accepted_languages(header: str) -> Iterable[str]:
    """Return the languages of an Accept-Language header, the most wanted first.

    A header longer than ACCEPT_LANGUAGE_CHARS_MAX gives none: no browser sends such a header.
    """
    if len(header) > ACCEPT_LANGUAGE_CHARS_MAX:
        return ()
    return parse_accept_header(header, LanguageAccept).values()


@cache
def words_of(language: str) -> Mapping[str, str]:
    """Return every text of the pages in one language, by its key."""
    return msgspec.json.decode((_LOCALES / f"{language}.json").read_bytes(), type=dict[str, str])
