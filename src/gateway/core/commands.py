"""The commands that a person can give to the gateway itself: `/issue`, `/new`, `/confirm`.

A command is read from the sender's own words alone, so quoted text never acts as one. It begins the first line that has
words, and is an exact word of its own. Blanks of any kind, characters that are drawn as nothing, and the markers of
pictures and other files are no words. An adapter leaves out the mentions before a command as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.markdown import Replacement, place_media

TITLE_CHARS_MAX = 200
"""A longer first line of a quote is cut for the title. It then stands in the description as a whole."""

_LINE_ENDS = " \t\r\n"
_SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
_UNDRAWN = "\u00ad\u180e\ufeff" + "".join(
    chr(code) for begin, end in ((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2069)) for code in range(begin, end + 1)
)
"""Soft hyphen, zero-width characters, marks of the reading direction, and the byte order mark."""
_BLANKS = _SPACES + _UNDRAWN
_SILENT = re.compile(rf"(?:[{_BLANKS}]|\[(?:Image|Video|File|Audio)\])*")
_MARKER = re.compile(r"\[(?:Image|Video|File|Audio)\]")


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
    start = begin_of_words(words)
    if not words.startswith("/", start):
        # Nearly every message ends here, without a look at the rest of it.
        return None
    text = parse_fresh(words)
    if text is not None:
        return StartFresh(text)
    confirm = _split(words, "/confirm")
    if confirm is not None and not confirm.rest and begin_of_words(confirm.below) == len(confirm.below):
        return Confirm()
    return parse_issue(words)


def begin_of_words(text: str, at: int = 0) -> int:
    """Return the index of the first word from the index `at` on; the length of `text` if there is none."""
    found = _SILENT.match(text, at)
    return at if found is None else found.end()


def parse_issue(words: str) -> FileIssue | None:
    """Return the issue that `/issue` asks for. Files above and beside the command begin its description."""
    found = _split(words, "/issue")
    if found is None:
        return None
    files = _MARKER.findall(found.above + found.rest)
    return FileIssue(_without_markers(found.rest), _described(files, found.below))


def parse_fresh(words: str) -> str | None:
    """Return the text after `/new`, empty for a bare one; None when the words do not begin with `/new`.

    Files above the command belong to the text.
    """
    found = _split(words, "/new")
    if found is None:
        return None
    above = "\n".join(_MARKER.findall(found.above))
    return "\n".join(part for part in (above, found.rest, found.below) if part.strip()).strip(_LINE_ENDS)


def description_of(body: str, words: str, *, fallback: str) -> str:
    """Return the description of an issue: the files above and beside the command, and the lines of `body` below it.

    `body` is the message with the gateway's additions (names, file placeholders), `words` are the sender's own.
    Additions stand before the sender's words and may quote an older command. Returns `fallback` when the command line
    is not found in `body`.
    """
    return description_with_media(body, words, (), fallback=fallback)[0]


def description_with_media(
    body: str, words: str, replacements: Sequence[Replacement], *, fallback: str
) -> tuple[str, bool]:
    """Return `description_of` with files in place of their markers, and whether any file was placed.

    Occurrences of a marker are counted over the whole of `body`. Those in the additions above the sender's own words
    are not part of the description. No file is placed in `fallback`, because its occurrences cannot be matched to those
    of `body`.
    """
    body = body.replace("\r\n", "\n")
    place = _directive(body, words)
    if place is None:
        return fallback, False
    files = {(marker, occurrence): text for marker, occurrence, text in replacements}
    lines = body.split("\n")
    until = sum(len(line) + 1 for line in lines[: place.line + 1])
    since = sum(len(line) + 1 for line in lines[: place.first])
    seen: Counter[str] = Counter()
    beside: list[str] = []
    for found in _MARKER.finditer(body[:until]):
        if found.start() >= since:
            beside.append(files.get((found[0], seen[found[0]]), found[0]))
        seen[found[0]] += 1
    below = "\n".join(lines[place.line + 1 :])
    placed = place_media(body, replacements, since=until) if below else ""
    changed = placed != below or beside != _MARKER.findall(body[since:until])
    return _described(beside, placed), changed


def fresh_body(body: str, words: str, *, fallback: str) -> str:
    """Return the message without its `/new`. Additions above the command stay. `fallback` as in `description_of`."""
    place = _directive(body, words)
    if place is None:
        return fallback
    lines = body.replace("\r\n", "\n").split("\n")
    found = _split(words, "/new")
    rest = "" if found is None else found.rest
    return "\n".join([*lines[: place.line], rest, *lines[place.line + 1 :]]).strip(_LINE_ENDS)


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


def with_quote(command: FileIssue, quote: str) -> tuple[str, str]:
    """Return the title of an issue whose command answers `quote`, and the lines that the quote adds to its description.

    A bare command takes its title from the first line of the quote and adds the others. A command with a title adds the
    quote as a quotation. The title is "" if neither has one.
    """
    title = "" if command.title else title_from(quote)
    if len(title) > TITLE_CHARS_MAX:
        return f"{title[:TITLE_CHARS_MAX]}…", quote
    if title:
        return title, quote[begin_of_words(quote) :].partition("\n")[2].strip(_LINE_ENDS)
    return command.title, "\n".join(f"> {line}".rstrip() for line in quote.splitlines())


@dataclass(frozen=True, slots=True)
class _Found:
    """A command that was split off: what stands before it, the rest of its line, and the lines below.

    `above` has no words, only blanks and the markers of files.
    """

    above: str = field(repr=False)
    rest: str = field(repr=False)
    below: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Place:
    """The lines of a body, by index: the first one of the sender's own, and the one with the command."""

    first: int
    line: int


def _split(words: str, token: str) -> _Found | None:
    """Split off `token`. None when the words do not begin with it as a word of its own."""
    words = words.replace("\r\n", "\n")
    start = begin_of_words(words)
    end = start + len(token)
    if not words.startswith(token, start) or not (end == len(words) or words[end] in _BLANKS):
        return None
    line, _, below = words[end:].partition("\n")
    return _Found(words[:start], line.strip(_BLANKS), below)


def _without_markers(line: str) -> str:
    return " ".join(_MARKER.sub(" ", line).split()) if _MARKER.search(line) else line


def _described(files: Sequence[str], below: str) -> str:
    return "\n\n".join(part for part in ("\n".join(files), below.rstrip(_LINE_ENDS)) if part)


def _first_line(text: str) -> str:
    return text[begin_of_words(text) :].partition("\n")[0].strip(_BLANKS)


def _directive(body: str, words: str) -> _Place | None:
    """Find the command line that `words` begin with in `body`; None if it is not there.

    The sender's words come last in `body`, so the line is found by counting from the end. This way an earlier quotation
    of the same line is not mistaken for it. In `body` mentions may stand before the command.
    """
    directive = _first_line(words)
    lines = body.replace("\r\n", "\n").split("\n")
    places = [index for index, line in enumerate(lines) if _says(line, directive)]
    own = [index for index, line in enumerate(words.replace("\r\n", "\n").split("\n")) if _says(line, directive)]
    if not directive or not own or len(places) < len(own):
        return None
    line = places[-len(own)]
    return _Place(max(0, line - own[0]), line)


def _says(line: str, directive: str) -> bool:
    """True if the line is the directive, behind nothing but what is no word, or behind mentions."""
    if directive not in line:
        return False
    said = line[begin_of_words(line) :].strip(_BLANKS)
    return said == directive or (said.startswith("@") and said.endswith(f" {directive}"))
