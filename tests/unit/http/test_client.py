"""Whose address counts."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
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


CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parents[1] / "webhooks" / "cases" / "webhooks.json").read_bytes()
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["client_ip"]])
def test_client_address_is_the_expected_one(case: dict[str, Any]) -> None:
    given = case["input"]
    trusted = [ip_network(network) for network in given["trusted"]]
    found = client_address(given["remote"], given.get("xff"), trusted, real_ip=given.get("xri"))
    assert str(found) == case["expected"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["remote_host"]])
def test_host_part_of_an_address_is_the_expected_one(case: dict[str, Any]) -> None:
    assert str(client_address(case["input"], None, ()) or "") == case["expected"]


@pytest.mark.parametrize(
    ("forwarded", "real_ip", "client"),
    [(None, "198.51.100.8", "198.51.100.8"), ("198.51.100.7", "198.51.100.8", "198.51.100.7"), ("x", "y", "10.0.0.1")],
)
def test_real_ip_counts_where_nothing_was_forwarded(forwarded: str | None, real_ip: str, client: str) -> None:
    assert str(client_address("10.0.0.1", forwarded, TRUSTED, real_ip=real_ip)) == client
    assert str(client_address("192.0.2.1", forwarded, TRUSTED, real_ip=real_ip)) == "192.0.2.1"
