"""Whose address counts."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from quart import Quart
from werkzeug.datastructures import Headers

from gateway.http.client import PROXIES_MAX, client_address, request_address, throttle_key

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        # Without a trusted proxy the header is the client's own claim.
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("<local>", ["198.51.100.7"], "None"),
        (None, [], "None"),
        # One trusted proxy: its entry is the last one, and what stands before it was forged or may have been.
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.66, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["10.9.9.9, 203.0.113.66, 198.51.100.7"], "198.51.100.7"),
        ("2001:db8:1::5", ["203.0.113.66, 2001:db8::7"], "2001:db8::7"),
        # Several trusted proxies in a row are passed over.
        ("10.0.0.1", [" 203.0.113.66 , 198.51.100.7 , 10.0.0.2, 2001:db8:1::9"], "198.51.100.7"),
        # Ports, brackets, quotes, mapped addresses.
        ("10.0.0.1", ["198.51.100.7:5555, 10.0.0.2:443"], "198.51.100.7"),
        ("10.0.0.1", ['"[2001:db8::7]:5555"'], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        # Garbage ends the search: what stands before it cannot be believed.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["unknown, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, 999.1.1.1"], "10.0.0.1"),
        # Blank entries say nothing.
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7,, ,"], "198.51.100.7"),
        # All of them trusted: a client within the trusted networks.
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Several lines are one list, in their order.
        ("10.0.0.1", ["203.0.113.66", "198.51.100.7, 10.0.0.3", "10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7", "203.0.113.66"], "203.0.113.66"),
    ],
)
def test_client_address_is_the_last_one_that_is_not_trusted(peer: str | None, lines: list[str], client: str) -> None:
    assert str(client_address(peer, lines, TRUSTED)) == client


async def test_request_address_reads_every_line_of_the_header() -> None:
    app = Quart(__name__)
    headers = Headers([("X-Forwarded-For", "203.0.113.66"), ("X-Forwarded-For", "198.51.100.7, 10.0.0.2")])
    headers["Remote-Addr"] = "10.0.0.1"
    headers["X-Real-IP"] = "203.0.113.9"
    async with app.test_request_context("/", headers=headers):
        assert str(request_address(TRUSTED)) == "198.51.100.7"


def test_throttle_key_takes_an_ipv6_customer_as_one() -> None:
    one, two, other = (client_address(text, (), ()) for text in ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1"))
    assert throttle_key(one) == throttle_key(two) != throttle_key(other)


CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parents[1] / "webhooks" / "cases" / "webhooks.json").read_bytes()
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["client_ip"]])
def test_client_address_is_the_expected_one(case: dict[str, Any]) -> None:
    given = case["input"]
    trusted = [ip_network(network) for network in given["trusted"]]
    lines = [given["xff"]] if "xff" in given else []
    found = client_address(given["remote"], lines, trusted, real_ip=given.get("xri"))
    assert str(found) == case["expected"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["remote_host"]])
def test_host_part_of_an_address_is_the_expected_one(case: dict[str, Any]) -> None:
    assert str(client_address(case["input"], (), ()) or "") == case["expected"]


@pytest.mark.parametrize(
    ("forwarded", "real_ip", "client"),
    [
        ([], "198.51.100.8", "198.51.100.8"),
        ([], "y", "10.0.0.1"),
        (["198.51.100.7"], "198.51.100.8", "198.51.100.7"),
        (["x"], "198.51.100.8", "10.0.0.1"),
    ],
)
def test_real_ip_counts_where_nothing_was_forwarded(forwarded: list[str], real_ip: str, client: str) -> None:
    assert str(client_address("10.0.0.1", forwarded, TRUSTED, real_ip=real_ip)) == client
    assert str(client_address("192.0.2.1", forwarded, TRUSTED, real_ip=real_ip)) == "192.0.2.1"


def test_only_so_many_proxies_in_a_row_are_looked_through() -> None:
    proxies = [f"10.0.0.{number}" for number in range(PROXIES_MAX + 3)]
    assert str(client_address("10.1.1.1", [",".join(["192.0.2.1", *proxies])], TRUSTED)) == "10.0.0.3"
    few = proxies[: PROXIES_MAX - 1]
    assert str(client_address("10.1.1.1", [",".join(["192.0.2.1", *few])], TRUSTED)) == "192.0.2.1"
