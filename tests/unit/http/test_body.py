"""JSON bodies: read into shapes, refused by field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from gateway.errors import RejectedRequest
from gateway.http.body import decode_json, error_response, json_response


class Inner(msgspec.Struct):
    count: int


class Shape(msgspec.Struct):
    name: str
    inner: Inner | None = None
    tags: list[str] = []
    labels: dict[str, int] = {}


def test_body_of_the_right_shape_is_read() -> None:
    assert decode_json(b'{"name": "n", "inner": {"count": 2}}', Shape) == Shape("n", Inner(2))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "name"),
        (b'{"name": 1}', "name"),
        (b'{"name": "n", "inner": {}}', "inner.count"),
        (b'{"name": "n", "inner": {"count": "x"}}', "inner.count"),
        (b'{"name": "n", "tags": [1]}', "tags[0]"),
        (b'{"name": "n", "labels": {"a": "x"}}', "labels[...]"),
        (b"[]", ""),
        (b"null", ""),
    ],
)
def test_body_of_a_wrong_shape_is_refused_with_its_field(body: bytes, field: str) -> None:
    with pytest.raises(RejectedRequest) as refusal:
        decode_json(body, Shape)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_body")
    assert refusal.value.extra == {"field": field}
    assert "$" not in str(refusal.value)


@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"name": "\xff"}', b'{"name": "n"} x', b"\x00"])
def test_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(RejectedRequest) as refusal:
        decode_json(body, Shape)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_json")


async def answer(response: Any) -> Any:
    return msgspec.json.decode(await response.get_data())


async def test_response_writes_ids_and_utc_times() -> None:
    value = {"id": UUID(int=1), "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    response = json_response(value, 201, {"X-Here": "yes"})
    assert response.status_code == 201
    assert response.mimetype == "application/json"
    assert response.headers["X-Here"] == "yes"
    assert await answer(response) == {"id": "00000000-0000-0000-0000-000000000001", "at": "2026-01-02T03:04:05Z"}


async def test_error_response_has_error_code_and_extras() -> None:
    response = error_response(429, "rate_limited", "too many", {"retry_after": 7, "limit": 60})
    assert response.headers["Retry-After"] == "7"
    assert await answer(response) == {"error": "too many", "code": "rate_limited", "retry_after": 7, "limit": 60}


def test_body_nested_deeper_than_the_parser_goes_is_refused_as_not_json() -> None:
    with pytest.raises(RejectedRequest) as refusal:
        decode_json(b'{"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Shape)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_json")
