"""HTTP requests and answers as values, and the table of routes that answer them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

import msgspec


class Refusal(Exception):
    """A refusal of the platform: its own `code` and `msg`, under the HTTP `status`, with extra response headers."""

    def __init__(self, code: int, msg: str, *, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{code}: {msg}")
        self.code = code
        self.msg = msg
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. The path is decoded, header names are in lower case, `params` are parts of the matched path.

    `region` and `base_url` are those of the cloud whose host was called.
    """

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    region: str = "feishu"
    base_url: str = ""

    def argument(self, name: str, default: str = "") -> str:
        """Return the first value of a query argument, or `default`."""
        values = self.query.get(name, ())
        return values[0] if values else default

    def document(self) -> dict[str, Any]:
        """Return the body as a JSON object; {} for an empty body. Raises Refusal for anything else."""
        if not self.body:
            return {}
        try:
            document = msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise Refusal(9499, f"the body is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise Refusal(9499, "the body is not a JSON object")
        return document


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. `code` is the platform's own number, kept for the call log.

    With `stream` the body comes from it piece by piece. `length` is then the announced length; with None no length is
    announced. The stream may raise ConnectionLost in the middle.
    """

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    code: int = 0
    stream: Callable[[], AsyncGenerator[bytes, None]] | None = None
    length: int | None = None


class ConnectionLost(Exception):
    """Raised to reset the caller's connection instead of answering."""


def json_answer(document: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Build a JSON answer. A `code` in the document goes into the call log too."""
    code = document.get("code", 0) if isinstance(document, dict) else 0
    body = msgspec.json.encode(document)
    return Answer(status, body, (("content-type", "application/json; charset=utf-8"), *headers), code)


def read_query(text: str) -> dict[str, tuple[str, ...]]:
    """Return the values of a query's arguments by name, in order, blank values included."""
    return {name: tuple(values) for name, values in parse_qs(text, keep_blank_values=True).items()}


Responder = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    pattern: str
    responder: Responder
    expression: re.Pattern[str]


class Router:
    """Routes in the order in which they were added. `{name}` in a pattern matches one part of the path."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(self, method: str, pattern: str, responder: Responder) -> None:
        expression = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))
        self._routes.append(Route(method, pattern, responder, expression))

    def find(self, request: Request) -> tuple[Route, Request] | None:
        """Return the first matching route and the request with its `params` filled in, or None."""
        for route in self._routes:
            match = route.expression.fullmatch(request.path) if route.method == request.method else None
            if match:
                return route, replace(request, params=match.groupdict())
        return None
