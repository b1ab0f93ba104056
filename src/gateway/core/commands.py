"""What a person can ask of the gateway itself: `/issue`, `/new`, `/confirm`.

A command is read from the sender's own words alone, so that text which somebody quoted never gives one. It stands on
the first line that is not blank, as an exact word of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.markdown import Replacement, place_media

_BLANKS = " \t\r"
_LINE_ENDS = " \t\r\n"


@dataclass(frozen=True, slots=True)
class FileIssue:
    """`/issue TITLE`, with a description on the lines below. A bare one has no title."""

    title: str = field(repr=False)
    description: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartFresh:
    """`/new TEXT`: what was said before is not part of the conversation any more. A bare one has no text."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Confirm:
    """`/confirm`, and nothing else: the command that was asked about is to be run."""


Command = FileIssue | StartFresh | Confirm


def parse_command(words: str) -> Command | None:
    """The command in somebody's own words; None for words that are for the agent."""
    if not words.lstrip().startswith("/"):
        # What nearly every message is: decided without looking at all of it.
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
    """What is said after `/new`, empty for a bare one; None without it."""
    found = _split(words, "/new")
    return None if found is None else "\n".join(found).strip(_LINE_ENDS)


def description_of(body: str, words: str, *, fallback: str) -> str:
    """The lines below the directive, with what was added to them on the way (names, placeholders of files).

    `body` is the message with its additions, `words` are the sender's own. Additions come before the sender's words and
    may quote an older command. `fallback` is for a body in which the directive is not found.
    """
    place = _directive(body, words)
    return fallback if place is None else "\n".join(place[1]).rstrip(_LINE_ENDS)


def description_with_media(
    body: str, words: str, replacements: Sequence[Replacement], *, fallback: str
) -> tuple[str, bool]:
    """As `description_of`, with files where their markers stand, and whether there were any.

    Occurrences are counted over the whole of `body`; those in the directive's line or above it are no part of the
    description. In a `fallback` nothing is placed, because nobody knows which occurrence is which.
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
    """The message without its `/new`: what was added above it stays."""
    place = _directive(body, words)
    if place is None:
        return fallback
    above, below = place
    return "\n".join([*above, parse_fresh(_first_line(words)) or "", *below]).strip(_LINE_ENDS)


def title_from(former: str) -> str:
    """A title for a bare `/issue`, from what its sender said before: the first line, without a command in front."""
    match parse_command(former):
        case FileIssue(title):
            return title
        case StartFresh(text):
            return _first_line(text)
        case Confirm():
            return ""
    return _first_line(former)


def _split(words: str, token: str) -> tuple[str, str] | None:
    """The rest of the first line that is not blank, and the lines below; None when `token` does not begin it."""
    lines = words.replace("\r\n", "\n").lstrip(_LINE_ENDS).split("\n")
    first = lines[0].rstrip(_BLANKS)
    rest = first.removeprefix(token)
    if rest == first or not (rest == "" or rest[0] in _BLANKS):
        return None
    return rest.strip(), "\n".join(lines[1:])


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _directive(body: str, words: str) -> tuple[list[str], list[str]] | None:
    """The lines of `body` above and below the directive that `words` begin with.

    The sender's words come last, so counting from the end tells the directive from a quotation of the same line.
    """
    directive = _first_line(words)
    lines = body.replace("\r\n", "\n").split("\n")
    places = [index for index, line in enumerate(lines) if line.strip() == directive]
    own = sum(line.strip() == directive for line in words.splitlines())
    if not directive or len(places) < own:
        return None
    return lines[: places[-own]], lines[places[-own] + 1 :]
