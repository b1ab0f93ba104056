"""HTTP requests and answers as values, and the table that finds who answers them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

import msgspec


class Refusal(Exception):
    """The platform says no: its own `code` and `msg`, under HTTP `status`, with extra response headers."""

    def __init__(self, code: int, msg: str, *, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{code}: {msg}")
        self.code = code
        self.msg = msg
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. The path is decoded, header names are lower case, `params` are parts of the matched path.

    `region` and `base_url` say on which cloud's hosts it arrived.
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
        """The first value of a query argument."""
        values = self.query.get(name, ())
        return values[0] if values else default

    def document(self) -> dict[str, Any]:
        """The body as a JSON object, {} when there is none. Raises Refusal for anything else."""
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
    """One HTTP answer; `code` is the platform's own number, kept for the call log.

    With `stream` the body comes from there, piece by piece, and `length` says how much it is, or None that nobody
    says; it may raise ConnectionLost in the middle.
    """

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    code: int = 0
    stream: Callable[[], AsyncGenerator[bytes, None]] | None = None
    length: int | None = None


class ConnectionLost(Exception):
    """Reset the caller's connection instead of answering."""


def json_answer(document: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """A JSON answer; `code` in the document goes into the call log too."""
    code = document.get("code", 0) if isinstance(document, dict) else 0
    body = msgspec.json.encode(document)
    return Answer(status, body, (("content-type", "application/json; charset=utf-8"), *headers), code)


def read_query(text: str) -> dict[str, tuple[str, ...]]:
    """Query arguments by name, in order, blank values kept."""
    return {name: tuple(values) for name, values in parse_qs(text, keep_blank_values=True).items()}


Responder = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    pattern: str
    responder: Responder
    expression: re.Pattern[str]


class Router:
    """Routes in the order they were added; `{name}` in a pattern matches one part of the path."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(self, method: str, pattern: str, responder: Responder) -> None:
        expression = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))
        self._routes.append(Route(method, pattern, responder, expression))

    def find(self, request: Request) -> tuple[Route, Request] | None:
        """The route that answers, and the request with its `params` filled in."""
        for route in self._routes:
            match = route.expression.fullmatch(request.path) if route.method == request.method else None
            if match:
                return route, replace(request, params=match.groupdict())
        return None
