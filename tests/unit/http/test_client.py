"""Whose address counts."""

from ipaddress import ip_network

import pytest

from gateway.http.client import client_address, throttle_key

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", " 198.51.100.7 , 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7:5555", "198.51.100.7"),
        ("10.0.0.1", '"[2001:db8::7]:5555"', "2001:db8::7"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1::5", "198.51.100.7", "198.51.100.7"),
        ("<local>", "198.51.100.7", "None"),
        (None, None, "None"),
    ],
)
def test_client_address_believes_trusted_proxies_only(peer: str | None, header: str | None, client: str) -> None:
    assert str(client_address(peer, header, TRUSTED)) == client


def test_throttle_key_takes_an_ipv6_customer_as_one() -> None:
    one, two, other = (client_address(text, None, ()) for text in ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1"))
    assert throttle_key(one) == throttle_key(two) != throttle_key(other)
