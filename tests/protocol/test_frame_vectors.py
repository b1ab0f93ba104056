from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import RemoteProtocolError
from gateway.lark.wire.frame import decode, encode
from support.vectors import frame_of, vectors


@vectors("encode")
def test_frame_of_a_vector_encodes_to_its_bytes(vector: dict[str, Any]) -> None:
    assert encode(frame_of(vector["frame"])).hex() == vector["hex"]


@vectors("encode")
def test_bytes_of_a_vector_decode_to_its_frame(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["hex"])) == frame_of(vector["frame"])


@vectors("encode")
def test_bytes_without_empty_fields_decode_to_the_same_frame(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["without_empty_fields_hex"])) == frame_of(vector["frame"])


@vectors("decode")
def test_decode_of_a_vector_reaches_its_verdict(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    if vector.get("refused"):
        with pytest.raises(RemoteProtocolError):
            decode(data)
    else:
        assert decode(data) == frame_of(vector["frame"])


@vectors("decode")
def test_encode_of_what_was_decoded_has_only_known_fields(vector: dict[str, Any]) -> None:
    if not vector.get("refused"):
        frame = decode(bytes.fromhex(vector["hex"]))
        assert decode(encode(frame)) == frame
        assert encode(frame).endswith(b"\x4a\x00")
