"""Where a request comes from: the peer's address, or what the proxies that are trusted say of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from quart import request

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PROXIES_MAX = 16
"""Proxies in a row that are looked through. A longer list takes time to read, and only a client makes one up."""


def request_address(trusted: Sequence[Network]) -> Address | None:
    """The address of the current request's client, as `client_address` finds it."""
    headers = request.headers
    return client_address(
        request.remote_addr, headers.getlist("X-Forwarded-For"), trusted, real_ip=headers.get("X-Real-IP")
    )


def client_address(
    peer: str | None, forwarded_for: Iterable[str], trusted: Sequence[Network], *, real_ip: str | None = None
) -> Address | None:
    """The client's address; None where the peer has none (a Unix socket).

    `forwarded_for` has the lines of X-Forwarded-For in the order in which they came. Each proxy appends the address
    that it was called from, so the list is read from its end. The client is the first entry found there that is not
    itself a trusted proxy; what stands to the left of it is the client's own claim and is ignored. An entry that is no
    address ends the search: the client is then known only as the proxy that wrote it. When every entry is trusted, the
    left-most one is the client, or the one before which PROXIES_MAX were looked through.

    X-Real-IP counts only without X-Forwarded-For, and both count only when the peer lies in `trusted`.
    """
    client = _parsed(peer or "")
    if client is None or not _is_trusted(client, trusted):
        return client
    # A blank entry says nothing, as in every list of a header.
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
    """What counts as one client: an IPv4 address, or the /64 network that one IPv6 customer has to itself."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 64), strict=False))
    return str(address)


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
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
