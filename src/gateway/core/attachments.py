"""Files that people send: safe names, checked media types, and the choice of files to evict from the cache.

Names, types and headers of a file come from a person's machine by way of a platform. They must pass through this module
before they become part of a path, a header or a line of text. On disk a file is named by an id of the gateway's own.
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
"""Files of one message. Any further file stays a mere placeholder in the message's text."""
NAME_CHARS_MAX = 120
HEADER_CHARS_MAX = 8_192
OCTETS = "application/octet-stream"
SNIFFED_BYTES = 64
"""The number of bytes from the beginning of a file that `sniffed_type` needs."""

Key = TypeVar("Key")


class FetchProblem(StrEnum):
    """The reason why a file could not be fetched. The slug is stored, counted in metrics, and sent in answers."""

    TOO_LARGE = "too_large"
    NOT_AVAILABLE = "not_available"
    """It was recalled or deleted, or is of a kind that the platform does not hand out."""
    REFUSED = "refused"
    """The platform refused this app."""
    TIMED_OUT = "timed_out"
    UNAVAILABLE = "unavailable"
    """The platform does not answer, or asks the gateway to wait."""
    BOT_UNAVAILABLE = "bot_unavailable"
    """The bot that received it is revoked, or its secret cannot be opened."""
    NO_ROOM = "no_room"
    """It could not be written to the local disk."""
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Described:
    """The name and type of a file in the form that people and programs see. Both are safe to show and to send."""

    name: str
    mime_type: str


def describe(
    kind: str, given_name: str, *, disposition: str = "", content_type: str = "", head: bytes = b""
) -> Described:
    """Determine the name and type of a fetched file.

    The name comes from the message, else from the Content-Disposition header, else from the kind of file. A missing
    extension is added from the type. `head` is the beginning of the file.
    """
    mime_type = judge_type(kind, content_type, head)
    name = display_name(given_name) or display_name(disposition_name(disposition)) or kind
    return Described(with_extension(name, mime_type), mime_type)


# Names.


def display_name(given: str) -> str:
    """Reduce a name, or the last part of a path, to one line without hidden characters; "" when nothing is left.

    Removes control characters, overrides of the reading direction and halves of surrogate pairs. Turns each run of
    white space into a single blank. Removes leading and trailing dots, which would make the name hidden or a directory.
    A name that is too long is cut before its extension.
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
    # A control character that is white space (a newline) is kept here, and the caller turns it into a blank. The two
    # joiners have category Cf but are kept, because they hold emoji and some scripts together.
    if character in "\u200c\u200d" or character.isspace():
        return True
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Cn", "Co"}


def extension_of(name: str) -> str:
    """Return the extension with its dot, in lower case; "" when the name has no plausible one."""
    match = _EXTENSION.search(name)
    return match[1].lower() if match else ""


def with_extension(name: str, mime_type: str) -> str:
    """Return `name` with the usual extension of the type, unless it has an extension already."""
    return name if extension_of(name) else name + _EXTENSIONS.get(mime_type, "")


def unable_line(kind: str, name: str) -> str:
    """Return the line that an agent reads in place of a file that could not be fetched."""
    return f"[{name or kind.capitalize()}: unable to fetch]"


# Types.

_TYPE = re.compile(r"([A-Za-z0-9!#$&^_.+-]{1,63}/[A-Za-z0-9!#$&^_.+-]{1,63})[ \t]*(?:;.*)?", re.DOTALL)
_UNTELLING = frozenset({OCTETS, "binary/octet-stream", "application/unknown", "application/x-unknown"})
_AUDIO_DEFAULT = "audio/opus"
"""The type assumed for audio of unknown type: platforms record voice in it, and often do not name it."""

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
    """Return a media type in lower case and without its parameters; "" when `given` is not a media type."""
    match = _TYPE.fullmatch(given.strip(" \t")[:HEADER_CHARS_MAX])
    return match[1].lower() if match else ""


def judge_type(kind: str, given: str, head: bytes = b"") -> str:
    """Decide the media type of a file: the one its server names if that is specific, else the one its bytes show."""
    said = checked_type(given)
    if said and said not in _UNTELLING:
        return said
    seen = sniffed_type(head)
    if kind == "audio" and seen in {"", "audio/ogg"}:
        return _AUDIO_DEFAULT
    return seen or OCTETS


def sniffed_type(head: bytes) -> str:
    """Return the type of a file whose first bytes identify it without doubt; "" for any other file."""
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
    """Return the file name of a Content-Disposition header, unchecked; "" when none can be read.

    `filename*` takes precedence over `filename`. A plain `filename` is percent-decoded too, because some servers encode
    it although the header's rules do not ask for that.
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
    """Build the header that makes a client save a file as `name`: in ASCII for old clients, in full for others."""
    shown = display_name(name) or "file"
    plain = re.sub(r'[^ -~]|["\\%]', "_", shown)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(shown, safe='')}"


def download_path(attachment_id: UUID) -> str:
    """Return the path at which people download the file, for links within this server."""
    return f"/api/attachments/{attachment_id}/download"


# The cache on disk.


@dataclass(frozen=True, slots=True)
class KeptFile(Generic[Key]):
    """A file in the cache. `used_at` is when it was last written or read."""

    key: Key
    size: int
    used_at: float


def to_evict(files: Sequence[KeptFile[Key]], *, bytes_max: int, used_after: float) -> list[Key]:
    """Choose the files to delete so that the rest have at most `bytes_max` together, the longest unused first.

    A file that was last used before `used_after` is deleted in any case.
    """
    total = sum(file.size for file in files)
    gone: list[Key] = []
    for file in sorted(files, key=lambda file: file.used_at):
        if total <= bytes_max and file.used_at >= used_after:
            break
        total -= file.size
        gone.append(file.key)
    return gone
