"""Which way a target is reached, and what is said to a proxy."""

from __future__ import annotations

import base64
import contextlib

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.channel import LinkLost, LinkRefused
from gateway.errors import ConfigError
from gateway.lark.api.proxy import HEADER_BYTES_MAX, Proxies, Proxy, Tunnel

PROXY = Proxy("proxy.example", 3128)
WITH_PASSWORD = Proxy("proxy.example", 3128, credentials=("ann", "fake-pass:word"))


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128), "http://proxy.example:3128"),
        ("proxy.example:3128", Proxy("proxy.example", 3128), "http://proxy.example:3128"),
        ("HTTP://Proxy.Example/", Proxy("proxy.example", 80), "http://proxy.example:80"),
        ("https://proxy.example", Proxy("proxy.example", 443, tls=True), "https://proxy.example:443"),
        ("http://[2001:db8::1]:8080", Proxy("2001:db8::1", 8080), "http://[2001:db8::1]:8080"),
        ("http://a%40b:c%2F@p:1", Proxy("p", 1, credentials=("a@b", "c/")), "http://p:1"),
        ("http://ann@p:1", Proxy("p", 1, credentials=("ann", "")), "http://p:1"),
    ],
)
def test_parse_reads_a_proxy_and_shows_no_password(text: str, expected: Proxy, shown: str) -> None:
    proxy = Proxy.parse(text, "HTTPS_PROXY")
    assert (proxy, str(proxy)) == (expected, shown)
    assert "credentials" not in repr(proxy)


@pytest.mark.parametrize(
    "text",
    ["socks5://ann:fake-pass@p:1", "http://", "http://ann:fake-pass@p:port", "http://ann:fake-pass@[::1", "http://p:0"],
)
def test_parse_of_no_usable_proxy_names_the_key_and_not_the_value(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^ALL_PROXY: ") as caught:
        Proxies.of(None, {"ALL_PROXY": text})
    assert "fake-pass" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_unsupported_kind_of_proxy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lark\.proxy_url: a socks5:// proxy is not supported"):
        Proxies.of("socks5://p:1", {})


SECURE, PLAIN, ALL = "http://secure:1", "http://plain:2", "http://all:3"
VARIABLES = {"HTTPS_PROXY": SECURE, "HTTP_PROXY": PLAIN}


@pytest.mark.parametrize(
    ("variables", "secure", "plain"),
    [
        ({}, None, None),
        (VARIABLES, SECURE, PLAIN),
        ({"https_proxy": SECURE, "http_proxy": PLAIN}, SECURE, PLAIN),
        ({"ALL_PROXY": ALL}, ALL, ALL),
        ({"all_proxy": ALL, "HTTPS_PROXY": SECURE}, SECURE, ALL),
        ({"HTTPS_PROXY": SECURE, "https_proxy": ALL}, ALL, None),
        ({"HTTPS_PROXY": SECURE, "https_proxy": ""}, None, None),
        ({"HTTPS_PROXY": "  "}, None, None),
        ({"FTP_PROXY": ALL, "NO_PROXY": "*"}, None, None),
        (VARIABLES | {"NO_PROXY": "*"}, None, None),
        (VARIABLES | {"NO_PROXY": "open.feishu.cn"}, None, None),
    ],
)
def test_variables_choose_by_scheme(variables: dict[str, str], secure: str | None, plain: str | None) -> None:
    proxies = Proxies.of(None, variables)
    said = [proxies.route(scheme, "open.feishu.cn", 443) for scheme in ("https", "http")]
    assert [proxy and str(proxy) for proxy in said] == [secure, plain]


def test_setting_replaces_every_variable() -> None:
    proxies = Proxies.of("http://own:9", VARIABLES | {"NO_PROXY": "*"})
    assert {str(proxies.route(scheme, "open.feishu.cn", 443)) for scheme in ("http", "https")} == {"http://own:9"}
    assert proxies.known == [Proxy("own", 9)]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "x.localhost", "127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_is_never_proxied(host: str) -> None:
    for proxies in (Proxies.of("http://own:9", {}), Proxies.of(None, {"ALL_PROXY": ALL})):
        assert proxies.route("http", host, 80) is None


# NO_PROXY, a target, its port, and whether the target is reached directly.
EXEMPTIONS = [
    ("feishu.cn", "feishu.cn", 443, True),
    ("feishu.cn", "open.feishu.cn", 443, True),
    ("feishu.cn", "notfeishu.cn", 443, False),
    ("feishu.cn", "feishu.cn.example", 443, False),
    (".feishu.cn", "open.feishu.cn", 443, True),
    (".feishu.cn", "feishu.cn", 443, False),
    ("*.feishu.cn", "open.feishu.cn", 443, True),
    ("*.feishu.cn", "feishu.cn", 443, False),
    ("FEISHU.cn", "Open.Feishu.CN", 443, True),
    ("feishu.cn:443", "open.feishu.cn", 443, True),
    ("feishu.cn:8443", "open.feishu.cn", 443, False),
    ("10.0.0.1", "10.0.0.1", 443, True),
    ("10.0.0.1:80", "10.0.0.1", 443, False),
    ("10.0.0.0/8", "10.9.9.9", 443, True),
    ("10.0.0.0/8", "11.0.0.1", 443, False),
    ("10.0.0.0/8", "10.example", 443, False),
    ("2001:db8::/32", "2001:db8::7", 443, True),
    ("2001:db8::1", "2001:db8::1", 443, True),
    ("[2001:db8::1]", "2001:db8::1", 443, True),
    ("[2001:db8::1]:443", "2001:db8::1", 443, True),
    ("[2001:db8::1]:80", "2001:db8::1", 443, False),
    ("a.example, feishu.cn ,b.example", "open.feishu.cn", 443, True),
    (",,", "open.feishu.cn", 443, False),
    ("a.example,*", "open.feishu.cn", 443, True),
]
OURS_ALONE = [
    ("a.example feishu.cn", "open.feishu.cn", 443, True),
    ("feishu.cn.", "open.feishu.cn", 443, True),
    ("feishu.cn", "open.feishu.cn.", 443, True),
    ("feishu.cn:https", "open.feishu.cn", 443, False),
    ("feishu.cn:" + "4" * 5000, "open.feishu.cn", 443, False),
    ("http://feishu.cn", "open.feishu.cn", 443, False),
    ("10.0.0.0/99", "10.0.0.1", 443, False),
    ("*feishu.cn", "open.feishu.cn", 443, True),
    ("feishu.cn", "[2001:db8::1]", 443, False),
]


@pytest.mark.parametrize(("no_proxy", "host", "port", "direct"), EXEMPTIONS + OURS_ALONE)
def test_no_proxy_exempts(no_proxy: str, host: str, port: int, direct: bool) -> None:
    for variables in ({"NO_PROXY": no_proxy}, {"no_proxy": no_proxy}):
        proxies = Proxies.of(None, variables | {"ALL_PROXY": ALL})
        assert (proxies.route("https", host, port) is None) is direct


# The library does not see a port that is the scheme's own.
@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"), [case for case in EXEMPTIONS if not case[0].endswith(":443")]
)
def test_no_proxy_means_what_the_http_library_would_make_of_it(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, port: int, direct: bool
) -> None:
    """A stranger's reading of the same variables: what it decides by itself, had we not decided for it."""
    for name in ("HTTPS_PROXY", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", ALL)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    client = httpx2.Client()
    bracketed = f"[{host}]" if ":" in host else host
    url = httpx2.URL(f"https://{bracketed}" if port == 443 else f"https://{bracketed}:{port}")
    assert (client._transport_for_url(url) is client._transport) is direct


# --- CONNECT ----------------------------------------------------------------------------------------------------------


def answered(data: bytes, proxy: Proxy = PROXY, host: str = "ws.example") -> bool:
    tunnel = Tunnel(proxy, host, 443)
    tunnel.request()
    return tunnel.receive(data)


def test_connect_names_the_target_twice_and_carries_credentials_only_when_given() -> None:
    assert Tunnel(PROXY, "ws.example", 443).request().startswith(b"CONNECT ws.example:443 HTTP/1.1\r\nHost: ws.")
    assert b"authorization" not in Tunnel(PROXY, "ws.example", 443).request().lower()
    request = Tunnel(WITH_PASSWORD, "2001:db8::1", 443).request()
    assert request.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"ann:fake-pass:word") in request


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\n",
        b"HTTP/1.1 299 \r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_tunnel_stands_after_a_2xx_whole_or_byte_by_byte(head: bytes) -> None:
    assert answered(head)
    tunnel = Tunnel(PROXY, "ws.example", 443)
    tunnel.request()
    assert [tunnel.receive(head[i : i + 1]) for i in range(len(head))] == [False] * (len(head) - 1) + [True]


@pytest.mark.parametrize("proxy", [PROXY, WITH_PASSWORD])
def test_missing_or_wrong_credentials_are_refused_in_words(proxy: Proxy) -> None:
    with pytest.raises(LinkRefused, match="wants a user" if proxy is PROXY else "does not accept") as caught:
        answered(b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n', proxy)
    assert caught.value.code == 407
    assert "fake-pass" not in str(caught.value)


def test_forbidden_target_is_refused_and_a_bad_gateway_may_pass() -> None:
    with pytest.raises(LinkRefused, match=r"does not allow connections to ws\.example:443"):
        answered(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    for status in (b"302 Found", b"502 Bad Gateway", b"504 Gateway Timeout"):
        with pytest.raises(LinkLost, match=f"HTTP {status.decode()}"):
            answered(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nabc")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer CONNECT as a proxy"),
        (b"\x16\x03\x01" * 10 + b"\r\n\r\n", "does not answer CONNECT as a proxy"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEADER_BYTES_MAX, "does not answer CONNECT as a proxy"),
        (b"HTTP/1.1 200 OK\r\n\r\nearly", "sent bytes of its own"),
    ],
)
def test_answer_of_no_proxy_loses_the_link(data: bytes, words: str) -> None:
    with pytest.raises(LinkLost, match=words):
        answered(data)


@pytest.mark.parametrize("host", ["a b", "b\u00fccher.example", "a\r\nX: y"])
def test_target_that_is_no_host_name_loses_the_link(host: str) -> None:
    with pytest.raises(LinkLost, match="cannot be asked for"):
        Tunnel(PROXY, host, 443).request()


@given(st.binary(max_size=200))
def test_whatever_a_proxy_answers_is_a_verdict(data: bytes) -> None:
    for answer in (data, b"HTTP/1.1 200 OK\r\n" + data):
        with contextlib.suppress(LinkLost, LinkRefused):
            assert answered(answer) in {True, False}
