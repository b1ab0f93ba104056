"""Helpers of all control calls: checking the caller, reading bodies, and turning errors into refusals."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import trio

from gateway.simulator.exchange import Answer, Refusal, Request, json_answer
from gateway.simulator.platform import App, Person, SimChat, SimPlatform

WAIT_SECONDS_MAX = 60.0
LISTED_MAX = 1000

T = TypeVar("T")
Respond = Callable[[Request], Awaitable[object]]
Calls = list[tuple[str, str, Respond]]
"""The method, the path below /_sim/, and the function that answers.

The function's result becomes JSON, unless it is an `Answer` already.
"""


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """The base of every request body."""


def guarded(call: Respond) -> Callable[[Request], Awaitable[Answer]]:
    """Wrap `call` so that it refuses foreign origins, and turns errors into refusals with a message."""

    async def respond(request: Request) -> Answer:
        _refuse_strangers(request)
        try:
            answered = await call(request)
        except LookupError as error:
            raise Refusal(404, str(error), status=404) from error
        except (ValueError, msgspec.ValidationError) as error:
            raise Refusal(400, str(error)) from error
        except trio.WouldBlock as error:
            raise Refusal(503, "too many events are pending", status=503) from error
        return answered if isinstance(answered, Answer) else json_answer(answered)

    return respond


def _refuse_strangers(request: Request) -> None:
    """Refuse web pages of another origin, and those whose host name was rebound to loopback. Raises Refusal (403)."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin", "")
    if host not in ("127.0.0.1", "::1", "localhost", ""):
        raise Refusal(403, f"host {host} is not loopback", status=403)
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal(403, "another origin", status=403)


def read(request: Request, kind: type[T]) -> T:
    return msgspec.convert(request.document(), kind)


def seconds(text: str | float) -> float:
    """Return a waiting time, bounded to 0 to WAIT_SECONDS_MAX. Raises ValueError for text that is no number."""
    return min(max(float(text), 0.0), WAIT_SECONDS_MAX)


def unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def receiver(platform: SimPlatform, handle: str) -> App | SimChat:
    """Return a chat by id, or the app whose direct chat is meant. Raises LookupError."""
    return platform.chats.get(handle) or platform.app(handle)


def member(platform: SimPlatform, handle: str) -> App | Person:
    """Return a bot or a person. Raises LookupError."""
    try:
        return platform.app(handle)
    except LookupError:
        return platform.person(handle)
