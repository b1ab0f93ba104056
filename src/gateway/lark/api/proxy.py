"""The choice of a proxy for a call or a connection. Sans-IO.

The HTTP client and the dialler of long connections ask the same `Proxies`. So both reach the platform the same way.
`gateway.lark.api.tunnel` speaks to the proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from gateway.address import PROXY_PORTS
from gateway.errors import ConfigError

_TARGETS = ("http", "https")
_CREDENTIAL_BYTES_MAX = 255  # a length is one byte in SOCKS5
_NO_PORT = re.compile(r"[^:]*|\[[^\]]*\]|[^\[\]:]*:[^\[\]:]*:[^\[\]]*")
"""An entry without a port: a name or an IPv4 address, an IPv6 address in brackets, or one without them."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP or SOCKS proxy; `scheme` is a key of PROXY_PORTS. `str()` does not show the credentials."""

    host: str
    port: int
    scheme: str = "http"
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
        if parts.scheme not in PROXY_PORTS:
            known = ", ".join(f"{scheme}://" for scheme in PROXY_PORTS)
            raise ConfigError(f"{key}: a {parts.scheme}:// proxy is not supported; these are: {known}")
        if not host or port == 0:
            raise ConfigError(f"{key}: not the URL of a proxy, like http://proxy.example:3128")
        given = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        if given is not None and (fault := _credentials_fault(parts.scheme, *given)):
            raise ConfigError(f"{key}: {fault}")
        return cls(host, port or PROXY_PORTS[parts.scheme], parts.scheme, given)

    def __str__(self) -> str:
        return f"{self.scheme}://{authority(self.host, self.port)}"

    @property
    def tls(self) -> bool:
        """True if the proxy itself is reached over TLS."""
        return self.scheme == "https"

    @property
    def socks(self) -> bool:
        return self.scheme not in _TARGETS


def _credentials_fault(scheme: str, user: str, password: str) -> str | None:
    """Return what keeps a proxy of this scheme from being told the user and password; None if it can be."""
    if scheme in _TARGETS:
        return "the user name for an HTTP proxy may not contain a colon" if ":" in user else None
    for given in (user, password):
        if not (given.isascii() and given.isprintable() and len(given) <= _CREDENTIAL_BYTES_MAX):
            return f"user and password for a SOCKS proxy are at most {_CREDENTIAL_BYTES_MAX} ASCII characters each"
    if scheme.startswith("socks4"):
        return "a SOCKS4 proxy is told a user only, no password" if password else None
    return None if user and password else "a SOCKS5 proxy is told a user and a password, or neither"


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
        for_all = dict.fromkeys(_TARGETS, proxies["all"]) if "all" in proxies else {}
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
