"""The address of a request's client: the peer's address, or the one that trusted proxies report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from quart import request

Address = IPv4Address | IPv6Address
ProxyNetwork = IPv4Network | IPv6Network

PROXIES_MAX = 16
"""The most trusted proxies in a row that are read. A longer list costs time, and only a client would invent one."""


def request_address(trusted: Sequence[ProxyNetwork]) -> Address | None:
    """Return the address of the current request's client, as `client_address` finds it."""
    headers = request.headers
    return client_address(
        request.remote_addr, headers.getlist("X-Forwarded-For"), trusted, real_ip=headers.get("X-Real-IP")
    )


def client_address(
    peer: str | None, forwarded_for: Iterable[str], trusted: Sequence[ProxyNetwork], *, real_ip: str | None = None
) -> Address | None:
    """Return the client's address, or None if the peer has no address (a Unix socket).

    `forwarded_for` holds the lines of X-Forwarded-For in the order in which they arrived. Each proxy appends the
    address that called it, so the list is read from its end. The first entry from there that is not a trusted proxy is
    the client. Entries to the left of it are the client's own claim and are ignored. An entry that is no address ends
    the search: the client is then known only as the proxy that wrote that entry. If every entry is trusted, the
    left-most one counts as the client. At most PROXIES_MAX entries are read; then the last one read counts.

    X-Real-IP counts only without X-Forwarded-For. Both count only if the peer lies in `trusted`.
    """
    client = _parsed(peer or "")
    if client is None or not _is_trusted(client, trusted):
        return client
    # Blank entries are skipped, as in any list that a header holds.
    pieces = ",".join(forwarded_for).rsplit(",", PROXIES_MAX)[-PROXIES_MAX:]
    entries = [entry for entry in pieces if entry.strip()]
    for entry in reversed(entries or [real_ip or ""]):
        found = _parsed(entry)
        if found is None:
            return client
        client = found
        if not _is_trusted(client, trusted):
            return client
    return client


def throttle_key(address: Address | None) -> str:
    """Return the key under which a client is throttled.

    It is an IPv4 address, or the /64 network of an IPv6 address: one customer has such a network to itself.
    """
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 64), strict=False))
    return str(address)


def _is_trusted(address: Address, trusted: Sequence[ProxyNetwork]) -> bool:
    return any(address in network for network in trusted)


def _parsed(text: str) -> Address | None:
    entry = text.strip().strip('"')
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ip_address(entry)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
