from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.lark.wire.frame import HEADERS_MAX, Frame, decode, encode

INT32 = st.integers(-(2**31), 2**31 - 1)
UINT64 = st.integers(0, 2**64 - 1)
FRAMES = st.builds(
    Frame,
    seq_id=UINT64,
    log_id=UINT64,
    service=INT32,
    method=INT32,
    headers=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=12).map(tuple),
    payload_encoding=st.binary(max_size=10),
    payload_type=st.binary(max_size=30),
    payload=st.none() | st.binary(max_size=300),
    log_id_new=st.binary(max_size=30),
)
RICH = Frame(
    seq_id=2**64 - 1,
    log_id=99,
    service=-1,
    method=1,
    headers=((b"type", b"event"), (b"message_id", b"om-1")),
    payload_encoding=b"json",
    payload_type=b"text",
    payload=b'{"schema":"2.0"}',
    log_id_new=b"log",
)


def varint(number: int) -> bytes:
    """Protobuf's own, written down once more to be independent of the library."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def text(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + varint(len(value)) + value


def by_hand(frame: Frame) -> bytes:
    numbers = zip((0x08, 0x10, 0x18, 0x20), (frame.seq_id, frame.log_id, frame.service, frame.method), strict=True)
    return b"".join(
        (
            *(bytes((tag,)) + varint(number) for tag, number in numbers),
            *(text(0x2A, text(0x0A, key) + text(0x12, value)) for key, value in frame.headers),
            text(0x32, frame.payload_encoding),
            text(0x3A, frame.payload_type),
            b"" if frame.payload is None else text(0x42, frame.payload),
            text(0x4A, frame.log_id_new),
        )
    )


@given(FRAMES)
def test_frame_encoded_and_decoded_is_the_same(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


@given(FRAMES)
def test_frame_encoded_equals_an_independent_marshaller(frame: Frame) -> None:
    assert encode(frame) == by_hand(frame)


def expect_a_whole_frame_or_a_protocol_error(data: bytes) -> None:
    """What could be read can be written, and is read as the same again."""
    with suppress(RemoteProtocolError):
        frame = decode(data)
        assert decode(encode(frame)) == frame


@given(st.binary(max_size=200))
def test_decode_of_any_bytes_gives_a_frame_or_a_protocol_error(data: bytes) -> None:
    expect_a_whole_frame_or_a_protocol_error(data)


@given(FRAMES, st.data())
def test_decode_of_a_damaged_frame_gives_a_frame_or_a_protocol_error(frame: Frame, data: st.DataObject) -> None:
    damaged = bytearray(encode(frame))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    expect_a_whole_frame_or_a_protocol_error(bytes(damaged))


@pytest.mark.parametrize("length", range(len(encode(RICH))))
def test_frame_truncated_at_any_byte_is_refused_or_lacks_whole_fields(length: int) -> None:
    whole = encode(RICH)
    try:
        cut = decode(whole[:length])
    except RemoteProtocolError:
        return
    # Only a cut between two fields is readable, and then what was there is there unharmed.
    for name in ("seq_id", "log_id", "service", "method", "payload_encoding", "payload_type", "payload", "log_id_new"):
        assert getattr(cut, name) in (getattr(RICH, name), getattr(Frame(), name))
    assert cut.headers == RICH.headers[: len(cut.headers)]


@pytest.mark.parametrize("field", ["seq_id", "log_id", "service", "method"])
@pytest.mark.parametrize("number", [2**64, -(2**63)])
def test_encode_of_a_number_that_does_not_fit_is_our_own_error(field: str, number: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode(Frame(**{field: number}))


def test_decode_of_more_headers_than_allowed_is_refused() -> None:
    headers = ((b"k", b"v"),)
    assert len(decode(encode(Frame(headers=headers * HEADERS_MAX))).headers) == HEADERS_MAX
    with pytest.raises(RemoteProtocolError, match="257 headers"):
        decode(encode(Frame(headers=headers * (HEADERS_MAX + 1))))


def test_decode_of_deeply_nested_unknown_groups_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode(b"\xfb\x01" * 10_000 + b"\xfc\x01" * 10_000)
