"""Requests whose body is bounded by their route, and reading forms from such bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import trio
from quart import request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from gateway.errors import Invalid
from gateway.http.bounds import FIELDS_MAX
from gateway.http.errors import TooLarge

FORM_TYPE = "application/x-www-form-urlencoded"


class BoundedRequest(TrioRequest):
    """A request that takes its body only after `admit` has set the bound, or drops it after `drop`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.admitted = trio.Event()
        self.answering = trio.CancelScope()
        """The scope of the work on the answer. A body that turns out too large cancels it."""
        self.bytes_max = 0
        self.is_cut = False
        """True for a body of which only the beginning was kept, because it is above its bound."""
        self._bytes_taken = 0
        self._bytes_kept: int | None = None
        self._is_dropping = False
        """True once the body is not wanted: its bytes are received, and dropped."""

    def admit(self, bytes_max: int) -> None:
        """Take a body of at most `bytes_max`. Raises TooLarge if Content-Length announces more."""
        # Quart made the body before the route was known, and so without a bound.
        self.body = self.body_class(self.content_length, bytes_max)
        self.bytes_max = bytes_max
        # Set also for a body that is refused below: its bytes must be received, and dropped, to notice a client that
        # leaves.
        self.admitted.set()
        if (self.content_length or 0) > bytes_max:
            self._is_dropping = True
            raise too_large(bytes_max)

    def admit_beginning(self, bytes_max: int, *, kept_bytes: int) -> None:
        """Take a body of at most `bytes_max`, and of a larger one its beginning.

        That has at least `kept_bytes`, unless the whole body has fewer. `is_cut` tells the two apart once the body was
        read.
        """
        is_larger = (self.content_length or 0) > bytes_max
        self.bytes_max = kept_bytes if is_larger else bytes_max
        self._bytes_kept = kept_bytes
        self.body = self.body_class(None, None)
        self.admitted.set()

    def drop(self) -> None:
        """Drop the body: the answer does not depend on it."""
        self._is_dropping = True
        self.admitted.set()

    def take(self, data: bytes, *, is_last: bool) -> None:
        """Take a piece of the body, unless the body is dropped.

        A body above the bound cancels the work on the answer, even if the route never reads the body.
        """
        if self._is_dropping:
            return
        self._bytes_taken += len(data)
        if self._bytes_taken > self.bytes_max:
            self._is_dropping = True
            if self._bytes_kept is None:
                self.answering.cancel()
            else:
                self.is_cut = True
                self.body.append(data[: self._bytes_kept])
                self.body.set_complete()
            return
        self.body.append(data)
        if is_last:
            self.body.set_complete()


class BoundedConnection(TrioASGIHTTPConnection):
    """The ASGI side of one request: receives the messages that the server sends about it."""

    async def handle_messages(  # type: ignore[override]  # as in the base class: quart_trio's has a nursery
        self, nursery: trio.Nursery, request: Any, receive: Any
    ) -> None:
        # No byte is taken before the route is known. Until then the server's bounded queue holds the client back.
        await request.admitted.wait()
        # Receiving goes on after a body was dropped: the message that the client has left comes behind the body.
        while (message := await receive())["type"] == "http.request":
            request.take(message.get("body", b""), is_last=not message.get("more_body", False))
        nursery.cancel_scope.cancel()


def too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the request body may have {bytes_max} bytes here, and has more")


def refuse_many_parameters(query: bytes) -> None:
    """Check the number of query parameters. Raises Invalid for FIELDS_MAX or more separators (`&`)."""
    if query.count(b"&") >= FIELDS_MAX:
        raise Invalid("too_many_parameters", f"a query string may have {FIELDS_MAX} parameters")


async def read_form() -> Mapping[str, str]:
    """Read the current request's body as a form of one of our pages. Of fields with the same name the first counts.

    A body of another content type gives no fields. Raises Invalid for more than FIELDS_MAX fields or for text
    that is not UTF-8, TooLarge above the route's bound.
    """
    body: bytes = await request.get_data(as_text=False, cache=False, parse_form_data=False)
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        return {}
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError as error:
        message = f"a form has at most {FIELDS_MAX} fields, in UTF-8"
        raise Invalid("invalid_form", message) from error
    # Reversed, because the last assignment to a key wins in dict().
    return dict(reversed(fields))
