"""Listener addresses: `host:port`, or `fd://N` for a socket that systemd (or a parent process) opened.

Also the kinds of proxy through which other addresses can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType

PROXY_PORTS = MappingProxyType(
    {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080, "socks4a": 1080}
)
"""The default port by the scheme of a proxy's URL. Proxies of other schemes cannot be used."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A parsed bind address: either `fd`, or `host` and `port` (0 lets the kernel choose)."""

    host: str = ""
    port: int = 0
    fd: int | None = None

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach the address. False for an inherited socket, which is not inspected."""
        if self.fd is not None:
            return False
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_bind(text: str) -> Bind:
    """Read `host:port`, `[v6]:port` or `fd://N`. Raises ValueError with a one-line message."""
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not _is_decimal(number):
            raise ValueError(f"{text!r} is not fd://N with a file descriptor number")
        return Bind(fd=int(number))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not _is_decimal(port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port with a port from 0 to 65535, nor fd://N")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text!r} needs brackets around an IPv6 address, as in [::1]:8420")
    return Bind(host=host.removeprefix("[").removesuffix("]"), port=int(port))


def is_loopback(text: str) -> bool:
    """True if only this machine can reach the address `text` (`host:port`). False when `text` cannot be parsed."""
    try:
        return parse_bind(text).loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """Return the http URL of a bound address. Puts brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
