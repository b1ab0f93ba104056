"""A TCP proxy in front of an HTTP server: it can go away, and something else can answer in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import trio

Broken = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass
class Gate:
    """`url` leads through it. While `shut`, connections end at once; while there is a `stranger`, it says just that."""

    url: str
    shut: bool = False
    stranger: bytes | None = None
    turned_away: int = 0
    _open: set[trio.CancelScope] = field(default_factory=set)

    def shut_out(self) -> None:
        """End every connection, and those to come until `shut` is taken back."""
        self.shut = True
        self._end_all()

    def replace_by(self, stranger: bytes | None) -> None:
        """Something else answers from now on; None: the server again."""
        self.stranger = stranger
        self._end_all()

    def _end_all(self) -> None:
        for scope in list(self._open):
            scope.cancel()

    async def serve(self, host: str, port: int, client: trio.SocketStream) -> None:
        with suppress(*Broken):
            async with client:
                if self.shut or self.stranger is not None:
                    await self._turn_away(client)
                    return
                server = await trio.open_tcp_stream(host, port)
                async with server, trio.open_nursery() as nursery:
                    self._open.add(nursery.cancel_scope)
                    nursery.start_soon(_pump, nursery, client, server)
                    await _pump(nursery, server, client)
                self._open.discard(nursery.cancel_scope)

    async def _turn_away(self, client: trio.SocketStream) -> None:
        if self.stranger is not None:
            await client.receive_some(65_536)
            await client.send_all(self.stranger)
        self.turned_away += 1


async def _pump(nursery: trio.Nursery, source: trio.SocketStream, sink: trio.SocketStream) -> None:
    with suppress(*Broken):
        while data := await source.receive_some(65_536):
            await sink.send_all(data)
    nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_gate(url: str) -> AsyncIterator[Gate]:
    """A gate on loopback for the server at `url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gate = Gate(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, partial(gate.serve, parts.hostname, parts.port), [listener])
        yield gate
        nursery.cancel_scope.cancel()
