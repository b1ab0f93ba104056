"""The bootstrap of the long connection: the request for a URL, its answer, and a refused WebSocket handshake.

The URL carries a single-use ticket in its query. So every dial starts with a new request, and the query is a secret.
There are two kinds of refusal. PlatformRefused is about the credentials or the quota, and the same request will be
refused again. PlatformUnavailable may pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from gateway.channel.errors import PlatformRefused, PlatformUnavailable

PATH: Final = "/callback/ws/endpoint"
"""The path of the request (POST), on the open-platform host of the app's region. It takes no bearer token."""
HEADERS: Final = {"Content-Type": "application/json", "locale": "zh"}
"""Sent with the request. The locale chooses the language of refusals; the platform's own clients send this one."""

FORBIDDEN: Final = 403
AUTHENTICATION_FAILED: Final = 514
TOO_MANY_CONNECTIONS: Final = 1000040350
_BUSY: Final = 1
_INTERNAL_ERROR: Final = 1000040343

_PASSING: Final = frozenset((_BUSY, _INTERNAL_ERROR))
_WORDS: Final = {
    FORBIDDEN: "the app may not use the long connection",
    AUTHENTICATION_FAILED: "the app id or app secret is not accepted",
    TOO_MANY_CONNECTIONS: "the app has too many connections open",
}

PING_INTERVAL_SECONDS_MIN: Final = 0.01
PING_INTERVAL_SECONDS_MAX: Final = 3600.0
_INT32: Final = range(-(2**31), 2**31)
_INTEGER: Final = re.compile(r"-?[0-9]{1,10}", re.ASCII)
_MESSAGE_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Settings that the platform asks its clients to use; sent with the URL and again in pongs.

    The members about reconnecting are not read: the supervisor decides when to dial again, not the platform. None means
    that the platform sent no usable value, and the last good value stays.
    """

    ping_interval_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of one dial; a second dial needs a new one. `service_id` goes into every frame that we send."""

    url: str = field(repr=False)
    service_id: int
    client_config: ClientConfig = ClientConfig()

    @property
    def tls(self) -> bool:
        return self._parts.scheme == "wss"

    @property
    def host(self) -> str:
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        return self._parts.port or (443 if self.tls else 80)

    @property
    def authority(self) -> str:
        """The value of the Host header: host and port as in the URL, without user and password."""
        return self._parts.netloc.rpartition("@")[2]

    @property
    def resource(self) -> str:
        """Path and query. They are secret, because the ticket is in the query."""
        path = self._parts.path or "/"
        return f"{path}?{self._parts.query}" if self._parts.query else path

    def __str__(self) -> str:
        return f"{self._parts.scheme}://{self.authority}{self._parts.path}"

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)


class _Answer(msgspec.Struct):
    code: int
    msg: str | None = None
    data: Any = None


def request_body(app_id: str, app_secret: str) -> bytes:
    """Return the JSON body of the request. Unlike everywhere else in this API, its keys are capitalised."""
    return msgspec.json.encode({"AppID": app_id, "AppSecret": app_secret})


def judge_answer(status: int, body: bytes) -> Endpoint:
    """Read the answer to the request.

    Raises PlatformRefused for a definite no; an unknown code counts as one. Raises PlatformUnavailable for anything
    that may pass: an HTTP status other than 200, a busy platform, an answer that is unreadable or has no usable URL.
    """
    answer = _decode(body)
    if status != 200:
        said = f": {_clip(answer.msg)}" if answer is not None and answer.msg else ""
        raise PlatformUnavailable(f"the request for a connection URL was answered with HTTP {status}{said}")
    if answer is None:
        raise PlatformUnavailable("the answer to the request for a connection URL is not the JSON it should be")
    if answer.code in _PASSING:
        raise PlatformUnavailable(f"the platform is busy (code {answer.code}): {_clip(answer.msg)}", code=answer.code)
    if answer.code != 0:
        raise PlatformRefused(_explain(answer.code, answer.msg), code=answer.code)
    return _read_endpoint(answer.data)


def judge_handshake(status: int, headers: Iterable[tuple[bytes, bytes]]) -> PlatformRefused | PlatformUnavailable:
    """Return the error to raise for a refused WebSocket upgrade.

    The HTTP `status` decides nothing, because proxies refuse upgrades too. The platform gives its reason in headers of
    its own.
    """
    said = {name.lower(): value for name, value in headers}
    code = _integer(said.get(b"handshake-status", b"").decode("latin-1"))
    reason = said.get(b"handshake-msg", b"").decode("utf-8", "replace")
    detail = _integer(said.get(b"handshake-autherrcode", b"").decode("latin-1"))
    if code == FORBIDDEN:
        return PlatformRefused(_explain(code, reason), code=code)
    if code == AUTHENTICATION_FAILED and detail == TOO_MANY_CONNECTIONS:
        return PlatformRefused(_explain(detail, reason), code=detail)
    shown = "" if code is None else f", code {code}"
    return PlatformUnavailable(
        f"the WebSocket handshake was answered with HTTP {status}{shown}: {_clip(reason)}", code=code or 0
    )


def read_client_config(value: object) -> ClientConfig:
    """Read a decoded ClientConfig object. A missing, non-positive or implausible value is ignored."""
    interval = value.get("PingInterval") if isinstance(value, dict) else None
    if not isinstance(interval, int | float) or isinstance(interval, bool):
        return ClientConfig()
    if not PING_INTERVAL_SECONDS_MIN <= interval <= PING_INTERVAL_SECONDS_MAX:
        return ClientConfig()
    return ClientConfig(ping_interval_seconds=float(interval))


def _decode(body: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _read_endpoint(data: object) -> Endpoint:
    url = data.get("URL") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(url, str) or not url:
        raise PlatformUnavailable("the platform accepted the app but gave no connection URL")
    return Endpoint(url, _service_id(url), read_client_config(data.get("ClientConfig")))


def _service_id(url: str) -> int:
    # The error messages leave the URL out, because its query holds the ticket.
    try:
        parts = urlsplit(url)
        dialable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
        query = dict(reversed(parse_qsl(parts.query)))
    except ValueError as error:
        raise PlatformUnavailable("the connection URL cannot be parsed") from error
    if not dialable:
        raise PlatformUnavailable("the connection URL is not a WebSocket URL with a host")
    service_id = _integer(query.get("service_id", ""))
    if service_id is None or service_id not in _INT32:
        raise PlatformUnavailable("the connection URL has no service_id that fits 32 bits")
    return service_id


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _explain(code: int, message: str | None) -> str:
    words = _WORDS.get(code, f"refused with code {code}")
    return f"{words} ({_clip(message)})" if message else words


def _clip(message: str | None) -> str:
    return (message or "")[:_MESSAGE_CHARACTERS_MAX]
