"""The commands that a person can give to the gateway itself: `/issue`, `/new`, `/confirm`.

A command is read from the sender's own words alone, so quoted text never acts as one. It begins the first line that is
not blank, and is an exact word of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.markdown import Replacement, place_media

_BLANKS = " \t\r"
_LINE_ENDS = " \t\r\n"


@dataclass(frozen=True, slots=True)
class FileIssue:
    """`/issue TITLE`, with a description on the lines below. A bare `/issue` has an empty title."""

    title: str = field(repr=False)
    description: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartFresh:
    """`/new TEXT`: earlier messages are no longer part of the conversation. A bare `/new` has an empty text."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Confirm:
    """`/confirm` alone: the command that the gateway asked about is to be run."""


Command = FileIssue | StartFresh | Confirm


def parse_command(words: str) -> Command | None:
    """Return the command in the sender's own words; None for a message that is for the agent."""
    if not words.lstrip().startswith("/"):
        # Nearly every message ends here, without a look at the rest of it.
        return None
    text = parse_fresh(words)
    if text is not None:
        return StartFresh(text)
    if words.strip() == "/confirm":
        return Confirm()
    return parse_issue(words)


def parse_issue(words: str) -> FileIssue | None:
    found = _split(words, "/issue")
    if found is None:
        return None
    rest, below = found
    return FileIssue(rest, below.rstrip(_LINE_ENDS))


def parse_fresh(words: str) -> str | None:
    """Return the text after `/new`, empty for a bare one; None when the words do not begin with `/new`."""
    found = _split(words, "/new")
    return None if found is None else "\n".join(found).strip(_LINE_ENDS)


def description_of(body: str, words: str, *, fallback: str) -> str:
    """Return the lines of `body` below the command line, with the gateway's additions (names, file placeholders).

    `body` is the message with its additions, `words` are the sender's own. Additions stand before the sender's words
    and may quote an older command. Returns `fallback` when the command line is not found in `body`.
    """
    place = _directive(body, words)
    return fallback if place is None else "\n".join(place[1]).rstrip(_LINE_ENDS)


def description_with_media(
    body: str, words: str, replacements: Sequence[Replacement], *, fallback: str
) -> tuple[str, bool]:
    """Return `description_of` with files in place of their markers, and whether any file was placed.

    Occurrences of a marker are counted over the whole of `body`. Those in the command line or above it are not part of
    the description. No file is placed in `fallback`, because its occurrences cannot be matched to those of `body`.
    """
    body = body.replace("\r\n", "\n")
    place = _directive(body, words)
    if place is None:
        return fallback, False
    above, below = place
    since = sum(len(line) + 1 for line in body.split("\n")[: len(above) + 1])
    placed = place_media(body, replacements, since=since) if below else ""
    return placed.rstrip(_LINE_ENDS), bool(below) and placed != body[since:]


def fresh_body(body: str, words: str, *, fallback: str) -> str:
    """Return the message without its `/new`. Additions above the command stay. `fallback` as in `description_of`."""
    place = _directive(body, words)
    if place is None:
        return fallback
    above, below = place
    return "\n".join([*above, parse_fresh(_first_line(words)) or "", *below]).strip(_LINE_ENDS)


def title_from(former: str) -> str:
    """Return a title for a bare `/issue`: the first line of the sender's previous message, without a command."""
    match parse_command(former):
        case FileIssue(title):
            return title
        case StartFresh(text):
            return _first_line(text)
        case Confirm():
            return ""
    return _first_line(former)


def _split(words: str, token: str) -> tuple[str, str] | None:
    """Split off `token`: return the rest of the first line that is not blank, and the lines below.

    None when that line does not begin with `token` as a word of its own.
    """
    lines = words.replace("\r\n", "\n").lstrip(_LINE_ENDS).split("\n")
    first = lines[0].rstrip(_BLANKS)
    rest = first.removeprefix(token)
    if rest == first or not (rest == "" or rest[0] in _BLANKS):
        return None
    return rest.strip(), "\n".join(lines[1:])


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _directive(body: str, words: str) -> tuple[list[str], list[str]] | None:
    """Return the lines of `body` above and below the command line that `words` begin with; None if it is not there.

    The sender's words come last in `body`, so the line is found by counting from the end. This way an earlier quotation
    of the same line is not mistaken for it.
    """
    directive = _first_line(words)
    lines = body.replace("\r\n", "\n").split("\n")
    places = [index for index, line in enumerate(lines) if line.strip() == directive]
    own = sum(line.strip() == directive for line in words.split("\n"))
    if not directive or len(places) < own:
        return None
    return lines[: places[-own]], lines[places[-own] + 1 :]
