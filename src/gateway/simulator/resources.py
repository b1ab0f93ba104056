"""Pictures, files, voice notes and videos: what people attach and bots upload, with bytes that can be downloaded."""

from __future__ import annotations

import base64
import itertools
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from gateway.simulator.exchange import ConnectionLost
from gateway.simulator.platform import derive

MIME_TYPES = {
    "image": "image/png",
    "file": "application/octet-stream",
    "audio": "audio/opus",
    "media": "video/mp4",
    "sticker": "image/webp",
}
"""The kinds of attachment, which are message types too, and what they are when nobody says."""
HELD_BYTES_MAX = 256 * 1024 * 1024
PATTERN = bytes(range(251))
"""What made bytes repeat: of prime length, so that a piece that is lost or doubled shows."""
COVER = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel: the picture that stands for a video."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What somebody attaches: `kind` is a key of MIME_TYPES, `data` its bytes, or `size` bytes made as they are read.

    The rest is how a download of it behaves. Before each piece of `piece_bytes` it waits `pause_seconds`; without
    `says_length` the answer does not say how long it is; after `breaks_after` bytes the connection is reset; with
    `any_size` the platform's limit does not apply. Raises ValueError for an unknown kind or impossible numbers.
    """

    kind: str
    name: str = ""
    mime_type: str = ""
    data: bytes = field(default=b"", repr=False)
    size: int | None = None
    duration_ms: int = 0
    pause_seconds: float = 0.0
    piece_bytes: int = 64 * 1024
    says_length: bool = True
    breaks_after: int | None = None
    any_size: bool = False

    def __post_init__(self) -> None:
        if self.kind not in MIME_TYPES:
            raise ValueError(f"an attachment is one of {', '.join(MIME_TYPES)}, not {self.kind!r}")
        if self.data and self.size is not None:
            raise ValueError("an attachment has either bytes or a size, not both")
        if (self.size or 0) < 0 or self.piece_bytes < 1 or self.pause_seconds < 0:
            raise ValueError("size and pause_seconds are at least 0, piece_bytes at least 1")

    @property
    def length(self) -> int:
        return len(self.data) if self.size is None else self.size

    @property
    def content_type(self) -> str:
        return self.mime_type or MIME_TYPES[self.kind]

    @property
    def asked_as(self) -> str:
        """The `type` under which it is downloaded."""
        return "image" if self.kind == "image" else "file"

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, at the attachment's own pace. Raises ConnectionLost where the download is to break."""
        end = self.length if self.breaks_after is None else min(self.breaks_after, self.length)
        for start in range(0, end, self.piece_bytes):
            await trio.sleep(self.pause_seconds)
            yield self._cut(start, min(start + self.piece_bytes, end))
        if self.breaks_after is not None:
            raise ConnectionLost

    def _cut(self, start: int, end: int) -> bytes:
        if self.size is None:
            return self.data[start:end]
        skipped = start % len(PATTERN)
        repeated = PATTERN * ((end - start) // len(PATTERN) + 2)
        return repeated[skipped : skipped + end - start]


class ResourceStore:
    """Attachments by key; the oldest are forgotten when all together hold too many bytes."""

    def __init__(self, *, held_bytes_max: int = HELD_BYTES_MAX) -> None:
        self._held: OrderedDict[str, Attachment] = OrderedDict()
        self._held_bytes = 0
        self._held_bytes_max = held_bytes_max
        self._numbers = itertools.count(1)

    def add(self, attachment: Attachment) -> str:
        """Keep an attachment; returns its image_key or file_key."""
        prefix = "img_v3_" if attachment.kind == "image" else "file_v3_"
        key = derive(prefix, "resource", str(next(self._numbers)), attachment.name)
        self._held[key] = attachment
        self._held_bytes += len(attachment.data)
        while self._held_bytes > self._held_bytes_max and len(self._held) > 1:
            _, forgotten = self._held.popitem(last=False)
            self._held_bytes -= len(forgotten.data)
        return key

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def get(self, key: str) -> Attachment:
        """Raises LookupError."""
        if key not in self._held:
            raise LookupError(f"resource {key} is not remembered")
        return self._held[key]

    def content(self, attachment: Attachment) -> dict[str, Any]:
        """Keep an attachment; returns the content of a message that consists of it."""
        key = self.add(attachment)
        match attachment.kind:
            case "image":
                return {"image_key": key}
            case "file":
                return {"file_key": key, "file_name": attachment.name}
            case "audio":
                return {"file_key": key, "duration": attachment.duration_ms}
            case "media":
                cover = self.add(Attachment("image", data=COVER))
                named = {"file_name": attachment.name, "duration": attachment.duration_ms}
                return {"file_key": key, "image_key": cover, **named}
            case _:
                return {"file_key": key}


def keys_in(content: object) -> Iterator[tuple[str, str]]:
    """Every (type to download it as, key) named anywhere in the content of a message, however deep."""
    left = [content]
    while left:
        match left.pop():
            case dict() as members:
                for name, value in members.items():
                    if name in ("image_key", "file_key") and isinstance(value, str):
                        yield name.removesuffix("_key"), value
                left.extend(reversed(members.values()))
            case list() as items:
                left.extend(reversed(items))
            case _:
                pass
