"""Calls and long connections through a proxy that is a process of its own.

Loopback is never proxied, so the platform goes by a name here which only the proxy can resolve: what reaches it has
been through the proxy.
"""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import trio
from structlog.testing import capture_logs

from gateway.channel.channel import ChannelConfig, ConnectionState, LinkLost, LinkRefused, Verdict
from gateway.channel.errors import PlatformRefused, PlatformUnavailable, PlatformUnreachable
from gateway.channel.message import InboundMessage, OutboundMessage
from gateway.lark.api.client import LarkClient, open_http_client
from gateway.lark.api.clients import LarkClients
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat.channel import lark_factory
from gateway.lark.chat.connection import ConnectionSettings, open_tcp_link
from gateway.lark.wire.endpoint import Endpoint
from gateway.simulator import Simulator, open_simulator
from support.certificates import self_signed
from support.lark_peer import Client, Peer, code_of, loopback, play
from support.proxy_process import open_proxy

NAME = "platform.test"
ADDRESS = "192.0.2.1"
HTTP_VARIABLES = [f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HTTP_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    with trio.fail_after(60):
        async with open_simulator() as simulator:
            yield simulator


def behind_the_proxy(url: str) -> str:
    return url.replace("127.0.0.1", NAME)


def dialler(proxy_url: str | None, environ: dict[str, str] | None = None, **options: object) -> object:
    context = options.pop("ssl_context", None) or ssl.create_default_context()
    proxies = Proxies.of(proxy_url, environ or {})
    return partial(open_tcp_link, ssl_context=context, proxies=proxies, **options)


async def say_and_answer(simulator: Simulator, proxy_url: str | None, environ: dict[str, str] | None = None) -> None:
    """A bot behind the proxy hears one message and answers it: bootstrap, token, socket and send."""
    app = simulator.create_app("Ada")
    simulator.world.ws_url = behind_the_proxy(simulator.world.ws_url)
    send, heard = trio.open_memory_channel[InboundMessage](10)

    async def hear(message: InboundMessage) -> Verdict:
        await send.send(message)
        return Verdict.SETTLED

    raw = {"app_id": app.app_id, "app_secret": app.secret}
    config = ChannelConfig(type="feishu", installation_id=UUID(int=1), raw=raw, handler=hear)
    async with open_http_client(proxy_url=proxy_url) as http, trio.open_nursery() as nursery:
        build = lark_factory(
            LarkClients(http, open_base_override=behind_the_proxy(simulator.base_url)),
            open_stream=dialler(proxy_url, environ),  # type: ignore[arg-type]
        )
        channel = build(config)
        await nursery.start(channel.run)
        said = simulator.say(simulator.create_person("Eve"), app, "hello")
        message = await heard.receive()
        assert (await said.event.answered(1)).ack_code == 200
        await channel.send(OutboundMessage("hi", "u-1", chat_id=message.source.chat_id))
        assert [sent.text for sent in simulator.sent(said.message.chat_id)] == ["hi"]
        assert config.health.state is ConnectionState.LIVE
        nursery.cancel_scope.cancel()


def addresses(simulator: Simulator) -> tuple[str, str]:
    """What the proxy is asked for: the socket's authority, and where calls begin."""
    return urlsplit(behind_the_proxy(simulator.world.ws_url)).netloc, behind_the_proxy(simulator.base_url)


@pytest.mark.parametrize("credentials", ["", "ann:fake-pass"])
async def test_everything_goes_through_the_proxy_of_the_setting(simulator: Simulator, credentials: str) -> None:
    with capture_logs() as logs:
        async with open_proxy(credentials=credentials) as proxy:
            await say_and_answer(simulator, proxy.url(credentials=credentials))
    socket, base = addresses(simulator)
    assert proxy.targets("CONNECT") == [socket]
    assert f"{base}/callback/ws/endpoint" in proxy.targets("POST")
    assert f"{base}/open-apis/bot/v3/info" in proxy.targets("GET")
    assert any(target.startswith(f"{base}/open-apis/im/v1/messages") for target in proxy.targets("POST"))
    assert all(entry["authorised"] for entry in proxy.seen)
    assert "fake-pass" not in str(logs)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_everything_goes_through_the_proxy_of_the_variables(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async with open_proxy() as proxy:
        monkeypatch.setenv(variable, proxy.url())
        await say_and_answer(simulator, None, {variable: proxy.url()})
    assert proxy.targets("CONNECT") == [addresses(simulator)[0]]
    assert len(proxy.targets("POST")) >= 3


SOCKS_VARIANTS = [
    ("socks5", "", "SOCKS5", NAME),
    ("socks5", "ann:fake-pass", "SOCKS5", NAME),
    ("socks5h", "ann:fake-pass", "SOCKS5", NAME),
    ("socks4a", "", "SOCKS4", NAME),
    ("socks4", "ann", "SOCKS4", ADDRESS),
]


class Resolver(trio.abc.HostnameResolver):
    """Knows the platform's address, which means something to the proxy alone."""

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
        assert host in {NAME, NAME.encode()}
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESS, port or 0))]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


@pytest.mark.parametrize(("scheme", "credentials", "protocol", "host"), SOCKS_VARIANTS)
async def test_everything_goes_through_the_socks_proxy_of_the_setting(
    simulator: Simulator, scheme: str, credentials: str, protocol: str, host: str
) -> None:
    """Only SOCKS4 makes us resolve the name; it knows no names itself."""
    if host == ADDRESS:
        trio.socket.set_custom_hostname_resolver(Resolver())
    with capture_logs() as logs:
        async with open_proxy(socks=True, credentials=credentials, loopback_name=host) as proxy:
            await say_and_answer(simulator, proxy.url(scheme=scheme, credentials=credentials))
    socket_at, base = (urlsplit(url).port for url in (simulator.world.ws_url, simulator.base_url))
    targets = proxy.targets(protocol)
    assert targets.count(f"{host}:{socket_at}") >= 1
    assert set(targets) == {f"{host}:{socket_at}", f"{host}:{base}"}
    assert "fake-pass" not in str(logs)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
async def test_everything_goes_through_the_socks_proxy_of_the_variables(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async with open_proxy(socks=True) as proxy:
        monkeypatch.setenv(variable, proxy.url(scheme="socks5"))
        await say_and_answer(simulator, None, {variable: proxy.url(scheme="socks5")})
    assert len(proxy.targets("SOCKS5")) >= 2


async def test_loopback_is_dialled_directly_whatever_is_set(simulator: Simulator) -> None:
    app = simulator.create_app("Ada")
    for proxy_url, environ in (("http://127.0.0.1:9", {}), (None, {"ALL_PROXY": "http://127.0.0.1:9"})):
        async with open_http_client(proxy_url=proxy_url) as http:
            endpoint = await LarkClient(app.app_id, app.secret, simulator.base_url, http).fetch_endpoint()
        raw = await open_tcp_link(
            endpoint, ssl_context=ssl.create_default_context(), proxies=Proxies.of(proxy_url, environ)
        )
        raw.abort()


# --- one decision for both --------------------------------------------------------------------------------------------


ROUTES = [
    ({"HTTP_PROXY": "P"}, True),
    ({"http_proxy": "P"}, True),
    ({"ALL_PROXY": "P"}, True),
    ({"HTTPS_PROXY": "P"}, False),
    ({"HTTP_PROXY": "P", "http_proxy": ""}, False),
    ({"ALL_PROXY": "P", "NO_PROXY": "*"}, False),
    ({"ALL_PROXY": "P", "NO_PROXY": "platform.test"}, False),
    ({"ALL_PROXY": "P", "NO_PROXY": "test"}, False),
    ({"ALL_PROXY": "P", "NO_PROXY": ".test"}, False),
    ({"ALL_PROXY": "P", "NO_PROXY": "orm.test"}, True),
    ({"ALL_PROXY": "P", "NO_PROXY": ".platform.test"}, True),
    ({"ALL_PROXY": "P", "NO_PROXY": "platform.test:1"}, True),
    ({"ALL_PROXY": "P", "no_proxy": "10.0.0.0/8,platform.test"}, False),
]


@pytest.mark.parametrize(("variables", "proxied"), ROUTES)
async def test_call_and_socket_take_the_same_way(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxied: bool
) -> None:
    async with open_proxy() as proxy:
        environ = {name: value.replace("P", proxy.url()) for name, value in variables.items()}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        ws_url = behind_the_proxy(simulator.world.ws_url)
        ways = [await call_gets_through(behind_the_proxy(simulator.base_url)), await dial_gets_through(ws_url, environ)]
    assert ways == [proxied, proxied]
    assert [len(proxy.targets("POST")), len(proxy.targets("CONNECT"))] == [int(proxied), int(proxied)]


async def call_gets_through(base_url: str) -> bool:
    async with open_http_client() as http:
        try:
            await LarkClient("cli_unknown", "fake", base_url, http).fetch_endpoint()
        except PlatformRefused:
            return True  # the platform itself has answered
        except PlatformUnavailable:
            return False  # the name means nothing to us
    raise AssertionError


async def dial_gets_through(ws_url: str, environ: dict[str, str]) -> bool:
    try:
        raw = await open_tcp_link(
            Endpoint(ws_url, 1), ssl_context=ssl.create_default_context(), proxies=Proxies.of(None, environ)
        )
    except OSError:
        return False
    raw.abort()
    return True


# --- TLS --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def secure_platform(context: ssl.SSLContext) -> AsyncIterator[Endpoint]:
    """A platform that sends one event, over TLS, under the name that only the proxy knows."""

    async def script(peer: Peer) -> None:
        await peer.send_event(b"{}", "one")
        assert code_of(await peer.ack("one")) == 200
        await peer.closed.wait()

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await play(tls, script)

    async with loopback(serve) as at:
        yield replace(at, url=behind_the_proxy(at.url).replace("ws:", "wss:"))


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_socket_speaks_tls_to_the_platform_through_the_tunnel(tmp_path: Path, scheme: str) -> None:
    """Also when the proxy itself is reached over TLS."""
    server, ours = self_signed(tmp_path)
    certificate = tmp_path / "server.pem" if scheme == "https" else None
    with trio.fail_after(30):
        proxying = open_proxy(certificate=certificate, socks=scheme == "socks5")
        async with secure_platform(server) as at, proxying as proxy:
            client = Client(endpoint=at)
            async with trio.open_nursery() as nursery:
                await nursery.start(client.run, dialler(proxy.url(scheme=scheme), ssl_context=ours))
                await client.recorder.until("channel_ack_seconds", "feishu", "200")
                nursery.cancel_scope.cancel()
    assert proxy.targets("SOCKS5" if scheme == "socks5" else "CONNECT") == [f"{NAME}:{at.port}"]


@pytest.mark.parametrize("scheme", [None, "http", "socks5"])
async def test_call_of_a_platform_that_nobody_vouches_for_says_so(tmp_path: Path, scheme: str | None) -> None:
    server, _ = self_signed(tmp_path)
    proxied = scheme is not None
    async with secure_platform(server) as at, open_proxy(socks=scheme == "socks5") as proxy:
        host = NAME if proxied else "127.0.0.1"
        async with open_http_client(proxy_url=proxy.url(scheme=scheme) if scheme else None) as http:
            with pytest.raises(PlatformUnavailable, match=f"cannot reach https://{host}:") as caught:
                await LarkClient("cli_a", "fake-secret", f"https://{host}:{at.port}", http).fetch_endpoint()
    assert "its certificate is not believed: self-signed certificate" in str(caught.value)
    assert ("by way of the proxy" in str(caught.value)) is proxied


async def test_https_proxy_that_nobody_vouches_for_is_not_told_the_password(tmp_path: Path) -> None:
    self_signed(tmp_path)
    async with open_proxy(certificate=tmp_path / "server.pem") as proxy:
        url = proxy.url(scheme="https", credentials="ann:fake-pass")
        error = await lost(dialler(url), Client(endpoint=Endpoint(f"wss://{NAME}/ws?service_id=1", 1)))
    assert "broke: its certificate is not believed" in str(error)
    assert proxy.seen == []


async def test_calls_go_through_an_https_proxy_too(simulator: Simulator, tmp_path: Path) -> None:
    _, ours = self_signed(tmp_path)
    app = simulator.create_app("Ada")
    async with open_proxy(certificate=tmp_path / "server.pem") as proxy:
        async with open_http_client(proxy_url=proxy.url(scheme="https"), ssl_context=ours) as http:
            await LarkClient(app.app_id, app.secret, behind_the_proxy(simulator.base_url), http).bot_info()
    assert len(proxy.targets("GET")) == 1


# --- what can go wrong ------------------------------------------------------------------------------------------------


async def lost(dial: object, client: Client) -> LinkLost:
    with trio.fail_after(30), pytest.raises(LinkLost) as caught:
        await client.run(dial)  # type: ignore[arg-type]
    assert client.health.state is ConnectionState.CONNECTING
    assert client.health.detail == str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("silent", "gave no whole answer to CONNECT within 0.5 s"),
        ("hang_up", "closed the connection instead of answering CONNECT"),
        ("endless_head", "does not answer CONNECT as a proxy does"),
        ("nonsense", "does not answer CONNECT as a proxy does"),
        ("chatter", "sent bytes of its own into the tunnel"),
        ("refuse", "HTTP 502 Bad Gateway"),
    ],
)
async def test_proxy_that_gives_no_tunnel_loses_the_link_in_words(behaviour: str, words: str) -> None:
    settings = ConnectionSettings(tunnel_timeout_seconds=0.5)
    async with loopback(partial(play, script=wait_for_the_end)) as at, open_proxy(behaviour) as proxy:
        client = Client(endpoint=replace(at, url=behind_the_proxy(at.url)))
        error = await lost(dialler(proxy.url(credentials="ann:fake-pass"), settings=settings), client)
    assert words in str(error)
    assert str(proxy.port) in str(error)
    assert "fake-pass" not in str(error)


async def wait_for_the_end(peer: Peer) -> None:
    await peer.closed.wait()


SOCKS_FAILURES = [
    ("silent", "gave no whole answer to SOCKS5 within 0.5 s"),
    ("hang_up", "closed the connection instead of answering SOCKS5"),
    ("nonsense", "does not answer SOCKS5 as a proxy does"),
    ("refuse", "Connection refused by destination host"),
]


@pytest.mark.parametrize(("behaviour", "words"), SOCKS_FAILURES)
async def test_socks_proxy_that_gives_no_way_loses_the_link_in_words(behaviour: str, words: str) -> None:
    settings = ConnectionSettings(tunnel_timeout_seconds=0.5)
    async with open_proxy(behaviour, socks=True) as proxy:
        client = Client(endpoint=Endpoint(f"wss://{NAME}/ws?service_id=1", 1))
        url = proxy.url(scheme="socks5", credentials="ann:fake-pass")
        error = await lost(dialler(url, settings=settings), client)
    assert words in str(error)
    assert f"socks5://127.0.0.1:{proxy.port}" in str(error)
    assert "fake-pass" not in str(error)


@pytest.mark.parametrize(("behaviour", "words"), [("silent", "was not answered within 0.5 s"), *SOCKS_FAILURES[1:]])
async def test_socks_proxy_that_gives_no_way_fails_a_call_in_words(behaviour: str, words: str) -> None:
    """The failed call leaves no connection behind, which the garbage collector would complain of."""
    async with open_proxy(behaviour, socks=True) as proxy:
        async with open_http_client(proxy_url=proxy.url(scheme="socks5", credentials="ann:fake-pass")) as http:
            client = LarkClient("cli_a", "fake-secret", f"https://{NAME}:1", http, call_timeout_seconds=0.5)
            with trio.fail_after(20), pytest.raises(PlatformUnavailable, match=words) as caught:
                await client.fetch_endpoint()
        gc.collect()
    assert isinstance(caught.value, PlatformUnreachable) is (behaviour != "silent")
    assert "fake-pass" not in str(caught.value)


async def test_socks_proxy_that_answers_byte_by_byte_is_heard_out(simulator: Simulator) -> None:
    credentials = "ann:fake-pass"
    async with open_proxy("drip", drip_seconds=0.005, socks=True, credentials=credentials) as proxy:
        await say_and_answer(simulator, proxy.url(scheme="socks5", credentials=credentials))


@pytest.mark.parametrize("given", ["", "ann:fake-wrong"])
async def test_socks_proxy_that_wants_other_credentials_is_a_refusal_with_words(given: str) -> None:
    async with open_proxy(credentials="ann:fake-pass", socks=True) as proxy:
        url = proxy.url(scheme="socks5", credentials=given)
        client = Client(endpoint=Endpoint(f"ws://{NAME}:1/ws?service_id=1", 1))
        with trio.fail_after(20), pytest.raises(LinkRefused) as caught:
            await client.run(dialler(url))  # type: ignore[arg-type]
        async with open_http_client(proxy_url=url) as http:
            with pytest.raises(PlatformUnreachable) as failed:
                await LarkClient("cli_a", "fake-secret", f"http://{NAME}:1", http).fetch_endpoint()
    assert (caught.value.code, client.health.state) == (407, ConnectionState.REFUSED)
    words = "does not accept the user and password given" if given else "wants a user and password"
    for told in (client.health.detail, str(caught.value), str(failed.value)):
        assert words in told
        assert "fake-" not in told


async def test_socks_proxy_that_forbids_a_target_is_a_refusal() -> None:
    async with open_proxy("forbid", socks=True) as proxy:
        client = Client(endpoint=Endpoint(f"ws://{NAME}:1/ws?service_id=1", 1))
        with trio.fail_after(20), pytest.raises(LinkRefused, match=f"does not allow connections to {NAME}:1") as caught:
            await client.run(dialler(proxy.url(scheme="socks5")))  # type: ignore[arg-type]
    assert caught.value.code == 403


async def test_proxy_that_answers_byte_by_byte_has_all_of_the_time_and_no_more() -> None:
    async with loopback(partial(play, script=wait_for_the_end)) as at:
        client = Client(endpoint=replace(at, url=behind_the_proxy(at.url)))
        async with open_proxy("drip", drip_seconds=0.005) as proxy, trio.open_nursery() as nursery:
            with trio.fail_after(20):
                await nursery.start(client.run, dialler(proxy.url()))
            nursery.cancel_scope.cancel()
        settings = ConnectionSettings(tunnel_timeout_seconds=0.5)
        async with open_proxy("drip", drip_seconds=0.1) as proxy:
            error = await lost(dialler(proxy.url(), settings=settings), client)
    assert "within 0.5 s" in str(error)


@pytest.mark.parametrize("given", ["", "ann:fake-wrong"])
async def test_proxy_that_wants_other_credentials_is_a_refusal_with_words(given: str) -> None:
    async with open_proxy(credentials="ann:fake-pass") as proxy:
        client = Client(endpoint=Endpoint(f"ws://{NAME}:1/ws?service_id=1", 1))
        with trio.fail_after(20), pytest.raises(LinkRefused) as caught:
            await client.run(dialler(proxy.url(credentials=given)))  # type: ignore[arg-type]
    assert (caught.value.code, client.health.state) == (407, ConnectionState.REFUSED)
    assert "user and password" in client.health.detail
    assert "fake-" not in str(caught.value)


@pytest.mark.parametrize("target", ["http://platform.test:1", "https://platform.test:1"])
async def test_call_through_a_proxy_that_wants_credentials_says_so(target: str) -> None:
    async with open_proxy(credentials="ann:fake-pass") as proxy:
        async with open_http_client(proxy_url=proxy.url(credentials="ann:fake-wrong")) as http:
            with pytest.raises(PlatformUnavailable, match="does not accept the user and password") as caught:
                await LarkClient("cli_a", "fake-secret", target, http).fetch_endpoint()
    assert "fake-" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_proxy_that_is_away_is_named(scheme: str) -> None:
    async with open_proxy() as proxy:
        pass
    client = Client(endpoint=Endpoint(f"ws://{NAME}:1/ws?service_id=1", 1))
    error = await lost(dialler(proxy.url(scheme=scheme)), client)
    assert f"the proxy {scheme}://127.0.0.1:{proxy.port} cannot be reached" in str(error)
    async with open_http_client(proxy_url=proxy.url(scheme=scheme)) as http:
        for target in (f"http://{NAME}:1", f"https://{NAME}:1"):
            with pytest.raises(PlatformUnavailable, match=f"by way of the proxy {scheme}://127.0.0.1:{proxy.port}"):
                await LarkClient("cli_a", "fake-secret", target, http).fetch_endpoint()


async def test_proxy_that_dies_loses_the_link_at_once() -> None:
    async with loopback(partial(play, script=wait_for_the_end)) as at, open_proxy() as proxy:
        client = Client(endpoint=replace(at, url=behind_the_proxy(at.url)))

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(LinkLost):
                await client.run(dialler(proxy.url()), task_status=task_status)  # type: ignore[arg-type]

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                assert client.health.state is ConnectionState.LIVE
                await proxy.kill()
        assert client.health.state is ConnectionState.CONNECTING


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("calling", [False, True])
async def test_cancelled_dial_or_call_leaves_no_connection_to_the_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, calling: bool
) -> None:
    opened: list[trio.SocketStream] = []
    dial = trio.open_tcp_stream
    scope = trio.CancelScope()
    _, ours = self_signed(tmp_path)
    certificate = tmp_path / "server.pem" if scheme == "https" else None

    async def remember(*args: object, **options: object) -> trio.SocketStream:
        opened.append(await dial(*args, **options))  # type: ignore[arg-type]
        # The proxy never answers: what comes after the connection waits until then.
        scope.deadline = trio.current_time() + 0.1
        return opened[-1]

    monkeypatch.setattr(trio, "open_tcp_stream", remember)
    async with open_proxy("silent", socks=scheme == "socks5", certificate=certificate) as proxy:
        url = proxy.url(scheme=scheme)
        with trio.fail_after(30):
            if calling:
                async with open_http_client(proxy_url=url, ssl_context=ours) as http:
                    with scope:
                        await LarkClient("cli_a", "fake-secret", f"https://{NAME}:1", http).fetch_endpoint()
            else:
                with scope:
                    await dialler(url, ssl_context=ours)(Endpoint(f"wss://{NAME}/ws?service_id=1", 1))  # type: ignore[operator]
    assert scope.cancelled_caught
    assert [stream.socket.fileno() for stream in opened] == [-1]
