"""Known answers of the wire, from protocol/vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.lark.wire.frame import Frame

DIRECTORY = Path(__file__).parents[2] / "protocol" / "vectors"


def vectors(name: str) -> Any:
    """A parametrisation: one case per vector of the file, named as there."""
    cases = msgspec.json.decode((DIRECTORY / f"{name}.json").read_bytes())
    return pytest.mark.parametrize("vector", [pytest.param(case, id=case["name"]) for case in cases])


def frame_of(fields: dict[str, Any]) -> Frame:
    """The frame that a vector describes; fields it does not name have their defaults."""
    said = dict(fields)
    payload_hex = said.pop("payload_hex", None)
    headers = said.pop("headers", [])
    headers_hex = said.pop("headers_hex", [])
    text = {key: said.pop(key).encode() for key in ("payload_encoding", "payload_type", "log_id_new") if key in said}
    return Frame(
        headers=(
            *((key.encode(), value.encode()) for key, value in headers),
            *((bytes.fromhex(key), bytes.fromhex(value)) for key, value in headers_hex),
        ),
        payload=None if payload_hex is None else bytes.fromhex(payload_hex),
        **text,
        **said,
    )
