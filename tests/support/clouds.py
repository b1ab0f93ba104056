"""The two clouds of the simulated platform under their real host names, to be reached through a proxy alone.

Every host has a TLS front of its own on loopback, with a certificate for its name, which hands what it decrypts to the
simulator's port of that cloud. A proxy process takes the names for those ports.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio

from gateway.simulator.simulator import Simulator
from support.certificates import Authority
from support.proxy_process import ProxyProcess, open_proxy

OPEN = {"feishu": "open.feishu.cn", "lark": "open.larksuite.com"}
ACCOUNTS = {"feishu": "accounts.feishu.cn", "lark": "accounts.larksuite.com"}
SOCKETS = {"feishu": "msg-frontier.feishu.cn", "lark": "msg-frontier.larksuite.com"}
CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Clouds:
    """What a process needs for the way there, and what came along it."""

    proxy: ProxyProcess
    environment: Mapping[str, str]

    def tunnels(self, host: str) -> int:
        """How many connections to a host went through the proxy."""
        return self.proxy.targets("CONNECT").count(f"{host}:443")


@asynccontextmanager
async def open_clouds(simulator: Simulator, directory: Path) -> AsyncIterator[Clouds]:
    """Put the simulator's clouds where the real ones are. Nothing but the proxy knows those names."""
    authority, ways = Authority(directory), dict[str, int]()
    socket_port = _port(simulator.world.ws_url)
    async with AsyncExitStack() as stack:
        for region, url in simulator.base_urls.items():
            targets = {OPEN[region]: _port(url), ACCOUNTS[region]: _port(url), SOCKETS[region]: socket_port}
            for host, target in targets.items():
                front = await stack.enter_async_context(_open_front(authority.server(host), target))
                ways[f"{host}:443"] = front
        simulator.world.ws_urls = {region: f"wss://{host}" for region, host in SOCKETS.items()}
        simulator.base_urls = {region: f"https://{host}" for region, host in ACCOUNTS.items()}
        proxy = await stack.enter_async_context(open_proxy(routes=ways))
        yield Clouds(proxy, {"GATEWAY_LARK__PROXY_URL": proxy.url(), "SSL_CERT_FILE": str(authority.path)})


@asynccontextmanager
async def _open_front(context: ssl.SSLContext, target: int) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(_hand_on, context, target), [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _hand_on(context: ssl.SSLContext, target: int, tcp: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with trio.SSLStream(tcp, context, server_side=True, https_compatible=True) as outer:
            async with await trio.open_tcp_stream("127.0.0.1", target) as inner, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, inner, outer, nursery.cancel_scope)
                await _pump(outer, inner, nursery.cancel_scope)


async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, both: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(CHUNK):
            await sink.send_all(data)
    both.cancel()


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
