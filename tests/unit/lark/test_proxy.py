"""Which way a target is reached."""

from __future__ import annotations

import httpx2
import pytest

from gateway.errors import ConfigError
from gateway.lark.api.proxy import Proxies, Proxy


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128), "http://proxy.example:3128"),
        ("proxy.example:3128", Proxy("proxy.example", 3128), "http://proxy.example:3128"),
        ("HTTP://Proxy.Example/", Proxy("proxy.example", 80), "http://proxy.example:80"),
        ("https://proxy.example", Proxy("proxy.example", 443, "https"), "https://proxy.example:443"),
        ("http://[2001:db8::1]:8080", Proxy("2001:db8::1", 8080), "http://[2001:db8::1]:8080"),
        ("http://a%40b:c%2F@p:1", Proxy("p", 1, credentials=("a@b", "c/")), "http://p:1"),
        ("http://ann@p:1", Proxy("p", 1, credentials=("ann", "")), "http://p:1"),
        ("http://\u00e4nn:\u2603@p:1", Proxy("p", 1, credentials=("\u00e4nn", "\u2603")), "http://p:1"),
        ("socks5://ann:x%20y@p", Proxy("p", 1080, "socks5", ("ann", "x y")), "socks5://p:1080"),
        ("SOCKS5H://[2001:db8::1]:9", Proxy("2001:db8::1", 9, "socks5h"), "socks5h://[2001:db8::1]:9"),
        ("socks4://ann@p:1", Proxy("p", 1, "socks4", ("ann", "")), "socks4://p:1"),
        ("socks4a://p", Proxy("p", 1080, "socks4a"), "socks4a://p:1080"),
    ],
)
def test_parse_reads_a_proxy_and_shows_no_password(text: str, expected: Proxy, shown: str) -> None:
    proxy = Proxy.parse(text, "HTTPS_PROXY")
    assert (proxy, str(proxy)) == (expected, shown)
    assert "credentials" not in repr(proxy)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://ann:fake-pass@p:1",
        "http://",
        "http://ann:fake-pass@p:port",
        "http://ann:fake-pass@[::1",
        "http://p:0",
        "socks5://",
        "socks5://ann:fake-pass@p:port",
        # What cannot be said to such a proxy:
        "http://a%3Ann:fake-pass@p:1",
        "socks4://ann:fake-pass@p:1",
        "socks4a://:fake-pass@p:1",
        "socks5://ann@p:1",
        "socks5://:fake-pass@p:1",
        "socks5://ann:fake-pass\u2603@p:1",
        "socks5://ann%00:fake-pass@p:1",
        "socks5://ann:fake-pass" + "x" * 250 + "@p:1",
    ],
)
def test_parse_of_no_usable_proxy_names_the_key_and_not_the_value(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^ALL_PROXY: ") as caught:
        Proxies.of(None, {"ALL_PROXY": text})
    assert "fake-pass" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_unsupported_kind_of_proxy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lark\.proxy_url: a quic:// proxy is not supported; these are: http://"):
        Proxies.of("quic://p:1", {})


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
