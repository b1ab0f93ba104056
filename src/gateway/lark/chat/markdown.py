"""Whether an answer is Markdown, and how a long one is divided. Pure.

The platform shows Markdown in cards only, and takes less of it in one message than of plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

Weight = Callable[[str], int]
"""What a text costs in a request. It must add up: the weight of two texts together is the sum of theirs."""

_MARKUP = re.compile(
    r"""
      ```
    | (`+) [^`\n]+ \1                                   # code in a line
    | ^ [ \t]* \#{1,6} [ \t]                            # heading
    | ^ [ \t]* (?: [-*+] | [0-9]{1,9}\. ) [ \t]         # list
    | ^ [ \t]* > [ \t]                                  # quotation
    | ^ [ \t]* (?: -{3,} | \*{3,} | _{3,} ) [ \t]* $    # rule
    | \*\* [^*\n]+ \*\*
    | __ [^_\n]+ __
    | ^ [ \t]* \| .* \| [ \t]* $                        # row of a table
    | \[ [^\[\]\n]+ \] \( [^()\n]+ \)                   # link
    """,
    re.MULTILINE | re.VERBOSE,
)
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})(.*)")
_RULE_CELL = re.compile(r":?-+:?")
_BREAKS = (" ", "\t", "。", "，", "、", ".", ",", ";", "!", "?")


def is_markdown(text: str) -> bool:
    """Whether `text` would lose something when shown as it is."""
    return _MARKUP.search(text) is not None


def count_tables(text: str) -> int:
    """How many tables a card would have to draw; what stands in a code block is none."""
    prose = (block for block in _blocks(text) if not _FENCE.match(block))
    return sum(_is_table_rule(line) for block in prose for line in block.splitlines())


def _is_table_rule(line: str) -> bool:
    """The line between the head of a table and its rows. Not a pattern: blanks without end would make it slow."""
    if "|" not in line:
        return False
    cells = line.strip().removeprefix("|").removesuffix("|").split("|")
    return all(_RULE_CELL.fullmatch(cell.strip()) for cell in cells)


def divide(text: str, *, weight: Weight, limit: int) -> list[str]:
    """`text` in parts of at most `limit`, in order, cut between paragraphs and around code blocks if possible.

    A code block that is too long alone is closed and opened again; a paragraph is cut at a line, a blank, or anywhere.
    Nothing but white space at the cuts is lost. `limit` must leave room for a fence and a character.
    """
    if weight(text) <= limit:
        return [text]
    pieces = (piece for block in _blocks(text) for piece in _pieces(block, weight, limit))
    packed = (part.strip("\n") for part in _packed(pieces, weight, limit))
    return [part for part in packed if part.strip()]


def _packed(pieces: Iterable[str], weight: Weight, limit: int) -> Iterator[str]:
    """As many neighbours together as go into one part."""
    held, held_weight = "", 0
    for piece in pieces:
        added = weight(piece)
        if held and held_weight + added > limit:
            yield held
            held, held_weight = "", 0
        held, held_weight = held + piece, held_weight + added
    yield held


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs, each with the blank lines after it, and code blocks. Joined they are the text."""
    block: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if fence:
            block.append(line)
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                yield "".join(block)
                block, fence = [], ""
            continue
        opens = mark is not None and not (mark[1][0] == "`" and "`" in mark[2])
        if block and (opens or (not block[-1].strip() and line.strip())):
            yield "".join(block)
            block = []
        block.append(line)
        fence = mark[1] if opens and mark is not None else ""
    if block:
        yield "".join(block)


def _pieces(block: str, weight: Weight, limit: int) -> Iterator[str]:
    """A block, in several pieces when it is too heavy for one part."""
    if weight(block) <= limit:
        yield block
    elif fence := _FENCE.match(block):
        yield from _pieces_of_code(block, fence[1], weight, limit)
    else:
        yield from _lines(block.splitlines(keepends=True), weight, limit)


def _pieces_of_code(block: str, mark: str, weight: Weight, limit: int) -> Iterator[str]:
    """Each piece is a code block of its own, opened like the first one."""
    opening, *body = block.splitlines(keepends=True)
    closing = f"{mark}\n"
    if body and body[-1].strip() == mark:
        body.pop()
    room = limit - weight(opening) - weight(closing) - weight("\n")
    if room < limit // 2:  # An opening line of such a length is no name of a language.
        yield from _lines(block.splitlines(keepends=True), weight, limit)
        return
    for lines in _packed(_lines(body, weight, room), weight, room):
        yield opening + lines + ("" if lines.endswith("\n") else "\n") + closing


def _lines(lines: Iterable[str], weight: Weight, limit: int) -> Iterator[str]:
    """The lines, with those that are too heavy cut."""
    for line in lines:
        rest = line
        while weight(rest) > limit:
            end = _cut(rest, weight, limit)
            yield rest[:end]
            rest = rest[end:]
        yield rest


def _cut(line: str, weight: Weight, limit: int) -> int:
    """Where to cut: as late as fits, and after a blank or a stop if one is near."""
    low, high = 1, len(line) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if weight(line[:middle]) <= limit else (low, middle - 1)
    near = max(line.rfind(stop, low // 2, low) for stop in _BREAKS)
    return low if near < 0 else near + 1
