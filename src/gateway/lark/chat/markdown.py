"""Recognises Markdown in answers, and divides long answers. Pure.

The platform shows Markdown in cards only, and a card holds less than a plain text message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

Weight = Callable[[str], int]
"""Returns the size of a text in a request. Weights must add up: that of two texts together is the sum of theirs."""

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
    """True if `text` has markup that would be lost if it were shown as plain text."""
    return _MARKUP.search(text) is not None


def count_tables(text: str) -> int:
    """Return the number of tables that a card would have to draw; tables in code blocks do not count."""
    prose = (block for block in _blocks(text) if not _FENCE.match(block))
    return sum(_is_table_rule(line) for block in prose for line in block.splitlines())


def _is_table_rule(line: str) -> bool:
    """True for the line between the head of a table and its rows.

    This is no regular expression, because a long run of blanks would make one slow.
    """
    if "|" not in line:
        return False
    cells = line.strip().removeprefix("|").removesuffix("|").split("|")
    return all(_RULE_CELL.fullmatch(cell.strip()) for cell in cells)


def divide(text: str, *, weight: Weight, limit: int) -> list[str]:
    """Divide `text` into parts of at most `limit`, in order, cut between paragraphs and around code blocks if possible.

    A code block that is too long for one part is closed and opened again. A paragraph that is too long is cut at the
    end of a line, at a blank, or anywhere. Only white space at the cuts is lost. `limit` must leave room for a fence
    and a character.
    """
    if weight(text) <= limit:
        return [text]
    pieces = (piece for block in _blocks(text) for piece in _pieces(block, weight, limit))
    packed = (part.strip("\n") for part in _packed(pieces, weight, limit))
    return [part for part in packed if part.strip()]


def _packed(pieces: Iterable[str], weight: Weight, limit: int) -> Iterator[str]:
    """Join neighbouring pieces as long as they fit into one part."""
    held, held_weight = "", 0
    for piece in pieces:
        added = weight(piece)
        if held and held_weight + added > limit:
            yield held
            held, held_weight = "", 0
        held, held_weight = held + piece, held_weight + added
    yield held


def _blocks(text: str) -> Iterator[str]:
    """Yield paragraphs, each with the blank lines after it, and code blocks. Joined, they are the whole text."""
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
    """Yield a block, in several pieces if it is too heavy for one part."""
    if weight(block) <= limit:
        yield block
    elif fence := _FENCE.match(block):
        yield from _pieces_of_code(block, fence[1], weight, limit)
    else:
        yield from _lines(block.splitlines(keepends=True), weight, limit)


def _pieces_of_code(block: str, mark: str, weight: Weight, limit: int) -> Iterator[str]:
    """Yield the pieces of a code block, each a code block of its own with the same opening line."""
    opening, *body = block.splitlines(keepends=True)
    closing = f"{mark}\n"
    if body and body[-1].strip() == mark:
        body.pop()
    room = limit - weight(opening) - weight(closing) - weight("\n")
    if room < limit // 2:  # An opening line that long names no language: treat the block as text.
        yield from _lines(block.splitlines(keepends=True), weight, limit)
        return
    for lines in _packed(_lines(body, weight, room), weight, room):
        yield opening + lines + ("" if lines.endswith("\n") else "\n") + closing


def _lines(lines: Iterable[str], weight: Weight, limit: int) -> Iterator[str]:
    """Yield the lines; cut those that are too heavy."""
    for line in lines:
        rest = line
        while weight(rest) > limit:
            end = _cut(rest, weight, limit)
            yield rest[:end]
            rest = rest[end:]
        yield rest


def _cut(line: str, weight: Weight, limit: int) -> int:
    """Return the index at which to cut: as late as fits, but after a blank or a punctuation mark if one is near."""
    low, high = 1, len(line) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if weight(line[:middle]) <= limit else (low, middle - 1)
    near = max(line.rfind(stop, low // 2, low) for stop in _BREAKS)
    return low if near < 0 else near + 1
