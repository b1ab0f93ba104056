"""Pages of long lists: `?limit=` and `?offset=`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quart import Response, request

from gateway.errors import RejectedRequest
from gateway.http.body import json_response

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
OFFSET_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class Page:
    limit: int
    offset: int


def read_page() -> Page:
    """The page that the current request asks for. Raises RejectedRequest (400) that names the parameter."""
    return Page(_number("limit", LIMIT_DEFAULT, 1, LIMIT_MAX), _number("offset", 0, 0, OFFSET_MAX))


def listing(name: str, rows: Sequence[object], page: Page, total: int) -> Response:
    """A page as an answer; `total` is the number of rows on all pages."""
    return json_response({name: rows, "total": total, "limit": page.limit, "offset": page.offset})


def _number(name: str, default: int, least: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    # Digits only: int() would take signs, blanks, underscores and other scripts' numerals as well.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else -1
    if not least <= number <= most:
        message = f"{name} must be a number from {least} to {most}"
        raise RejectedRequest(400, "invalid_parameter", message, field=name)
    return number
