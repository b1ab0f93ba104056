"""Compressed bodies: a signature covers the bytes as they were sent, and everything else reads what they stand for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from gateway.webhooks.envelope import InvalidBody

RATIO_MAX = 100
"""The most bytes that one compressed byte may stand for. JSON has about ten; a bomb has a thousand."""
RATIO_FREE_BYTES = 65_536
"""Up to this size the ratio does not count: a short text of blanks compresses well."""
SLICE_BYTES = 65_536

_GZIP, _ZLIB, _RAW = 31, 15, -15
_WINDOWS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}
"""The formats of each encoding. Senders disagree on whether `deflate` has the header of zlib, so both are tried."""


class UnsupportedEncoding(Exception):
    """The body has an encoding that is not known. The text says which ones are."""


class DecodedTooLarge(Exception):
    """The body is larger than allowed once it is decompressed."""


def is_encoded(content_encoding: str) -> bool:
    """True if a Content-Encoding header names anything but `identity`."""
    return bool(_named(content_encoding))


def decoded(body: bytes, content_encoding: str, bytes_max: int) -> bytes:
    """Return the body without its Content-Encoding.

    Decompresses to at most `bytes_max`, and at most RATIO_MAX times the size of the body. Raises UnsupportedEncoding,
    DecodedTooLarge, or InvalidBody for data that is damaged.
    """
    encodings = _named(content_encoding)
    if not encodings:
        return body
    windows = _WINDOWS.get(encodings[0]) if len(encodings) == 1 else None
    if windows is None:
        raise UnsupportedEncoding("the Content-Encoding of a body is gzip, deflate or identity, and one of them")
    most = min(bytes_max, max(RATIO_FREE_BYTES, RATIO_MAX * len(body)))
    problem: zlib.error | None = None
    for window in windows:
        try:
            return b"".join(_decompressed(body, window, most))
        except zlib.error as error:
            problem = error
    raise InvalidBody(f"the body is not what its Content-Encoding says: {encodings[0]}") from problem


def _named(content_encoding: str) -> list[str]:
    names = (name.strip().lower() for name in content_encoding.split(","))
    return [name for name in names if name not in ("", "identity")]


def _decompressed(body: bytes, window: int, most: int) -> Iterator[bytes]:
    """Yield the decompressed pieces, at most `most` bytes of them. Raises zlib.error, also for a body that was cut."""
    decompressor, rest = zlib.decompressobj(window), body
    while not decompressor.eof or rest:
        if decompressor.eof:  # gzip data may consist of several members
            decompressor = zlib.decompressobj(window)
        piece = decompressor.decompress(rest, SLICE_BYTES)
        most -= len(piece)
        if most < 0:
            raise DecodedTooLarge
        yield piece
        rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        if not rest and not piece and not decompressor.eof:
            raise zlib.error("the data ends too early")
