"""Where a request comes from: the peer's address, or what a proxy that is trusted says of it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(
    peer: str | None, forwarded_for: str | None, trusted: Sequence[Network], *, real_ip: str | None = None
) -> Address | None:
    """The client's address; None where the peer has none (a Unix socket).

    The headers X-Forwarded-For and X-Real-IP count only when the peer lies in `trusted`: anybody can write them. The
    left-most entry of the first is the client, so a trusted proxy must not pass on what its own clients wrote there.
    What is no address leaves the next one to say: the second header, then the peer.
    """
    address = _parsed(peer or "")
    if address is None or not any(address in network for network in trusted):
        return address
    return _parsed((forwarded_for or "").split(",", maxsplit=1)[0]) or _parsed(real_ip or "") or address


def throttle_key(address: Address | None) -> str:
    """What counts as one client: an IPv4 address, or the /64 network that one IPv6 customer has to itself."""
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)


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
