"""How a client is let in: the request for a connection URL, its answer, and a refused WebSocket handshake.

The URL carries a single-use ticket in its query, so every dial starts with a new request, and the query is a secret.
Two kinds of "no" matter: PlatformRefused is about the credentials or the quota and will be repeated,
PlatformUnavailable may pass.
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
"""Where the request goes (POST), on the open-platform host of the app's region. It takes no bearer token."""
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
    """What the platform asks of its clients; sent with the URL and again in pongs.

    Its reconnect members are not read: when to dial again is the supervisor's decision, not the peer's. None means
    that nothing usable was said, and the last good value stays.
    """

    ping_interval_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to dial, once. `service_id` goes into every frame we send."""

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
        """For the Host header: the port only when it is not the scheme's own."""
        return self._parts.netloc.rpartition("@")[2]

    @property
    def resource(self) -> str:
        """Path and query: secret, because the ticket is in it."""
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
    """The JSON body of the request; its keys are capitalised unlike everywhere else in this API."""
    return msgspec.json.encode({"AppID": app_id, "AppSecret": app_secret})


def judge_answer(status: int, body: bytes) -> Endpoint:
    """Read the answer to the request.

    Raises PlatformRefused for a definite no (an unknown code counts as one), and PlatformUnavailable for anything that
    may pass: another HTTP status, a busy platform, an answer that cannot be read or does not say where to dial.
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
    """What a refused WebSocket upgrade means, as the error to raise.

    The HTTP `status` decides nothing: proxies refuse too. The platform says why in headers of its own.
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
    """Read a decoded ClientConfig object; anything missing, non-positive or implausible is as if it was not said."""
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
    # The messages leave the URL out: its query is a ticket.
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
