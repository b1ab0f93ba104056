"""Mentions: their placeholders in the text of a message, and the one of the bot itself. Sans-IO."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.core.commands import begin_of_words

ALL = "@_all"
"""The placeholder that means everybody in the chat."""

_PLACEHOLDER = re.compile(r"@[^@]{1,64}")
"""The places where the key of a mention can stand: from an `@` to the next one at most."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A person or bot mentioned in a message. `key` is the placeholder in the text."""

    key: str
    name: str = ""
    open_id: str = ""
    union_id: str = ""


def rewrite_mentions(text: str, mentions: Sequence[Mention], is_own: Callable[[Mention], bool]) -> str:
    """Replace placeholders by names, and remove the bot's own mention together with one adjacent blank.

    Works in one pass from the left, and tries the longest key first, because `@_user_1` is the beginning of
    `@_user_10`. Inserted names are not read again. The removed blank is the one after the mention, else the one before.
    No other white space changes; a mention without a name stays as it is. Text and mentions come from outside, so the
    running time must depend on the length of the text only, not on the number of mentions.
    """
    by_key = {mention.key: mention for mention in mentions if _PLACEHOLDER.fullmatch(mention.key)}
    written: list[str] = []
    at = 0
    for match in _PLACEHOLDER.finditer(text) if by_key else ():
        mention = _named_at_the_start(match.group(), by_key)
        if mention is None:
            continue
        _write(written, text[at : match.start()])
        at = match.start() + len(mention.key)
        if not is_own(mention):
            _write(written, f"@{mention.name}" if mention.name else mention.key)
        elif text.startswith(" ", at):
            at += 1
        elif written:
            _write(written, written.pop().removesuffix(" "))
    return "".join([*written, text[at:]])


def _named_at_the_start(candidate: str, by_key: Mapping[str, Mention]) -> Mention | None:
    """Return the mention whose key is the longest one that `candidate` begins with; None if there is none."""
    lengths = range(len(candidate), 1, -1)
    return next((by_key[candidate[:length]] for length in lengths if candidate[:length] in by_key), None)


def _write(written: list[str], piece: str) -> None:
    """Append a piece unless it is empty, so that the last piece always holds the end of the text."""
    if piece:
        written.append(piece)


def without_leading_mentions(text: str, mentions: Sequence[Mention]) -> str:
    """Return a text without the placeholders before its first word. Everything else stays.

    Markers of pictures and other files are no words. A command is looked for in the result.
    """
    by_key = {ALL: Mention(ALL), **{mention.key: mention for mention in mentions}}
    before: list[str] = []
    at = 0
    while True:
        begin = begin_of_words(text, at)
        before.append(text[at:begin])
        found = _PLACEHOLDER.match(text, begin)
        mention = None if found is None else _named_at_the_start(found.group(), by_key)
        if mention is None:
            return "".join(before) + text[begin:]
        at = begin + len(mention.key)


def is_bot(mention: Mention, *, bot_open_id: str, bot_union_id: str) -> bool:
    """True if a mention means this bot. A mention of all does not, and an empty id never matches.

    The union id decides where both are known. A mention that comes without one is judged by its open id.
    """
    if mention.key == ALL:
        return False
    if bot_union_id and mention.union_id:
        return mention.union_id == bot_union_id
    return bool(bot_open_id) and mention.open_id == bot_open_id
