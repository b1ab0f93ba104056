"""A forwarding proxy, HTTP or SOCKS, that runs as a process of its own, and what it saw.

Names that it is told to take for loopback give tests a target that is not loopback to us. Run as a script it listens on
a port that the kernel chose, and prints a line of JSON for its port and for every request.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import trio

BEHAVIOURS = ("forward", "silent", "drip", "chatter", "hang_up", "endless_head", "nonsense", "refuse", "forbid")
CHUNK = 65536


# --- the process ------------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loopback_names = set(options.loopback_name)
        self.routes = dict(route.split("=") for route in options.route)
        self.context: ssl.SSLContext | None = None
        if options.certificate:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.context.load_cert_chain(options.certificate)

    async def serve(self, tcp: trio.SocketStream) -> None:
        stream: Any = tcp
        if self.context is not None:
            stream = trio.SSLStream(tcp, self.context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, ssl.SSLError):
            async with stream:
                await self.answer(stream)

    async def answer(self, stream: Any) -> None:
        http = h11.Connection(h11.SERVER)
        request = await _request(http, stream)
        if request is None:
            return
        method, target = request.method.decode(), request.target.decode()
        say(method=method, target=target, authorised=self._authorised(request))
        if not self._authorised(request):
            head = [("Proxy-Authenticate", 'Basic realm="test"'), ("Content-Length", "0"), ("Connection", "close")]
            await stream.send_all(http.send(h11.Response(status_code=407, headers=head, reason="Proxy Auth")))
        elif method == "CONNECT":
            await self._tunnel(stream, target)
        else:
            await self._forward(http, stream, request, target)

    def _authorised(self, request: h11.Request) -> bool:
        if not self.options.credentials:
            return True
        expected = b"Basic " + base64.b64encode(self.options.credentials.encode())
        return (b"proxy-authorization", expected) in request.headers

    async def _tunnel(self, stream: Any, target: str) -> None:
        behaviour, established = self.options.behaviour, b"HTTP/1.1 200 Connection established\r\n\r\n"
        if behaviour == "silent":
            await trio.sleep_forever()
        if behaviour == "hang_up":
            return
        if behaviour == "refuse":
            await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        if behaviour == "nonsense":
            await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")
            return
        if behaviour == "endless_head":
            await stream.send_all(b"HTTP/1.1 200 OK\r\n")
            while True:
                await stream.send_all(b"X-Padding: " + b"x" * 1000 + b"\r\n")
        if behaviour == "drip":
            for byte in established:
                await stream.send_all(bytes([byte]))
                await trio.sleep(self.options.drip_seconds)
        elif behaviour == "chatter":
            await stream.send_all(established + b"advertisement")
        else:
            await stream.send_all(established)
        await self.splice(stream, target)

    async def _forward(self, http: h11.Connection, stream: Any, request: h11.Request, target: str) -> None:
        host, port = self._resolve(target, 80)
        parts = urlsplit(target)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        hop = {b"proxy-authorization", b"connection", b"proxy-connection"}
        headers = [(bytes(name), bytes(value)) for name, value in request.headers if name not in hop]
        onward = h11.Connection(h11.CLIENT)
        upstream = await trio.open_tcp_stream(host, port)
        async with upstream:
            asked = h11.Request(
                method=request.method, target=path or "/", headers=[*headers, (b"Connection", b"close")]
            )
            await upstream.send_all(onward.send(asked))
            while isinstance(event := await _next(http, stream), h11.Data):
                await upstream.send_all(onward.send(event))
            await upstream.send_all(onward.send(h11.EndOfMessage()))
            while data := await upstream.receive_some(CHUNK):
                await stream.send_all(data)

    async def splice(self, stream: Any, target: str) -> None:
        host, port = self._resolve(f"//{target}", 443)
        async with await trio.open_tcp_stream(host, port) as upstream, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, upstream, stream, nursery.cancel_scope)
            await _pump(stream, upstream, nursery.cancel_scope)

    def _resolve(self, url: str, port: int) -> tuple[str, int]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if (routed := self.routes.get(f"{host}:{parts.port or port}")) is not None:
            return "127.0.0.1", int(routed)
        return ("127.0.0.1" if host in self.loopback_names else host), parts.port or port


class SocksServer(Server):
    """SOCKS 4, 4a and 5 (RFC 1928 and 1929), by the first byte of a client."""

    async def answer(self, stream: Any) -> None:
        with suppress(EOFError):
            version = (await _exactly(stream, 1))[0]
            behaviour = self.options.behaviour
            if behaviour == "silent":
                await trio.sleep_forever()
            if behaviour == "nonsense":
                await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")
            elif behaviour == "hang_up":
                await stream.receive_some(CHUNK)  # unread bytes would make this end a reset
            else:
                await (self._socks5(stream) if version == 5 else self._socks4(stream))

    async def _socks5(self, stream: Any) -> None:
        offered = await _exactly(stream, (await _exactly(stream, 1))[0])
        wanted = 2 if self.options.credentials else 0
        if wanted not in offered:
            await self._send(stream, b"\x05\xff")
            return
        await self._send(stream, bytes([5, wanted]))
        if wanted and not await self._knows_client(stream):
            return
        _, command, _, kind = await _exactly(stream, 4)
        assert command == 1
        if kind == 3:
            host = (await _exactly(stream, (await _exactly(stream, 1))[0])).decode("ascii")
        else:
            host = str(ip_address(await _exactly(stream, 4 if kind == 1 else 16)))
        target = f"{host}:{int.from_bytes(await _exactly(stream, 2), 'big')}"
        say(method="SOCKS5", target=target, authorised=True)
        code = {"refuse": 5, "forbid": 2}.get(self.options.behaviour, 0)
        # The address that it speaks from: a name here, which is the longest form and has a length of its own.
        await self._send(stream, bytes([5, code, 0, 3, 5]) + b"proxy" + bytes(2))
        if code == 0:
            await self.splice(stream, target)

    async def _knows_client(self, stream: Any) -> bool:
        given = []
        assert await _exactly(stream, 1) == b"\x01"
        for _ in ("user", "password"):
            given.append((await _exactly(stream, (await _exactly(stream, 1))[0])).decode())
        known = bool(":".join(given) == self.options.credentials)
        if not known:
            say(method="SOCKS5", target="", authorised=False)
        await self._send(stream, bytes([1, 0 if known else 1]))
        return known

    async def _socks4(self, stream: Any) -> None:
        head = await _exactly(stream, 7)
        user, host = await _until_nul(stream), str(ip_address(head[3:]))
        if host.startswith("0.0.0."):  # 4a: a name follows
            host = await _until_nul(stream)
        known = not self.options.credentials or user == self.options.credentials
        target = f"{host}:{int.from_bytes(head[1:3], 'big')}"
        say(method="SOCKS4", target=target, authorised=known)
        code = 0x5D if not known else 0x5B if self.options.behaviour == "refuse" else 0x5A
        await self._send(stream, bytes([0, code]) + bytes(6))
        if code == 0x5A:
            await self.splice(stream, target)

    async def _send(self, stream: Any, data: bytes) -> None:
        if self.options.behaviour != "drip":
            await stream.send_all(data)
            return
        for byte in data:
            await stream.send_all(bytes([byte]))
            await trio.sleep(self.options.drip_seconds)


async def _exactly(stream: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := await stream.receive_some(count - len(data))):
            raise EOFError
        data += more
    return data


async def _until_nul(stream: Any) -> str:
    data = b""
    while (byte := await _exactly(stream, 1)) != b"\0":
        data += byte
    return data.decode("ascii")


async def _request(http: h11.Connection, stream: Any) -> h11.Request | None:
    event = await _next(http, stream)
    return event if isinstance(event, h11.Request) else None


async def _next(http: h11.Connection, stream: Any) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.receive_some(CHUNK))
    return event


async def _pump(source: Any, sink: Any, both: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await source.receive_some(CHUNK):
            await sink.send_all(data)
    both.cancel()


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--behaviour", choices=BEHAVIOURS, default="forward")
    parser.add_argument("--credentials", default="")
    parser.add_argument("--certificate", default="")
    parser.add_argument("--drip-seconds", type=float, default=0.0)
    parser.add_argument("--loopback-name", action="append", default=[])
    parser.add_argument("--socks", action="store_true")
    parser.add_argument("--route", action="append", default=[], help="HOST:PORT=LOOPBACK_PORT")
    options = parser.parse_args()
    server = SocksServer(options) if options.socks else Server(options)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    say(port=listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(server.serve, listeners)


# --- the test's side --------------------------------------------------------------------------------------------------


@dataclass
class ProxyProcess:
    """A running proxy and every request it was sent."""

    process: trio.Process
    port: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)
    listening: trio.Event = field(default_factory=trio.Event)

    def url(self, *, credentials: str = "", scheme: str = "http") -> str:
        return f"{scheme}://{credentials + '@' if credentials else ''}127.0.0.1:{self.port}"

    def targets(self, method: str) -> list[str]:
        """What was asked for by CONNECT, or by an absolute URL, with credentials that were good enough."""
        return [entry["target"] for entry in self.seen if entry["method"] == method and entry["authorised"]]

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def read(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in map(json.loads, lines):
                if "port" in line:
                    self.port = line["port"]
                    self.listening.set()
                else:
                    self.seen.append(line)


@asynccontextmanager
async def open_proxy(
    behaviour: str = "forward",
    *,
    credentials: str = "",
    loopback_name: str = "platform.test",
    certificate: Path | None = None,
    drip_seconds: float = 0.0,
    routes: Mapping[str, int] | None = None,
    socks: bool = False,
) -> AsyncIterator[ProxyProcess]:
    """A proxy process that is gone after the block. With `certificate` (and key) it speaks TLS itself.

    With `socks` it speaks SOCKS instead of HTTP; version 4 knows a client by a user alone.

    `routes` are ports of loopback by the `host:port` that they are to be taken for.
    """
    arguments = ["--behaviour", behaviour, "--loopback-name", loopback_name, "--drip-seconds", str(drip_seconds)]
    arguments += ["--credentials", credentials] if credentials else []
    arguments += ["--socks"] if socks else []
    arguments += ["--certificate", str(certificate)] if certificate else []
    arguments += [f"--route={target}={port}" for target, port in (routes or {}).items()]
    process = await trio.lowlevel.open_process([sys.executable, __file__, *arguments], stdout=subprocess.PIPE)
    proxy = ProxyProcess(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.read)
        try:
            with trio.fail_after(20):
                await proxy.listening.wait()
            yield proxy
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
