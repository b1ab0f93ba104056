"""A Lark host on loopback that gives out files byte by byte, as truthfully or not as a test wants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

Script = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class FilePeer:
    """Answers resource calls in the order of `scripts`, the last one for ever. `requests`: their first lines."""

    base_url: str = ""
    scripts: list[Script] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: int = 0
    sent: int = 0
    """Body bytes that `stream_forever` got rid of."""
    left: trio.Event = field(default_factory=trio.Event)
    """Set when a client left in the middle."""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                line = await _first_line(stream)
                if "tenant_access_token" in line:
                    self.tokens += 1
                    body = {"code": 0, "tenant_access_token": f"t-fake-{self.tokens}", "expire": 7200}
                    await stream.send_all(answer(json.dumps(body).encode()))
                    return
                self.requests.append(line)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await script(stream)
            except trio.BrokenResourceError:
                self.left.set()

    async def stream_forever(self, stream: trio.SocketStream, *, head: bytes) -> None:
        await stream.send_all(head)
        while True:
            await stream.send_all(bytes(65_536))
            self.sent += 65_536


async def _first_line(stream: trio.SocketStream) -> str:
    received = b""
    while b"\r\n\r\n" not in received:
        part = bytes(await stream.receive_some(65_536))
        if not part:
            raise trio.BrokenResourceError
        received += part
    length = next(
        (int(each[15:]) for each in received.lower().split(b"\r\n") if each.startswith(b"content-length:")), 0
    )
    body = received.partition(b"\r\n\r\n")[2]
    while len(body) < length:
        body += bytes(await stream.receive_some(65_536))
    return received.split(b"\r\n", 1)[0].decode()


def answer(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    length: int | None = None,
    extra: str = "",
) -> bytes:
    """A whole answer on a connection that is closed after it; `length` may lie."""
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode() + body


def chunked(*chunks: bytes, content_type: str = "image/png", end: bool = True) -> bytes:
    head = f"HTTP/1.1 200 X\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    parts = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + parts + (b"0\r\n\r\n" if end else b"")


def saying(data: bytes) -> Script:
    async def script(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return script


async def hang(stream: trio.SocketStream) -> None:
    await stream.send_all(answer(b"", content_type="image/png", length=100))
    await trio.sleep_forever()


@asynccontextmanager
async def serving_files(*scripts: Script) -> AsyncIterator[FilePeer]:
    peer = FilePeer(scripts=list(scripts))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, peer.serve, 0, host="127.0.0.1"))
        peer.base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield peer
        nursery.cancel_scope.cancel()
