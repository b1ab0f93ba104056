"""Pages of long lists: `?limit=` and `?offset=`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quart import Response

from gateway.http.body import json_response
from gateway.http.query import Judge, given, number

OFFSET_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class Page:
    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class Paging:
    """The paging rules of one list. A view declares `takes(**paging.parameters)`, and then reads the page.

    With `asked_max`, a request may ask for a limit between `limit_max` and `asked_max`; it gets `limit_max` rows. A
    larger limit is refused.
    """

    limit_default: int = 50
    limit_max: int = 200
    asked_max: int | None = None

    @property
    def parameters(self) -> dict[str, Judge]:
        return {"limit": number(1, self.asked_max or self.limit_max), "offset": number(0, OFFSET_MAX)}

    def read(self) -> Page:
        """Return the page that the current request asks for."""
        limit, offset = given("limit"), given("offset")
        return Page(min(int(limit or self.limit_default), self.limit_max), int(offset or 0))


USUAL = Paging()
PAGED = USUAL.parameters
"""The parameters that a view declares if it calls `read_page`."""


def read_page() -> Page:
    """Return the page that the current request asks for, by the usual paging rules."""
    return USUAL.read()


def listing(name: str, rows: Sequence[object], page: Page, total: int) -> Response:
    """Build the answer for one page. `total` is the number of rows on all pages."""
    return json_response({name: rows, "total": total, "limit": page.limit, "offset": page.offset})
