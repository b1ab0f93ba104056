"""JSON bodies: read into shapes, refused by field."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from inspect import getsource
from pkgutil import walk_packages
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import inspect as shapes
from quart_trio import QuartTrio

from gateway import http
from gateway.errors import Invalid
from gateway.http.body import PersonBody, RuntimeBody, decode_json, json_response, read_json
from gateway.http.errors import error_response

MODULES = [import_module(each.name) for each in walk_packages(http.__path__, "gateway.http.")]


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
    with pytest.raises(Invalid) as refusal:
        decode_json(body, Shape)
    assert refusal.value.code == "invalid_body"
    assert refusal.value.extra == {"field": field}
    assert "$" not in str(refusal.value)


@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"name": "\xff"}', b'{"name": "n"} x', b"\x00"])
def test_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as refusal:
        decode_json(body, Shape)
    assert refusal.value.code == "invalid_json"


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
    with pytest.raises(Invalid) as refusal:
        decode_json(b'{"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Shape)
    assert refusal.value.code == "invalid_json"


# --- no shape is forgotten --------------------------------------------------------------------------------------------


def read_shapes(module: ModuleType) -> Iterator[type[msgspec.Struct]]:
    """The shape of every `read_json` in a module."""
    for node in ast.walk(ast.parse(getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_json":
            assert isinstance(node.args[0], ast.Name), f"{module.__name__}: name the shape"
            yield getattr(module, node.args[0].id)


READ = [shape for module in MODULES for shape in read_shapes(module)]


def structs_of(type_: object) -> Iterator[type[msgspec.Struct]]:
    """Every struct that a type can hold, itself included."""
    if isinstance(type_, shapes.StructType):
        yield type_.cls
        for field in type_.fields:
            yield from structs_of(field.type)
        return
    for name in ("types", "item_types"):
        for part in getattr(type_, name, ()):
            yield from structs_of(part)
    for name in ("item_type", "type", "key_type", "value_type"):
        if (part := getattr(type_, name, None)) is not None:
            yield from structs_of(part)


@pytest.mark.parametrize("shape", READ, ids=lambda shape: f"{shape.__module__.rpartition('.')[2]}.{shape.__name__}")
def test_body_of_a_route_is_either_a_persons_or_a_runtimes(shape: type[msgspec.Struct]) -> None:
    assert issubclass(shape, PersonBody) ^ issubclass(shape, RuntimeBody)
    strict = {struct: struct.__struct_config__.forbid_unknown_fields for struct in structs_of(shapes.type_info(shape))}
    assert set(strict.values()) == {issubclass(shape, PersonBody)}, strict
    assert issubclass(shape, RuntimeBody) == (
        shape.__module__ in {"gateway.http.api.runtimes", "gateway.http.api.tasks"}
    )


def test_every_route_for_people_that_changes_something_reads_its_body() -> None:
    unread, seen = [], 0
    for module in MODULES:
        for view in ast.walk(ast.parse(getsource(module))):
            if not isinstance(view, ast.AsyncFunctionDef):
                continue
            routes = [each.func.attr for each in view.decorator_list if _is_route(each)]
            if not {"post", "put", "patch"} & set(routes) or module.__name__.endswith(("webhooks", "lark_events")):
                continue
            seen += 1
            read = any(isinstance(node, ast.Name) and node.id in {"read_json", "read_form"} for node in ast.walk(view))
            if not read and module.__name__ not in {"gateway.http.api.runtimes", "gateway.http.api.tasks"}:
                unread.append(f"{module.__name__}.{view.name}")
    assert not unread
    assert seen > 15


def _is_route(decorator: ast.expr) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and isinstance(decorator.func.value, ast.Name)
        and decorator.func.value.id == "blueprint"
    )


class Part(PersonBody):
    event: str


class Asked(PersonBody):
    parts: tuple[Part, ...] = ()


class Reported(RuntimeBody):
    output: str


def test_unknown_member_of_a_persons_body_is_refused_with_its_name_and_of_a_runtimes_ignored() -> None:
    for body, field in ((b'{"part": []}', "part"), (b'{"parts": [{"event": "e", "x": 1}]}', "parts[0].x")):
        with pytest.raises(Invalid) as refusal:
            decode_json(body, Asked)
        assert refusal.value.code == "invalid_body"
        assert refusal.value.extra == {"field": field}
    assert decode_json(b'{"output": "", "of": "tomorrow"}', Reported).output == ""
    with pytest.raises(Invalid) as refusal:
        decode_json(b'{"result": "x"}', Reported)
    assert refusal.value.extra == {"field": "output"}


class Report(RuntimeBody):
    output: str


class Words(PersonBody):
    output: str


async def _read(body: bytes, shape: type[Report | Words]) -> str:
    async with QuartTrio(__name__).test_request_context("/", method="POST", data=body):
        return (await read_json(shape)).output


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (rb'{"output":"cut \ud83d here"}', "cut \ufffd here"),
        (rb'{"output":"cut \uDE00 here"}', "cut \ufffd here"),
        (rb'{"output":"\ud83d\ud83d\ude00"}', "\ufffd\U0001f600"),
        (rb'{"output":"\\ud83d is written so, \ud83d is not"}', "\\ud83d is written so, \ufffd is not"),
        (b'{"output":"caf\xe9"}', "caf\ufffd"),
        (b'{"output":"\xed\xa0\xbd"}', "\ufffd\ufffd\ufffd"),
        (b'{"output":"caf\xe9 \\ud83d"}', "caf\ufffd \ufffd"),
        (rb'{"output":"\ud83d\ude00"}', "\U0001f600"),
    ],
)
async def test_half_a_character_of_a_program_does_not_lose_its_words(body: bytes, output: str) -> None:
    assert await _read(body, Report) == output
    if "\ufffd" in output:
        with pytest.raises(Invalid) as caught:
            await _read(body, Words)
        assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b'{"output":', rb'{"output":"\ud83d"', rb'{"output":"\x"}', b"\xff"])
async def test_body_of_a_program_that_is_no_json_is_still_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        await _read(body, Report)
    assert caught.value.code == "invalid_json"
