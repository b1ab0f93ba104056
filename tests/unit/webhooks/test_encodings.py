from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.encodings import (
    RATIO_FREE_BYTES,
    RATIO_MAX,
    DecodedTooLarge,
    UnsupportedEncoding,
    decoded,
    is_encoded,
)
from gateway.webhooks.envelope import InvalidBody

MEGABYTE = 1 << 20


@given(st.binary(max_size=2_000), st.sampled_from(["gzip", "x-gzip", "deflate"]))
def test_compressed_body_is_what_it_was(body: bytes, encoding: str) -> None:
    compress = zlib.compress if encoding == "deflate" else gzip.compress
    assert decoded(compress(body), encoding, MEGABYTE) == body


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "identity", "", "br", "a,b"]))
def test_any_body_is_decoded_or_refused(body: bytes, encoding: str) -> None:
    try:
        decoded(body, encoding, MEGABYTE)
    except (InvalidBody, UnsupportedEncoding, DecodedTooLarge):
        assert is_encoded(encoding)


def test_gzip_may_have_several_members() -> None:
    assert decoded(gzip.compress(b"[1,", mtime=0) + gzip.compress(b"2]", mtime=0), "gzip", MEGABYTE) == b"[1,2]"
    with pytest.raises(InvalidBody):
        decoded(gzip.compress(b"[1,", mtime=0) + b"2]", "gzip", MEGABYTE)


def test_body_is_bounded_once_decompressed() -> None:
    assert decoded(gzip.compress(b"a" * 1_000, mtime=0), "gzip", 1_000) == b"a" * 1_000
    with pytest.raises(DecodedTooLarge):
        decoded(gzip.compress(b"a" * 1_001, mtime=0), "gzip", 1_000)


def test_ratio_is_bounded_above_a_free_size() -> None:
    assert len(decoded(gzip.compress(b"a" * RATIO_FREE_BYTES, mtime=0), "gzip", MEGABYTE)) == RATIO_FREE_BYTES
    dense = gzip.compress(b"a" * MEGABYTE, mtime=0)
    assert len(dense) * RATIO_MAX < MEGABYTE
    with pytest.raises(DecodedTooLarge):
        decoded(dense, "gzip", MEGABYTE)


@pytest.mark.no_cover  # measuring coverage takes memory of its own
def test_bomb_takes_no_memory() -> None:
    bomb = gzip.compress(b"a" * (64 * MEGABYTE), mtime=0)
    tracemalloc.start()
    try:
        with pytest.raises(DecodedTooLarge):
            decoded(bomb, "gzip", 25 * MEGABYTE)
        assert tracemalloc.get_traced_memory()[1] < 16 * MEGABYTE
    finally:
        tracemalloc.stop()
