"""Reads answers as Markdown, and divides long ones. Pure.

The platform shows Markdown in cards only, and a card holds less than a plain text message. A CommonMark parser tells
what is Markdown, where tables and pictures stand, and where a long answer may be divided. What the platform's own
dialect does not have is off in the parser: HTML, and code by indentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, image
from markdown_it.token import Token

Weight = Callable[[str], int]
"""Returns the size of a text in a request. Weights must add up: that of two texts together is the sum of theirs."""

NO_MARKUP = frozenset({
    "paragraph_open", "paragraph_close", "inline", "text", "text_special", "softbreak", "hardbreak", "em_open",
    "em_close",
})  # fmt: skip
"""Tokens that plain text shows as well. A single asterisk is one of them: it multiplies as often as it emphasises."""
IMAGE_KEY = "img_"
"""The beginning of the platform's own handles of pictures. Cards show a picture by its handle only."""

_LINE_END = re.compile(r"\r\n?|\n")
_BREAKS = (" ", "\t", "。", "，", "、", ".", ",", ";", "!", "?")


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, paragraph, list, table or code block, with the blank lines after it.

    `head` is repeated in every piece of a block that is cut: the opening line of a code block, or the head of a table.
    `foot` closes each piece. `parts` are the places where it is best cut: the items of a list.
    """

    lines: tuple[str, ...] = field(repr=False)
    tables: int = 0
    head: int = 0
    foot: str = ""
    parts: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.lines)


@dataclass(frozen=True, slots=True)
class Document:
    """An answer, parsed. `text` shows pictures by address as links, because a card with one would be refused."""

    text: str = field(repr=False)
    markup: bool
    tables: int
    blocks: tuple[Block, ...] = field(repr=False)


def read_markdown(text: str) -> Document:
    """Parse an answer. The time is linear in its length, some 10 ms for 10,000 characters of lists."""
    lines = [f"{line}\n" for line in _LINE_END.split(text)]
    lines[-1] = lines[-1].removesuffix("\n")
    tokens = _PARSER.parse("".join(lines))
    blocks = tuple(_blocks(tokens, lines))
    return Document(
        "".join(_with_linked_pictures(tokens, lines)),
        "```" in text or any(_is_markup(token, lines) for token in tokens) or any(map(_is_row, lines)),
        sum(block.tables for block in blocks),
        blocks,
    )


def is_markdown(text: str) -> bool:
    """True if `text` has markup that would be lost if it were shown as plain text."""
    return read_markdown(text).markup


def divide(blocks: Iterable[Block], *, weight: Weight, limit: int, tables_max: int) -> list[str]:
    """Divide blocks into texts of at most `limit` and `tables_max` tables, in order, cut between blocks if possible.

    A code block that is too long for one text is closed and opened again, and a table's head is repeated. A list is cut
    between its items. Anything else is cut at the end of a line, at a blank, or anywhere. Only white space at the cuts
    is lost. `limit` must leave room for a fence and a character.
    """
    pieces = ((piece, block.tables) for block in blocks for piece in _pieces(block, weight, limit))
    packed = (part.strip("\n") for part in _packed(pieces, weight, limit, tables_max))
    return [part for part in packed if part.strip()]


def divide_plain(text: str, *, weight: Weight, limit: int) -> list[str]:
    """Divide plain text into texts of at most `limit`, cut at the end of a line, at a blank, or anywhere."""
    pieces = ((line, 0) for line in _lines(text.splitlines(keepends=True), weight, limit))
    return [part for part in (part.strip("\n") for part in _packed(pieces, weight, limit, 0)) if part.strip()]


# Reading.


def _image(state: StateInline, silent: bool) -> bool:
    """Parse a picture as the parser does, and note where it begins."""
    begin = state.pos
    found = image(state, silent)
    if found and not silent:
        state.tokens[-1].meta = {"begin": begin}
    return found


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.disable(["code", "html_block", "html_inline", "autolink", "entity"])
    parser.inline.ruler.at("image", _image)
    return parser


_PARSER = _parser()


def _is_markup(token: Token, lines: Sequence[str]) -> bool:
    if token.type == "blockquote_open":
        # `>_<` and `>:(` begin no quotation: the mark is followed by a blank.
        return "> " in lines[_first_line(token)] or ">\t" in lines[_first_line(token)]
    if token.type == "blockquote_close":
        return False
    return token.type not in NO_MARKUP or any(child.type not in NO_MARKUP for child in token.children or ())


def _is_row(line: str) -> bool:
    """True for a row of a table, even of one without the line below its head."""
    stripped = line.strip()
    return len(stripped) > 2 and stripped.startswith("|") and stripped.endswith("|")


def _blocks(tokens: Sequence[Token], lines: Sequence[str]) -> Iterator[Block]:
    starts = [index for index, token in enumerate(tokens) if token.level == 0 and token.map and token.nesting >= 0]
    for place, index in enumerate(starts):
        following = starts[place + 1] if place + 1 < len(starts) else None
        first = _first_line(tokens[index]) if place else 0
        last = len(lines) if following is None else _first_line(tokens[following])
        yield _block(tokens[index:following], lines[first:last], first)
    if not starts and lines:
        yield Block(tuple(lines))


def _block(tokens: Sequence[Token], lines: Sequence[str], first: int) -> Block:
    opening = tokens[0]
    tables = sum(token.type == "table_open" for token in tokens)
    if opening.type == "fence":
        return Block(tuple(lines), tables, head=1, foot=f"{opening.markup}\n")
    if opening.type == "table_open":
        return Block(tuple(lines), tables, head=2)
    items = (_first_line(token) - first for token in tokens if token.type == "list_item_open" and token.level == 1)
    return Block(tuple(lines), tables, parts=tuple(item for item in items if item > 0))


def _first_line(token: Token) -> int:
    return token.map[0] if token.map else 0


def _with_linked_pictures(tokens: Sequence[Token], lines: Sequence[str]) -> list[str]:
    """Return the lines with pictures by address as links.

    The parser gives the lines of a paragraph or a row, and the place within its content, from which the marks of lists
    and quotations are gone. So a picture is found by its number among all `![` of these lines.
    """
    passed: dict[tuple[int, int], int] = {}
    pictures: list[tuple[tuple[int, int], int]] = []
    for token in tokens:
        if token.type != "inline" or not token.map or "![" not in token.content:
            continue
        span = (token.map[0], token.map[1])
        before = passed.get(span, 0)
        passed[span] = before + token.content.count("![")
        pictures += [
            (span, before + token.content.count("![", 0, child.meta["begin"]))
            for child in token.children or ()
            if child.type == "image" and not str(child.attrs.get("src", "")).startswith(IMAGE_KEY)
        ]
    changed = list(lines)
    # From the last one to the first, so that the numbers of the others stay true.
    for span, number in reversed(pictures):
        _link_picture(changed, span, number)
    return changed


def _link_picture(lines: list[str], span: tuple[int, int], number: int) -> None:
    """Turn the `![` with this number in the lines of `span` into the `[` of a link. One without a name gets one."""
    for index in range(*span):
        count = lines[index].count("![")
        if number >= count:
            number -= count
            continue
        at = -1
        for _ in range(number + 1):
            at = lines[index].index("![", at + 1)
        rest = lines[index][at + 2 :]
        lines[index] = f"{lines[index][:at]}[{'Image' if rest.startswith(']') else ''}{rest}"
        return


# Dividing.


def _packed(pieces: Iterable[tuple[str, int]], weight: Weight, limit: int, tables_max: int) -> Iterator[str]:
    """Join neighbouring pieces as long as they fit into one part."""
    held, held_weight, held_tables = "", 0, 0
    for piece, tables in pieces:
        added = weight(piece)
        if held and (held_weight + added > limit or (tables and held_tables + tables > tables_max)):
            yield held
            held, held_weight, held_tables = "", 0, 0
        held, held_weight, held_tables = held + piece, held_weight + added, held_tables + tables
    yield held


def _pieces(block: Block, weight: Weight, limit: int) -> Iterator[str]:
    """Yield a block, in several pieces if it is too heavy for one part."""
    if weight(block.text) <= limit:
        yield block.text
        return
    head, body = "".join(block.lines[: block.head]), block.lines[block.head :]
    room = limit - weight(head) - weight(block.foot) - weight("\n")
    if not head or room < limit // 2:  # A head that long names no language or columns: treat the block as text.
        yield from _parts(block, weight, limit)
        return
    if body and block.foot and body[-1].strip() == block.foot.strip():
        body = body[:-1]
    for piece in _packed(((line, 0) for line in _lines(body, weight, room)), weight, room, 0):
        yield head + piece + ("" if piece.endswith("\n") else "\n") + block.foot


def _parts(block: Block, weight: Weight, limit: int) -> Iterator[str]:
    bounds = (0, *block.parts, len(block.lines))
    for begin, end in pairwise(bounds):
        part = block.lines[begin:end]
        if weight("".join(part)) <= limit:
            yield "".join(part)
        else:
            yield from _lines(part, weight, limit)


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
