"""Text for an agent about what a message quotes, bundles and follows. Pure: data in, text out.

The grammar, which agents may rely on. Blocks stand before the sender's own words, one blank line apart, in this order:

    <recent_context count="2">                    the last messages of the group or topic before the run, oldest first
    [Ann]: shall we?
    | the second line of what Ann said
    [assistant]: what the agent itself said earlier
    </recent_context>

    <quoted_message message_id="om_1" sender="Bo" type="text">     the message that this one answers, word for word
    ship it
    </quoted_message>

    <forwarded_messages count="2">                messages of others that were forwarded together, oldest first
    [Cy]: [forwarded messages]
      [User 1]: what lies in a bundle inside the bundle
    </forwarded_messages>

A quoted bundle holds its `<forwarded_messages>` inside `<quoted_message>`. `[unable to fetch]` stands for content that
could not be fetched (refused, deleted, too slow), and `[shortened]` marks a cut. People whose name is not known are
User 1, User 2 and so on, the same number for the same person throughout one task. A bot without a known name is Bot.

Text from outside cannot open or close a block: in such text the `<` of these three tags becomes `&lt;`, and nothing
else is changed. In a list of messages, a line that begins with `[` (blanks aside) was written by the gateway, and a
line that begins with `|` continues the message above.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

RECENT_MAX = 10
FORWARDED_MAX = 100
NESTING_MAX = 5
RECENT_CHARS_MAX = 2_000
QUOTED_CHARS_MAX = 8_000
FORWARDED_CHARS_MAX = 4_000
RUN_CHARS_MAX = 60_000
"""The limit for looked-up text, all messages of one run together. The tags and names around it are not counted."""
NAME_CHARS_MAX = 60
ATTRIBUTE_CHARS_MAX = 200

UNFETCHED = "[unable to fetch]"
SHORTENED = "[shortened]"
ASSISTANT = "assistant"
BOT = "Bot"

_OUR_TAG = re.compile(r"<(?=[\s/]*(?:recent_context|quoted_message|forwarded_messages)(?!\w))", re.IGNORECASE)
_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_UNENCODABLE = re.compile("[\x00\ud800-\udfff]")
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
_TREE_MAX = 4 * FORWARDED_MAX
"""The most messages of a bundle that are put in order. This also bounds the depth of the recursion."""
_BRACKETS = str.maketrans("[]", "()")
_RESERVED_NAME = re.compile(r"assistant|bot|user \d+|unknown", re.IGNORECASE)


class AuthorKind(Enum):
    PERSON = "person"
    BOT = "bot"
    ASSISTANT = "assistant"
    """The bot that this run answers for."""


@dataclass(frozen=True, slots=True)
class Author:
    """The author of a message. `id` and `name` are the platform's own, each "" when the platform does not give it."""

    id: str = ""
    kind: AuthorKind = AuthorKind.PERSON
    name: str = ""


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file of a message that was looked up. `kind` is image, file, audio or video.

    The platform hands it out by its `key`, as a file of the message `message_id`.
    """

    message_id: str
    kind: str
    key: str = field(repr=False)
    name: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Said:
    """One message that was looked up.

    `type` is the platform's own word for its kind. `within` is the id of the bundle that contains it. `gone` means that
    it was recalled or deleted, so `text` is not what the author wrote.
    """

    message_id: str
    author: Author
    type: str
    text: str = field(repr=False)
    sent_at: datetime | None = None
    chat_id: str = ""
    thread_id: str = ""
    within: str = ""
    bundle: bool = False
    gone: bool = False
    files: tuple[SharedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """A message in a conversation, and how much of the conversation before it is wanted.

    `message_id` and `before` are the id and time of the message. `since_id` and `since` are those of the message that
    last started the conversation afresh, if one did: older messages stay out.
    """

    chat_id: str
    thread_id: str
    message_id: str
    before: datetime
    since_id: str = ""
    since: datetime | None = None
    count: int = RECENT_MAX

    def preceding(self, listed: Sequence[Said]) -> list[Said]:
        """Select the messages of this conversation that came before this one, at most `count`.

        `listed` and the result are newest first. For messages with equal times, the order of the listing tells which
        came first.
        """
        found: list[Said] = []
        passed = False
        for said in listed:
            if said.message_id == self.message_id:
                passed = True
            elif self._admits(said, passed=passed):
                found.append(said)
            if said.message_id == self.since_id or len(found) == self.count:
                break
        return found

    def begins_in(self, listed: Sequence[Said]) -> bool:
        """True if the listing reaches back past `since`, so that everything after it would be too old."""
        since = self.since
        return since is not None and any(said.sent_at is not None and said.sent_at < since for said in listed)

    def _admits(self, said: Said, *, passed: bool) -> bool:
        """True if the message belongs to this conversation, before this message. False without a place or a time."""
        if said.chat_id != self.chat_id or said.thread_id != self.thread_id or said.sent_at is None:
            return False
        if self.since is not None and said.sent_at < self.since:
            return False
        return said.sent_at < self.before or (passed and said.sent_at == self.before)


@dataclass(frozen=True, slots=True)
class Recent:
    """The messages before, oldest first. If not `complete`, there may be more that could not be fetched."""

    messages: tuple[Said, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Quoted:
    """The message that was answered, followed by the messages it bundles; None when it could not be fetched."""

    message_id: str
    found: tuple[Said, ...] | None = None


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The wrapping message, followed by the messages inside it; None when it could not be fetched."""

    found: tuple[Said, ...] | None = None


@dataclass(frozen=True, slots=True)
class Additions:
    """The looked-up context of one message."""

    recent: Recent | None = None
    quoted: Quoted | None = None
    forwarded: Forwarded | None = None

    def shared_files(self) -> list[SharedFile]:
        """Return the files of the quoted message and of the forwarded ones. Those of recent messages are not shared.

        A platform hands out the files of a bundle, at any depth, as files of the outermost one.
        """
        files: list[SharedFile] = []
        for found in (self.quoted and self.quoted.found, self.forwarded and self.forwarded.found):
            if not found or found[0].gone:
                continue
            inside = found[1 : FORWARDED_MAX + 1] if found[0].bundle else ()
            files += found[0].files
            files += [
                replace(file, message_id=found[0].message_id) for said in inside if not said.gone for file in said.files
            ]
        return files


def render(additions: Sequence[Additions], names: Mapping[str, str]) -> list[str]:
    """Return the text that goes before each message of one run, "" where there is none.

    `names` are people's names by the platform's id. The numbering of unnamed people and the limit `RUN_CHARS_MAX` are
    shared by the whole run.
    """
    writer = _Writer(names)
    return [writer.additions(each) for each in additions]


def words_of_quote(found: Sequence[Said]) -> str:
    """Return the words of a message that was looked up, or of those it bundles, a line or more for each.

    "" if it was recalled or never found. They are cut to `QUOTED_CHARS_MAX`.
    """
    if not found or found[0].gone:
        return ""
    said = [each for each in found[1 : FORWARDED_MAX + 1] if not each.bundle] if found[0].bundle else found[:1]
    text = _UNENCODABLE.sub("", "\n".join(each.text for each in said if not each.gone)).strip()
    return text if len(text) <= QUOTED_CHARS_MAX else f"{text[:QUOTED_CHARS_MAX]} {SHORTENED}"


def neutralise(text: str) -> str:
    """Escape the `<` of everything in `text` that reads as one of the gateway's tags, and change nothing else."""
    return _OUR_TAG.sub("&lt;", text)


def as_label(name: str) -> str:
    """Return a name on one line of bounded length, without square brackets that could end those around it."""
    line = " ".join(_INVISIBLE.sub(" ", name).split()).translate(_BRACKETS)
    return line if len(line) <= NAME_CHARS_MAX else f"{line[: NAME_CHARS_MAX - 1]}…"


class _Writer:
    """Renders the blocks of one run in order. Tracks the numbers of unnamed people and the characters still free."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._numbers: dict[str, int] = {}
        self._room = RUN_CHARS_MAX

    def additions(self, additions: Additions) -> str:
        blocks = (
            self._recent(additions.recent),
            self._quoted(additions.quoted),
            self._forwarded(additions.forwarded.found) if additions.forwarded is not None else "",
        )
        return "\n\n".join(block for block in blocks if block)

    def _recent(self, recent: Recent | None) -> str:
        if recent is None or (recent.complete and not recent.messages):
            return ""
        lines = [] if recent.complete else [UNFETCHED]
        lines += [self._entry(said, RECENT_CHARS_MAX) for said in recent.messages]
        return _block("recent_context", {"count": str(len(recent.messages))}, lines)

    def _quoted(self, quoted: Quoted | None) -> str:
        if quoted is None:
            return ""
        if not quoted.found:
            attributes = {"message_id": quoted.message_id, "sender": "unknown", "type": "unknown"}
            return _block("quoted_message", attributes, [UNFETCHED])
        said, *rest = quoted.found
        attributes = {"message_id": quoted.message_id, "sender": self._name(said.author), "type": said.type}
        if said.bundle and not said.gone:
            return _block("quoted_message", attributes, [self._forwarded((said, *rest))])
        return _block("quoted_message", attributes, [self._words(said, QUOTED_CHARS_MAX)])

    def _forwarded(self, found: Sequence[Said] | None) -> str:
        entries = [] if not found or found[0].gone else _tree(found)
        if not found or not entries:
            return _block("forwarded_messages", {"count": "0"}, [UNFETCHED])
        lines = [self._entry(said, FORWARDED_CHARS_MAX, depth) for depth, said in entries]
        if len(found) - 1 > len(entries):
            lines.append(SHORTENED)
        return _block("forwarded_messages", {"count": str(len(entries))}, lines)

    def _entry(self, said: Said, chars_max: int, depth: int = 0) -> str:
        indent = "  " * depth
        first, *more = _LINE_END.split(self._words(said, chars_max))
        head = f"{indent}[{neutralise(self._name(said.author))}]: {first}"
        return "\n".join([head, *(f"{indent}| {line}" for line in more)])

    def _words(self, said: Said, chars_max: int) -> str:
        """Return the text of a message, cut to `chars_max` and to the characters that the run has left."""
        if said.gone:
            return UNFETCHED
        text = _UNENCODABLE.sub("", said.text)
        most = min(chars_max, self._room)
        self._room -= min(len(text), most)
        return neutralise(text) if len(text) <= most else f"{neutralise(text[:most])} {SHORTENED}".lstrip()

    def _name(self, author: Author) -> str:
        if author.kind is AuthorKind.ASSISTANT:
            return ASSISTANT
        name = as_label(author.name or self._names.get(author.id, ""))
        if name and not _RESERVED_NAME.fullmatch(name):
            return name
        if author.kind is AuthorKind.BOT:
            return BOT
        return f"User {self._numbers.setdefault(author.id, len(self._numbers) + 1)}"


def _tree(found: Sequence[Said]) -> list[tuple[int, Said]]:
    """Return the messages inside the first one, each with its depth: oldest first, a nested bundle's right after it.

    At most `FORWARDED_MAX` of them. A message that names an unknown bundle counts as lying in the first message.
    Bundles that contain each other cannot be reached from the first message, and are left out.
    """
    root, *rest = found[: _TREE_MAX + 1]
    known = {said.message_id for said in rest if said.bundle}
    children: dict[str, list[Said]] = {}
    for said in rest:
        home = said.within if said.within in known and said.within != said.message_id else root.message_id
        children.setdefault(home, []).append(said)
    entries: list[tuple[int, Said]] = []
    _descend(children, root.message_id, 0, entries)
    return entries[:FORWARDED_MAX]


def _descend(children: dict[str, list[Said]], home: str, depth: int, entries: list[tuple[int, Said]]) -> None:
    """Append the messages of the bundle `home`. It is removed from `children`, so that no bundle is entered twice."""
    for said in sorted(children.pop(home, ()), key=_moment):
        entries.append((min(depth, NESTING_MAX), said))
        _descend(children, said.message_id, depth + 1, entries)


def _moment(said: Said) -> float:
    """Return the sort key. Messages with equal times, or without a time, keep the platform's order (a stable sort)."""
    return said.sent_at.timestamp() if said.sent_at is not None else 0.0


def _block(tag: str, attributes: Mapping[str, str], lines: Sequence[str]) -> str:
    named = "".join(f' {name}="{_attribute(value)}"' for name, value in attributes.items())
    return "\n".join([f"<{tag}{named}>", *lines, f"</{tag}>"])


def _attribute(value: str) -> str:
    return html.escape(" ".join(_INVISIBLE.sub(" ", value).split())[:ATTRIBUTE_CHARS_MAX])
