"""What is said to a proxy, and what becomes of its answers."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.channel.errors import PlatformError, PlatformRefused, PlatformUnreachable
from gateway.lark.api.proxy import Proxy
from gateway.lark.api.tunnel import HEADER_BYTES_MAX, ask_for

HTTP = Proxy("proxy.example", 3128)
WITH_PASSWORD = Proxy("proxy.example", 3128, credentials=("ann", "fake-pass:w\u00f6rd"))
SOCKS5 = Proxy("proxy.example", 1080, "socks5")
SOCKS5_WITH_PASSWORD = Proxy("proxy.example", 1080, "socks5", ("ann", "fake-pass"))
SOCKS4 = Proxy("proxy.example", 1080, "socks4", ("ann", ""))
SOCKS4A = Proxy("proxy.example", 1080, "socks4a")

SAID_YES = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"


async def exchange(proxy: Proxy, answers: Sequence[bytes], host: str = "ws.example") -> bytes:
    """Ask through a proxy that gives each of the answers to something that was said, and return all that was."""
    ours, theirs = trio.testing.memory_stream_pair()
    said = bytearray()

    async def play() -> None:
        for answer in answers:
            said.extend(await theirs.receive_some())
            await theirs.send_all(answer)
        said.extend(await theirs.receive_some())
        await theirs.send_all(b"from the target")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play)
            await ask_for(ours, proxy, host, 443)
            await ours.send_all(b"!")
            assert await ours.receive_some() == b"from the target"
    return bytes(said[:-1])


async def answered(*answers: bytes, proxy: Proxy = HTTP, at_once: int | None = None) -> None:
    """Ask a proxy that has said everything already, and then ends. `at_once` limits what one read returns."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"".join(answers))
    await theirs.send_eof()
    if at_once is not None:
        ours.receive_stream.receive_some = _bounded(ours.receive_stream.receive_some, at_once)  # type: ignore[method-assign]
    with trio.fail_after(5):
        await ask_for(ours, proxy, "ws.example", 443)


def _bounded(receive_some, bytes_max):  # type: ignore[no-untyped-def]
    async def receive(count: int | None = None) -> bytes:
        return await receive_some(min(bytes_max, math.inf if count is None else count))

    return receive


# --- CONNECT ----------------------------------------------------------------------------------------------------------


async def test_connect_names_the_target_twice_and_carries_credentials_only_when_given() -> None:
    opened = b"HTTP/1.1 200 Connection established\r\n\r\n"
    request = await exchange(HTTP, [opened])
    assert request.startswith(b"CONNECT ws.example:443 HTTP/1.1\r\nHost: ws.example:443\r\n")
    assert b"authorization" not in request.lower()
    request = await exchange(WITH_PASSWORD, [opened], "2001:db8::1")
    assert request.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")
    encoded = base64.b64encode("ann:fake-pass:w\u00f6rd".encode())
    assert b"Proxy-Authorization: Basic " + encoded + b"\r\n" in request


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\n",
        b"HTTP/1.1 299 \r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_tunnel_stands_after_a_2xx_whole_or_byte_by_byte(head: bytes) -> None:
    await exchange(HTTP, [head])
    await answered(head)
    await answered(head, at_once=1)


@pytest.mark.parametrize("proxy", [HTTP, WITH_PASSWORD])
async def test_missing_or_wrong_credentials_are_refused_in_words(proxy: Proxy) -> None:
    with pytest.raises(PlatformRefused, match="wants a user" if proxy is HTTP else "does not accept") as caught:
        await answered(b'HTTP/1.1 407 Auth Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n', proxy=proxy)
    assert caught.value.code == 407
    assert "fake-pass" not in str(caught.value)


async def test_forbidden_target_is_refused_and_a_bad_gateway_may_pass() -> None:
    with pytest.raises(PlatformRefused, match=r"does not allow connections to ws\.example:443"):
        await answered(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    for status in (b"302 Found", b"502 Bad Gateway", b"504 Gateway Timeout"):
        with pytest.raises(PlatformUnreachable, match=f"HTTP {status.decode()}"):
            await answered(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nabc")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer CONNECT as a proxy"),
        (b"SSH 200 OK\r\n\r\n", "does not answer CONNECT as a proxy"),
        (b"HTTP/1.1 fine\r\n\r\n", "does not answer CONNECT as a proxy"),
        (b"\x16\x03\x01" * 10 + b"\r\n\r\n", "does not answer CONNECT as a proxy"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * HEADER_BYTES_MAX, "does not answer CONNECT as a proxy"),
        (b"HTTP/1.1 200 OK\r\n\r\nearly", "sent bytes of its own"),
    ],
)
async def test_answer_of_no_proxy_gives_no_way(data: bytes, words: str) -> None:
    with pytest.raises(PlatformUnreachable, match=words):
        await answered(data)


async def test_reason_is_shown_without_what_cannot_be_stored_and_not_at_any_length() -> None:
    with pytest.raises(PlatformUnreachable) as caught:
        await answered(b"HTTP/1.1 502 a\x00b\xff" + b"c" * 1000 + b"\r\n\r\n")
    assert str(caught.value).endswith(": HTTP 502 ab" + "c" * 94)


@pytest.mark.parametrize("proxy", [HTTP, SOCKS5, SOCKS4A])
@pytest.mark.parametrize("host", ["a b", "b\u00fccher.example", "a\r\nX: y", "x" * 64 + ".example", "a..b", "a." * 200])
async def test_target_that_is_no_host_name_is_not_asked_for(proxy: Proxy, host: str) -> None:
    with pytest.raises(PlatformUnreachable, match="cannot be asked for"):
        await ask_for(trio.testing.memory_stream_pair()[0], proxy, host, 443)


# --- SOCKS ------------------------------------------------------------------------------------------------------------


async def test_socks5_leaves_the_name_to_the_proxy_and_offers_a_password_only_when_given() -> None:
    named = b"\x05\x01\x00\x03\x0aws.example\x01\xbb"
    assert await exchange(SOCKS5, [b"\x05\x00", SAID_YES]) == b"\x05\x01\x00" + named
    login = b"\x01\x03ann\x09fake-pass"
    said = await exchange(SOCKS5_WITH_PASSWORD, [b"\x05\x02", b"\x01\x00", SAID_YES])
    assert said == b"\x05\x02\x00\x02" + login + named
    said = await exchange(SOCKS5, [b"\x05\x00", SAID_YES], "2001:db8::1")
    assert said.endswith(b"\x05\x01\x00\x04" + bytes.fromhex("20010db8000000000000000000000001") + b"\x01\xbb")


async def test_socks4_sends_an_address_and_socks4a_the_name() -> None:
    granted = b"\x00\x5a" + bytes(6)
    assert await exchange(SOCKS4, [granted], "192.0.2.9") == b"\x04\x01\x01\xbb\xc0\x00\x02\x09ann\x00"
    assert await exchange(SOCKS4A, [granted]) == b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00ws.example\x00"


class NoNames(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
        raise OSError("no such name")

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


async def test_name_that_socks4_cannot_resolve_here_is_named() -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    with pytest.raises(PlatformUnreachable, match=r"ws\.example has no address .*no such name"):
        await answered(proxy=SOCKS4)


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize(
    "bound",
    [b"\x01\x7f\x00\x00\x01", b"\x04" + bytes(16), b"\x03\x05proxy", b"\x03\x00"],
    ids=["v4", "v6", "name", "none"],
)
async def test_socks5_answer_is_read_to_its_end_and_no_further(bound: bytes, at_once: int | None) -> None:
    answer = b"\x05\x00\x00" + bound + b"\x00\x50"
    await exchange(SOCKS5, [b"\x05\x00", answer])
    await answered(b"\x05\x00", answer, proxy=SOCKS5, at_once=at_once)


@pytest.mark.parametrize(
    ("proxy", "answers", "words"),
    [
        (SOCKS5, [b"\x05\xff"], "wants a user and password"),
        (SOCKS5_WITH_PASSWORD, [b"\x05\xff"], "does not accept the user and password"),
        (SOCKS5_WITH_PASSWORD, [b"\x05\x02", b"\x01\x01"], "does not accept the user and password"),
        (SOCKS5, [b"\x05\x00", b"\x05\x02\x00\x01"], r"does not allow connections to ws\.example:443"),
        (SOCKS4A, [b"\x00\x5d" + bytes(6)], "wants a user"),
        (SOCKS4A, [b"\x00\x5c" + bytes(6)], "wants a user"),
    ],
)
async def test_socks_refusal_that_an_operator_has_to_solve(proxy: Proxy, answers: list[bytes], words: str) -> None:
    with pytest.raises(PlatformRefused, match=words) as caught:
        await answered(*answers, proxy=proxy)
    assert caught.value.code in {403, 407}
    assert "fake-pass" not in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "answers", "words"),
    [
        (SOCKS5, [b"\x05\x00", b"\x05\x05\x00\x01"], r"gave no way to ws\.example:443: Connection refused"),
        (SOCKS5, [b"\x05\x00", b"\x05\x04\x00\x01"], "gave no way .*: Host unreachable"),
        (SOCKS4A, [b"\x00\x5b" + bytes(6)], "gave no way .*: Request rejected or failed"),
        (SOCKS5, [], "closed the connection instead of answering SOCKS5"),
        (SOCKS5, [b"\x05"], "closed the connection instead of answering SOCKS5"),
        (SOCKS5, [b"\x05\x00", b"\x05\x00\x00\x01\x7f"], "closed the connection instead of answering SOCKS5"),
        (SOCKS4A, [b"\x00"], "closed the connection instead of answering SOCKS4"),
        (SOCKS5, [b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not answer SOCKS5 as a proxy does"),
        (SOCKS5, [b"\x05\x00", b"\x05\x77\x00\x01"], "does not answer SOCKS5 as a proxy does"),
        (SOCKS5, [b"\x05\x00", b"\x05\x00\x00\x03\x02\xff\xff\x00\x50"], "does not answer SOCKS5 as a proxy does"),
        (SOCKS5, [b"\x05\x02"], "does not answer SOCKS5 as a proxy does"),
        (SOCKS4A, [b"220 mail.example ESMTP\r\n"], "does not answer SOCKS4 as a proxy does"),
    ],
)
async def test_socks_failure_that_may_pass(proxy: Proxy, answers: list[bytes], words: str) -> None:
    with pytest.raises(PlatformUnreachable, match=words):
        await answered(*answers, proxy=proxy)


# --- anything ---------------------------------------------------------------------------------------------------------

PREFIXES = [
    (HTTP, b""),
    (HTTP, b"HTTP/1.1 200 OK\r\n"),
    (HTTP, b"HTTP/1.1 "),
    (SOCKS5, b""),
    (SOCKS5, b"\x05\x00"),
    (SOCKS5, b"\x05\x00\x05\x00\x00"),
    (SOCKS5_WITH_PASSWORD, b"\x05\x02"),
    (SOCKS4A, b""),
    (SOCKS4A, b"\x00\x5a"),
]


@given(st.sampled_from(PREFIXES), st.binary(max_size=200))
def test_whatever_a_proxy_answers_is_a_verdict(begun: tuple[Proxy, bytes], data: bytes) -> None:
    proxy, prefix = begun
    told: list[str] = []

    async def ask() -> None:
        try:
            await answered(prefix, data, proxy=proxy)
        except PlatformError as error:
            told.append(str(error))

    trio.run(ask)
    assert all(words.isprintable() for words in told)
