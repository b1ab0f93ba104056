"""The way through a proxy: from a connection to the proxy to a connection to the target, by CONNECT or SOCKS.

python-socks makes the exchange. It takes the first bytes that come for the whole answer to CONNECT, and would leave the
rest of a divided answer in the tunnel. So it reads through `_Wire`, which gives it answers whole.
"""

from __future__ import annotations

import math
from typing import Any

import trio
from python_socks import ProxyError, ProxyType
from python_socks.async_.trio.v2 import Proxy as Exchange

from gateway.channel.errors import PlatformRefused, PlatformUnreachable
from gateway.lark.api.proxy import Proxy, authority, credentials_wanted
from gateway.lark.api.reason import why

HEADER_BYTES_MAX = 16 * 2**10
"""The longest answer to CONNECT, in bytes. Anything longer is not taken for the answer of a proxy."""

_RECEIVE_BYTES = 16 * 2**10
_REASON_CHARACTERS_MAX = 100
_HOST_BYTES_MAX = 255  # a length is one byte in SOCKS5
_BLANK_LINE = b"\r\n\r\n"
_CREDENTIALS_REFUSED = 407
_FORBIDDEN = 403
_SOCKS5_FORBIDDEN = 0x02
_SOCKS4_IDENTITY_REFUSED = frozenset({0x5C, 0x5D})
_SOCKS5_CREDENTIALS_REFUSED = ("No acceptable authentication methods", "Username and password authentication failure")
"""The beginnings of python-socks's two errors about credentials. These errors have no code."""

# The scheme decides who resolves names: with socks4 this machine, because that version knows addresses only.
_KINDS: dict[str, tuple[ProxyType, bool]] = {
    "http": (ProxyType.HTTP, True),
    "https": (ProxyType.HTTP, True),
    "socks4": (ProxyType.SOCKS4, False),
    "socks4a": (ProxyType.SOCKS4, True),
    "socks5": (ProxyType.SOCKS5, True),
    "socks5h": (ProxyType.SOCKS5, True),
}


async def ask_for(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy at the other end of `stream` connect it to the target. It then carries what the two ends say.

    Raises PlatformRefused for a problem that an operator has to solve, else PlatformUnreachable. There is no time-out
    in here. The caller closes `stream`, which is of no more use after an exception or a cancellation.
    """
    _require_host(proxy, host)
    kind, resolved_there = _KINDS[proxy.scheme]
    wire = _Wire(stream, proxy, authority(host, port))
    exchange = Exchange(kind, proxy.host, proxy.port, *_spelt(proxy), rdns=resolved_there, forward=_Connected(wire))
    try:
        await exchange.connect(host, port, timeout=math.inf)
    except ProxyError as error:
        # Any 2xx opens the tunnel. The library knows 200 alone, and `_Wire` has kept it from closing the stream.
        if not (kind is ProxyType.HTTP and 200 <= (error.error_code or 0) < 300):
            raise _refusal(proxy, wire.target, error) from error
    except trio.BrokenResourceError as error:
        raise PlatformUnreachable(f"the connection to the proxy {proxy} broke: {why(error)}") from error
    except OSError as error:
        raise PlatformUnreachable(f"{host} has no address to give to the proxy {proxy}: {why(error)}") from error
    except ValueError as error:  # what came cannot be decoded
        raise _no_proxy(proxy) from error
    if wire.surplus:
        # In TLS as in plain WebSocket the client speaks first, so the target cannot have sent them.
        raise PlatformUnreachable(f"the proxy {proxy} sent bytes of its own into the tunnel to {wire.target}")


def _require_host(proxy: Proxy, host: str) -> None:
    """Raise PlatformUnreachable for a target that does not fit into a request. Its name came from outside."""
    fits = host.isascii() and host.isprintable() and " " not in host and len(host) <= _HOST_BYTES_MAX
    try:
        host.encode("idna")  # as SOCKS wants it; fails for an empty label, and for one that is too long
    except UnicodeError:
        fits = False
    if not fits:
        raise PlatformUnreachable(f"the proxy {proxy} cannot be asked for {host!r}")


def _spelt(proxy: Proxy) -> tuple[str | None, str | None]:
    """Return user and password as the library wants them: it encodes those for HTTP as latin-1, and we mean UTF-8."""
    if proxy.credentials is None:
        return None, None
    user, password = (given.encode().decode("latin-1") for given in proxy.credentials)
    return user, password


class _Connected(Exchange):
    """The connection to the proxy that exists already, in the place of one that the library would open."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    async def connect(self, *_: Any, **__: Any) -> Any:
        return self._wire


class _Wire:
    """The stream that the library uses. It leaves closing to the owner of the real one.

    `surplus` are bytes that came behind the answer to CONNECT. The exchange of SOCKS reads none.
    """

    def __init__(self, stream: trio.abc.Stream, proxy: Proxy, target: str) -> None:
        self._stream = stream
        self._proxy = proxy
        self.target = target
        self.surplus = bytearray()

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def read(self, _bytes_max: int = 0) -> bytes:
        """Return the whole head of the answer to CONNECT, and none of the interim answers (1xx) before it."""
        head = await self._head()
        while head[len("HTTP/1.1") :].startswith(b" 1"):
            head = await self._head()
        return head

    async def read_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += await self._receive(count - len(data))
        return bytes(data)

    async def close(self) -> None:
        return None

    async def _head(self) -> bytes:
        while (end := self.surplus.find(_BLANK_LINE)) < 0:
            if len(self.surplus) > HEADER_BYTES_MAX:
                raise _no_proxy(self._proxy)
            self.surplus += await self._receive(_RECEIVE_BYTES)
        length = end + len(_BLANK_LINE)
        head = bytes(self.surplus[:length])
        del self.surplus[:length]
        if not head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
            raise _no_proxy(self._proxy)
        return head

    async def _receive(self, count: int) -> bytes:
        data = bytes(await self._stream.receive_some(count))
        if not data:
            what = f"closed the connection instead of answering {protocol(self._proxy)}"
            raise PlatformUnreachable(f"the proxy {self._proxy} {what}")
        return data


def protocol(proxy: Proxy) -> str:
    """Return the name of what a proxy is asked by."""
    return proxy.scheme[: len("socks5")].upper() if proxy.socks else "CONNECT"


def _refusal(proxy: Proxy, target: str, error: ProxyError) -> PlatformRefused | PlatformUnreachable:
    code, words = error.error_code, _shown(str(error))
    if proxy.socks:
        if words.startswith(_SOCKS5_CREDENTIALS_REFUSED) or code in _SOCKS4_IDENTITY_REFUSED:
            return PlatformRefused(credentials_wanted(proxy), code=_CREDENTIALS_REFUSED)
        if protocol(proxy) == "SOCKS5" and code == _SOCKS5_FORBIDDEN:
            return PlatformRefused(f"the proxy {proxy} does not allow connections to {target}", code=_FORBIDDEN)
    elif code == _CREDENTIALS_REFUSED:
        return PlatformRefused(credentials_wanted(proxy), code=code)
    elif code == _FORBIDDEN:
        return PlatformRefused(f"the proxy {proxy} does not allow connections to {target} (403)", code=code)
    if code is None:
        return _no_proxy(proxy, words)
    return PlatformUnreachable(f"the proxy {proxy} gave no way to {target}: {'' if proxy.socks else 'HTTP '}{words}")


def _no_proxy(proxy: Proxy, words: str = "") -> PlatformUnreachable:
    said = f": {words}" if words else ""
    return PlatformUnreachable(f"the proxy {proxy} does not answer {protocol(proxy)} as a proxy does{said}")


def _shown(text: str) -> str:
    """Return words of a proxy in a form that can be stored and printed."""
    return "".join(letter for letter in text if letter.isprintable())[:_REASON_CHARACTERS_MAX].strip()
