"""Files that people send: what they may be called, what type they may claim, and which of them are kept.

Names, types and headers of a file come from a person's machine by way of a platform. Nothing of it becomes a path, a
header or a line of text unless it went through here. On disk a file has our own id for a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar
from urllib.parse import quote, unquote_to_bytes
from uuid import UUID

PER_MESSAGE_MAX = 64
"""Files of one message. What is beyond stays a word in its text."""
NAME_CHARS_MAX = 120
HEADER_CHARS_MAX = 8_192
OCTETS = "application/octet-stream"
SNIFFED_BYTES = 64
"""How much of a file's beginning `sniffed_type` wants to see."""

Key = TypeVar("Key")


class FetchProblem(StrEnum):
    """Why a file could not be had. A slug: stored, counted, and answered."""

    TOO_LARGE = "too_large"
    NOT_AVAILABLE = "not_available"
    """Recalled, deleted, or of a kind that the platform does not give out."""
    REFUSED = "refused"
    """The platform said no to this app."""
    TIMED_OUT = "timed_out"
    UNAVAILABLE = "unavailable"
    """The platform does not answer, or asks us to wait."""
    BOT_UNAVAILABLE = "bot_unavailable"
    """The bot that received it is revoked, or its secret cannot be opened."""
    NO_ROOM = "no_room"
    """It could not be written here."""
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Described:
    """A file as people and programs are told of it: both parts are safe to show and to send."""

    name: str
    mime_type: str


def describe(
    kind: str, given_name: str, *, disposition: str = "", content_type: str = "", head: bytes = b""
) -> Described:
    """Name and type of a file that was fetched.

    The name is the message's, else that of the Content-Disposition header, else the kind of file; an extension that
    is missing is added from the type. `head` is the beginning of the file.
    """
    mime_type = judge_type(kind, content_type, head)
    name = display_name(given_name) or display_name(disposition_name(disposition)) or kind
    return Described(with_extension(name, mime_type), mime_type)


# Names.


def display_name(given: str) -> str:
    """The last part of what may be a path, as one line that says nothing it does not show; "" when nothing is left.

    Control characters, overrides of the reading direction and halves of surrogate pairs go, white space becomes single
    blanks, and so do the dots go that would make a name hidden or a directory. A long name keeps its extension.
    """
    last = re.split(r"[/\\]", given[-HEADER_CHARS_MAX:])[-1]
    kept = "".join(" " if character.isspace() else character for character in last if _is_shown(character))
    name = " ".join(kept.split()).lstrip(". ").rstrip(". ")
    if len(name) <= NAME_CHARS_MAX:
        return name
    extension = extension_of(name)
    return name[: NAME_CHARS_MAX - len(extension)].rstrip(". ") + extension


_EXTENSION = re.compile(r"(?<=[^.])(\.[A-Za-z0-9]{1,15})\Z")


def _is_shown(character: str) -> bool:
    # White space that is a control character (a newline) becomes a blank later. The joiners (Cf) hold emoji and some
    # scripts together.
    if character in "\u200c\u200d" or character.isspace():
        return True
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Cn", "Co"}


def extension_of(name: str) -> str:
    """The extension with its dot, in lower case; "" when there is none that could be one."""
    match = _EXTENSION.search(name)
    return match[1].lower() if match else ""


def with_extension(name: str, mime_type: str) -> str:
    return name if extension_of(name) else name + _EXTENSIONS.get(mime_type, "")


def unable_line(kind: str, name: str) -> str:
    """What an agent reads in place of a file that could not be had."""
    return f"[{name or kind.capitalize()}: unable to fetch]"


# Types.

_TYPE = re.compile(r"([A-Za-z0-9!#$&^_.+-]{1,63}/[A-Za-z0-9!#$&^_.+-]{1,63})[ \t]*(?:;.*)?", re.DOTALL)
_UNTELLING = frozenset({OCTETS, "binary/octet-stream", "application/unknown", "application/x-unknown"})
_AUDIO_DEFAULT = "audio/opus"
"""Platforms record voice in it, and often do not say so."""

_EXTENSIONS = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp", "image/bmp": ".bmp",
    "image/tiff": ".tiff", "image/heic": ".heic", "image/svg+xml": ".svg", "audio/opus": ".opus", "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3", "audio/mp4": ".m4a", "audio/wav": ".wav", "audio/x-wav": ".wav", "audio/amr": ".amr",
    "video/mp4": ".mp4", "video/quicktime": ".mov", "video/webm": ".webm", "application/pdf": ".pdf",
    "application/zip": ".zip", "application/json": ".json", "application/gzip": ".gz", "text/plain": ".txt",
    "text/csv": ".csv", "text/markdown": ".md", "text/html": ".html", "application/msword": ".doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
}  # fmt: skip


def checked_type(given: str) -> str:
    """A media type without its parameters, in lower case; "" when it is not one."""
    match = _TYPE.fullmatch(given.strip(" \t")[:HEADER_CHARS_MAX])
    return match[1].lower() if match else ""


def judge_type(kind: str, given: str, head: bytes = b"") -> str:
    """What a file is, as far as its server or, when that does not tell, its first bytes say."""
    said = checked_type(given)
    if said and said not in _UNTELLING:
        return said
    seen = sniffed_type(head)
    if kind == "audio" and seen in {"", "audio/ogg"}:
        return _AUDIO_DEFAULT
    return seen or OCTETS


def sniffed_type(head: bytes) -> str:
    """The type of a file that begins in a way no other type does; "" for any other."""
    for start, mime_type in _BEGINNINGS:
        if head.startswith(start):
            return mime_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in {b"isom", b"iso2", b"mp41", b"mp42", b"avc1"}:
        return "video/mp4"
    return ""


_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"OggS", "audio/ogg"),
)


# Headers.

_PARAMETER = re.compile(
    r';[ \t]*(?P<name>[!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^;"]*))',
    re.DOTALL,
)


def disposition_name(header: str) -> str:
    """The file name of a Content-Disposition header, unchecked; "" when there is none that can be read.

    `filename*` goes before `filename`. Servers that write neither of the two encodings percent-encode all the same.
    """
    found = {
        match["name"].lower(): match["bare"].strip() if match["quoted"] is None else _unquoted(match["quoted"])
        for match in _PARAMETER.finditer(header[:HEADER_CHARS_MAX])
    }
    extended = _extended(found.get("filename*", ""))
    if extended:
        return extended
    plain = found.get("filename", "")
    return _decoded(plain, "utf-8") or plain if re.search(r"%[0-9A-Fa-f]{2}", plain) else plain


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _extended(value: str) -> str:
    charset, _, rest = value.partition("'")
    if charset.lower() not in {"utf-8", "iso-8859-1"}:
        return ""
    return _decoded(rest.partition("'")[2], charset)


def _decoded(text: str, charset: str) -> str:
    try:
        return unquote_to_bytes(text).decode(charset)
    except UnicodeError:
        return ""


def content_disposition(name: str) -> str:
    """The header that makes a client save a file under `name`: for old clients in ASCII, for others in full."""
    shown = display_name(name) or "file"
    plain = re.sub(r'[^ -~]|["\\%]', "_", shown)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(shown, safe='')}"


def download_path(attachment_id: UUID) -> str:
    """Where people get the file, for links within this server."""
    return f"/api/attachments/{attachment_id}/download"


# What is kept on disk.


@dataclass(frozen=True, slots=True)
class KeptFile(Generic[Key]):
    """A file in the cache. `used_at` is when it was last written or read."""

    key: Key
    size: int
    used_at: float


def to_evict(files: Sequence[KeptFile[Key]], *, bytes_max: int, used_after: float) -> list[Key]:
    """Which files go, so that the others together have at most `bytes_max`: the longest unused first.

    One that was last used before `used_after` goes in any case.
    """
    total = sum(file.size for file in files)
    gone: list[Key] = []
    for file in sorted(files, key=lambda file: file.used_at):
        if total <= bytes_max and file.used_at >= used_after:
            break
        total -= file.size
        gone.append(file.key)
    return gone
