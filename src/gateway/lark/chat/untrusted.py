"""Reads JSON from outside, of which every member may be missing or of another type. Sans-IO."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from gateway.errors import RemoteProtocolError

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: JSON can carry them, Postgres text cannot."""


def parse_json(data: bytes) -> Any:
    """Decode JSON, also with lone surrogates in it. Raises RemoteProtocolError."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return parse_leniently(data)


def parse_leniently(data: bytes) -> Any:
    """Decode JSON with the standard library, which accepts lone surrogates. Raises RemoteProtocolError.

    A client that cuts a text inside an emoji does send them.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{len(data)} bytes that are not JSON") from error


def content_fields(content: str) -> dict[str, Any]:
    """Decode the content of a message, which is a JSON object in a string. Anything else is an empty object."""
    try:
        fields = parse_json(content.encode(errors="surrogatepass"))
    except RemoteProtocolError:
        return {}
    return fields if isinstance(fields, dict) else {}


def object_in(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def list_in(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    return value if isinstance(value, list) else []


def objects_in(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of a list. Whatever else is in it is left out."""
    return [entry for entry in list_in(fields, name) if isinstance(entry, dict)]


def raw_text_in(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def text_in(fields: dict[str, Any], name: str) -> str:
    """Return a string without the characters that the database cannot hold; "" if the value is no string."""
    return _UNSTORABLE.sub("", raw_text_in(fields, name))
