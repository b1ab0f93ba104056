"""JSON in and out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from quart import Response, request

from gateway.errors import RejectedRequest


class PersonBody(msgspec.Struct, forbid_unknown_fields=True):
    """What people send. A member that is not known is refused: whoever sent it believes that it does something."""


class NoBody(PersonBody):
    """The body of a route that needs none: nothing, or an empty object."""


class RuntimeBody(msgspec.Struct):
    """What runtimes send. A member that is not known is ignored: a worker may be newer than this server."""


T = TypeVar("T", bound=PersonBody | RuntimeBody)
S = TypeVar("S", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_NAMED = re.compile(r"field `(?P<field>[^`]+)`")


async def read_json(shape: type[T]) -> T:
    """Read the current request's body as `shape`. An empty body counts as an empty object.

    Raises RejectedRequest: 400 `invalid_json` or `invalid_body`; its `field` names what is wrong. Its size is bounded
    by the route (`gateway.http.bounds`).
    """
    body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
    return decode_json(body or b"{}", shape)


def decode_json(body: bytes, shape: type[S]) -> S:
    """Read bytes as `shape`. Raises RejectedRequest (400) that names the field at fault."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        complaint = str(error)
        raise RejectedRequest(
            400, "invalid_body", complaint.split(" - at ", maxsplit=1)[0], field=_field(complaint)
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The last is for JSON that is nested deeper than any body of ours.
        raise RejectedRequest(400, "invalid_json", "the body is not JSON in UTF-8") from error


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; msgspec writes ids, times and structs."""
    response = Response(msgspec.json.encode(value), status=status, mimetype="application/json")
    response.headers.update(headers or {})
    return response


def no_content() -> Response:
    # An empty text, not no body at all: Quart would iterate over nothing, on asyncio.
    return Response("", status=204)


def error_response(status: int, code: str, message: str, extra: Mapping[str, object] | None = None) -> Response:
    """The one shape of an error. An extra `retry_after` (seconds) is also sent as the header of that name."""
    fields = dict(extra or {})
    headers = {"Retry-After": str(fields["retry_after"])} if "retry_after" in fields else None
    return json_response({"error": message, "code": code, **fields}, status, headers)


def _field(complaint: str) -> str:
    """The dotted name of what a msgspec complaint is about; empty for the body as a whole."""
    place = _PLACE.search(complaint)
    named = _NAMED.search(complaint)
    return ".".join(filter(None, (place and place["path"], named and named["field"])))
