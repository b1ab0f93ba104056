"""The choice of a proxy for a call or a connection, and the CONNECT exchange with the proxy. Sans-IO.

The HTTP client and the dialler of long connections ask the same `Proxies`. So both reach the platform the same way.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

import h11

from gateway import __version__
from gateway.channel.channel import LinkLost, LinkRefused
from gateway.errors import ConfigError

HEADER_BYTES_MAX = 16 * 2**10
"""The longest answer to CONNECT, in bytes. Anything longer is not taken for the answer of a proxy."""
_PORTS = {"http": 80, "https": 443}
_REASON_CHARACTERS_MAX = 100
_NO_PORT = re.compile(r"[^:]*|\[[^\]]*\]|[^\[\]:]*:[^\[\]:]*:[^\[\]]*")
"""An entry without a port: a name or an IPv4 address, an IPv6 address in brackets, or one without them."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, itself reached over TLS or not. `str()` does not show the credentials."""

    host: str
    port: int
    tls: bool = False
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, key: str) -> Proxy:
        """Read the URL of a proxy. Raises ConfigError.

        The error names `key` and shows nothing of the text, which may hold a password.
        """
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(f"{key}: not the URL of a proxy, like http://proxy.example:3128") from None
        if parts.scheme not in _PORTS:
            raise ConfigError(f"{key}: a {parts.scheme}:// proxy is not supported; http:// and https:// ones are")
        if not host or port == 0:
            raise ConfigError(f"{key}: not the URL of a proxy, like http://proxy.example:3128")
        given = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        return cls(host, port or _PORTS[parts.scheme], parts.scheme == "https", given)

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{authority(self.host, self.port)}"

    @property
    def authorization(self) -> str | None:
        """The value of the Proxy-Authorization header; None without credentials."""
        if self.credentials is None:
            return None
        return "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()


class Proxies:
    """The proxies by scheme, and the targets that are exempt from them."""

    def __init__(self, by_scheme: Mapping[str, Proxy], exempt: tuple[_Exempt, ...] = ()) -> None:
        self._by_scheme = dict(by_scheme)
        self._exempt = exempt

    @classmethod
    def of(cls, proxy_url: str | None, environ: Mapping[str, str]) -> Proxies:
        """Read the proxies from `proxy_url`, or from the standard variables if it is None.

        `proxy_url` replaces all of the standard variables, NO_PROXY too. A variable is read in lower case if it is set
        so, else in upper case; an empty one means no proxy. Raises ConfigError, which names the faulty setting.
        """
        if proxy_url is not None:
            proxy = Proxy.parse(proxy_url, "lark.proxy_url")
            return cls({"http": proxy, "https": proxy})
        exempt = tuple(_exemptions(_variable(environ, "no_proxy")[1]))
        found = {scheme: _variable(environ, f"{scheme}_proxy") for scheme in ("all", "http", "https")}
        proxies = {scheme: Proxy.parse(text, name) for scheme, (name, text) in found.items() if text}
        for_all = dict.fromkeys(_PORTS, proxies["all"]) if "all" in proxies else {}
        return cls(for_all | {scheme: proxy for scheme, proxy in proxies.items() if scheme != "all"}, exempt)

    @property
    def known(self) -> list[Proxy]:
        """All proxies, each of them once."""
        return list(dict.fromkeys(self._by_scheme.values()))

    def route(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy for a target; None for a direct connection.

        `scheme` is http or https; pass http for ws, and https for wss. Loopback addresses and localhost are always
        reached directly.
        """
        name = host.lower().strip("[]").rstrip(".")
        if _is_loopback(name) or any(exempt.covers(name, port) for exempt in self._exempt):
            return None
        return self._by_scheme.get(scheme)


class Tunnel:
    """One CONNECT exchange with a proxy: the bytes to send, and the reading of the answer."""

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self._proxy = proxy
        self._target = authority(host, port)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)

    def request(self) -> bytes:
        """Return the CONNECT request as bytes.

        Raises LinkLost for a target that does not fit into a request: its name came from outside.
        """
        headers = [("Host", self._target), ("User-Agent", f"agent-gateway/{__version__}")]
        if self._proxy.authorization is not None:
            headers.append(("Proxy-Authorization", self._proxy.authorization))
        try:
            asked = h11.Request(method="CONNECT", target=self._target, headers=headers)
        except (h11.LocalProtocolError, UnicodeError) as error:
            raise LinkLost(f"the proxy {self._proxy} cannot be asked for {self._target!r}") from error
        return (self._http.send(asked) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def receive(self, data: bytes) -> bool:
        """Take bytes from the proxy, b"" for the end of its stream. Return True once the tunnel is established.

        Raises LinkLost, and LinkRefused for a problem that an operator has to solve. Bytes after the answer are an
        error: in TLS as in plain WebSocket the client speaks first, so the target cannot have sent them.
        """
        if not data:
            raise LinkLost(f"the proxy {self._proxy} closed the connection instead of answering CONNECT")
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise LinkLost(f"the proxy {self._proxy} does not answer CONNECT as a proxy does: {error}") from error
        if event is h11.NEED_DATA:
            return False
        if not isinstance(event, h11.Response):
            raise LinkLost(f"the proxy {self._proxy} does not answer CONNECT as a proxy does")
        if not 200 <= event.status_code < 300:
            raise self._refusal(event)
        if self._http.trailing_data[0]:
            raise LinkLost(f"the proxy {self._proxy} sent bytes of its own into the tunnel to {self._target}")
        return True

    def _refusal(self, answer: h11.Response) -> LinkLost | LinkRefused:
        status = answer.status_code
        if status == 407:
            return LinkRefused(status, credentials_wanted(self._proxy))
        if status == 403:
            return LinkRefused(status, f"the proxy {self._proxy} does not allow connections to {self._target} (403)")
        said = bytes(answer.reason).decode("latin-1")[:_REASON_CHARACTERS_MAX]
        return LinkLost(f"the proxy {self._proxy} gave no way to {self._target}: HTTP {status} {said}".rstrip())


def credentials_wanted(proxy: Proxy) -> str:
    """Explain a 407 answer to an operator."""
    what = "wants a user and password" if proxy.credentials is None else "does not accept the user and password given"
    return f"the proxy {proxy} {what} (407); see lark.proxy_url or the standard proxy variables"


def authority(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Exempt:
    """An entry of NO_PROXY. `name` covers itself and its subdomains, or with a leading dot only the subdomains."""

    name: str = ""
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None
    everything: bool = False

    def covers(self, host: str, port: int) -> bool:
        if self.everything:
            return True
        if self.port not in {None, port}:
            return False
        if self.network is not None:
            return _is_within(host, self.network)
        return host == self.name or host.endswith("." + self.name.removeprefix("."))


def _exemptions(text: str) -> Iterator[_Exempt]:
    """Read NO_PROXY. Unreadable entries are skipped, as other programs that read the same variable do."""
    for entry in re.split(r"[,\s]+", text.lower()):
        if entry == "*":
            yield _Exempt(everything=True)
        elif entry and (exempt := _exempt(entry)) is not None:
            yield exempt


def _exempt(entry: str) -> _Exempt | None:
    host, port = (entry, "") if _NO_PORT.fullmatch(entry) else entry.rsplit(":", 1)
    if port and not re.fullmatch("[0-9]{1,5}", port):
        return None
    number = int(port) if port else None
    host = host.strip("[]").removeprefix("*").rstrip(".")
    try:
        return _Exempt(network=ip_network(host, strict=False), port=number)
    except ValueError:
        readable = host.strip(".") and not set(host) & set("/*:[]")
        return _Exempt(name=host, port=number) if readable else None


def _is_within(host: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(host) in network
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the spelling under which a variable was found, and its value."""
    spelt = name if name in environ else name.upper()
    return spelt, environ.get(spelt, "").strip()
