"""Reading JSON request bodies, and writing JSON answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from quart import Response, request

from gateway.core.plain import with_whole_characters
from gateway.errors import Invalid


class PersonBody(msgspec.Struct, forbid_unknown_fields=True):
    """Base of the bodies that people send. An unknown member is refused, because its sender believes it has effect."""


class NoBody(PersonBody):
    """The body of a route that needs no input: no bytes, or an empty object."""


class RuntimeBody(msgspec.Struct):
    """Base of the bodies that runtimes send. An unknown member is ignored: a worker may be newer than this server."""


T = TypeVar("T", bound=PersonBody | RuntimeBody)
S = TypeVar("S", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_NAMED = re.compile(r"field `(?P<field>[^`]+)`")


async def read_json(shape: type[T]) -> T:
    """Read the current request's body as `shape`. An empty body counts as an empty object.

    Raises Invalid: `invalid_json`, or `invalid_body` whose `field` names the member at fault. The
    body's size is bounded by the route (`gateway.http.bounds`). What is not Unicode in a runtime's body becomes U+FFFD.
    """
    body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
    if not issubclass(shape, RuntimeBody):
        return decode_json(body or b"{}", shape)
    try:
        return decode_json(body or b"{}", shape)
    except Invalid as error:
        # A worker passes on what a program wrote, which may be cut within a character. The words count, not the cut.
        mended = with_whole_characters(body.decode(errors="replace").encode())
        if error.code != "invalid_json" or mended == body:
            raise
    return decode_json(mended, shape)


def decode_json(body: bytes, shape: type[S]) -> S:
    """Read bytes as `shape`. Raises Invalid that names the field at fault."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        complaint = str(error)
        raise Invalid("invalid_body", complaint.split(" - at ", maxsplit=1)[0], field=_field(complaint)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # RecursionError: the JSON is nested deeper than any body of this API.
        raise Invalid("invalid_json", "the body is not JSON in UTF-8") from error


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Build a JSON answer. msgspec encodes ids, times and structs."""
    response = Response(msgspec.json.encode(value), status=status, mimetype="application/json")
    response.headers.update(headers or {})
    return response


def no_content() -> Response:
    # The body is an empty text and not None: Quart would iterate over None with asyncio, and this program runs on trio.
    return Response("", status=204)


def _field(complaint: str) -> str:
    """Return the dotted name of the member that a msgspec complaint is about; empty for the body as a whole."""
    place = _PLACE.search(complaint)
    named = _NAMED.search(complaint)
    return ".".join(filter(None, (place and place["path"], named and named["field"])))
