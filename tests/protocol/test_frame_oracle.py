"""Our frames beside the official SDK's protobuf, which lives in a package that takes seconds to import whole."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from gateway.lark.wire.frame import Frame, acknowledge, decode, encode, ping, pong
from support.vectors import frame_of, vectors


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    """The SDK's Frame class. Its parent packages are stood in for, so that their `__init__` does not run."""
    spec = importlib.util.find_spec("lark_oapi")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = spec.submodule_search_locations[0]
    before = set(sys.modules)
    for name, path in (("lark_oapi", root), ("lark_oapi.ws", f"{root}/ws")):
        package = ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
    try:
        yield importlib.import_module("lark_oapi.ws.pb.pbbp2_pb2").Frame
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "lark_oapi":
                del sys.modules[name]


def theirs(oracle: Any, frame: Frame) -> Any:
    """The same frame as the SDK's object, every field assigned."""
    message = oracle()
    message.SeqID, message.LogID = frame.seq_id, frame.log_id
    message.service, message.method = frame.service, frame.method
    for key, value in frame.headers:
        header = message.headers.add()
        header.key, header.value = key.decode(), value.decode()
    message.payload_encoding = frame.payload_encoding.decode()
    message.payload_type = frame.payload_type.decode()
    if frame.payload is not None:
        message.payload = frame.payload
    message.LogIDNew = frame.log_id_new.decode()
    return message


@vectors("encode")
def test_encode_gives_the_bytes_of_the_official_sdk(vector: dict[str, Any], oracle: Any) -> None:
    frame = frame_of(vector["frame"])
    assert encode(frame) == theirs(oracle, frame).SerializeToString()


@vectors("encode")
def test_official_sdk_reads_our_bytes(vector: dict[str, Any], oracle: Any) -> None:
    frame = frame_of(vector["frame"])
    read = oracle.FromString(encode(frame))
    assert read.IsInitialized()
    assert read == theirs(oracle, frame)
    assert read.HasField("payload") == (frame.payload is not None)


@vectors("encode")
def test_decode_reads_the_bytes_of_the_official_sdk(vector: dict[str, Any], oracle: Any) -> None:
    frame = frame_of(vector["frame"])
    assert decode(theirs(oracle, frame).SerializeToString()) == frame


@pytest.mark.parametrize("frame", [ping(-1), pong(2**31 - 1, b"{}"), acknowledge(Frame(method=1), 500, 12)])
def test_frames_we_build_are_complete_for_the_official_sdk(frame: Frame, oracle: Any) -> None:
    assert oracle.FromString(encode(frame)).IsInitialized()
