"""Bind addresses, and which of them only this machine reaches."""

from __future__ import annotations

import pytest

from gateway.address import Bind, is_loopback, parse_bind, url_of


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8420", Bind("127.0.0.1", 8420)),
        ("[::1]:0", Bind("::1", 0)),
        ("localhost:65535", Bind("localhost", 65535)),
        ("fd://3", Bind(fd=3)),
    ],
)
def test_bind_good_text_is_read(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize(
    "text", ["", "8420", ":8420", "host:", "host:x", "host:65536", "host:-1", "::1:80", "fd://", "fd://x", "host:٣"]
)
def test_bind_bad_text_is_refused_and_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|fd://N|brackets") as refusal:
        parse_bind(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:9090", True),
        ("127.8.8.8:9090", True),
        ("localhost:9090", True),
        ("[::1]:9090", True),
        ("0.0.0.0:9090", False),
        ("[::]:9090", False),
        ("10.0.0.5:9090", False),
        ("gateway.example.com:9090", False),
        ("fd://3", False),
        ("nonsense", False),
        ("127.0.0.0:9090", True),
        ("127.255.255.255:0", True),
        ("126.255.255.255:9090", False),
        ("128.0.0.1:9090", False),
        (":9090", False),
        ("", False),
        ("9090", False),
        ("localhost", False),
        ("127.0.0.1", False),
        ("[::1]", False),
        ("::1:9090", False),
        ("[::2]:9090", False),
        ("[::]:0", False),
        ("[fe80::1]:9090", False),
        ("192.168.1.1:9090", False),
        ("169.254.0.1:9090", False),
        ("localhost.example.com:9090", False),
        ("127.0.0.1.example.com:9090", False),
        ("127.1:9090", False),
        ("0:9090", False),
        ("127.0.0.1:99999", False),
        ("127.0.0.1:http", False),
        ("*:9090", False),
    ],
)
def test_loopback_address_is_told_from_reachable_ones(text: str, loopback: bool) -> None:
    assert is_loopback(text) is loopback


def test_url_of_v6_address_has_brackets() -> None:
    assert url_of("::1", 80) == "http://[::1]:80"
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
