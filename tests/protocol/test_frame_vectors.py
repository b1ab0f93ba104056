from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.errors import RemoteProtocolError
from gateway.lark.wire.frame import DATA, Frame, acknowledge, decode, encode
from support.vectors import DIRECTORY, frame_of, vectors


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


@pytest.mark.parametrize("code", [200, 500])
def test_acknowledgement_of_a_frame_has_the_bytes_of_its_vector(code: int) -> None:
    inbound = Frame(
        seq_id=42,
        log_id=99,
        service=7,
        method=DATA,
        headers=((b"type", b"event"), (b"message_id", b"om-42")),
        payload_encoding=b"json",
        payload_type=b"im.message.receive_v1",
        payload=b'{"schema":"2.0"}',
        log_id_new=b"log-new",
    )
    expected = {case["name"]: case["hex"] for case in msgspec.json.decode((DIRECTORY / "encode.json").read_bytes())}
    assert encode(acknowledge(inbound, code, 3)).hex() == expected[f"ack_{code}_whole_frame"]


def test_acknowledgement_of_a_frame_that_lacks_fields_has_all_of_them_and_nothing_unknown() -> None:
    """Absent ids and text, a header without a value, one that is not UTF-8, and an unknown field."""
    sparse = decode(bytes.fromhex("20012a060a04747970652a0a0a04747970651202fffef80163"))
    assert encode(acknowledge(sparse, 200, 0)).hex() == (
        "08001000180020012a080a047479706512002a0a0a04747970651202fffe2a0b0a0662697a5f7274120130"
        "32003a0042277b22636f6465223a3230302c2268656164657273223a6e756c6c2c2264617461223a6e756c6c7d4a00"
    )
