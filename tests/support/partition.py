"""A TCP proxy in front of Postgres that can go away: silently and in one direction, or with every connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Broken = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass
class Partition:
    """`conninfo` leads through the proxy. While `vanishing`, nothing a client writes arrives, and nobody is told.

    While `cut`, connections end as soon as they are made.
    """

    conninfo: str
    vanishing: bool = False
    cut: bool = False
    open: set[trio.CancelScope] = field(default_factory=set)
    swallowed: trio.Event = field(default_factory=trio.Event)

    def cut_all(self) -> None:
        """End every connection, and those to come until `cut` is taken back."""
        self.cut = True
        for scope in self.open:
            scope.cancel()


@asynccontextmanager
async def open_partition(conninfo: str) -> AsyncIterator[Partition]:
    """A proxy on loopback for the server of `conninfo`, which is on a Unix socket."""
    parameters = conninfo_to_dict(conninfo)
    path = f"{parameters['host']}/.s.PGSQL.{parameters.get('port') or 5432}"
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()[:2]
    partition = Partition(make_conninfo(conninfo, host=host, port=port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, partial(_serve, partition, path), [listener])
        yield partition
        nursery.cancel_scope.cancel()


async def _serve(partition: Partition, path: str, client: trio.SocketStream) -> None:
    if partition.cut:
        await client.aclose()
        return
    with suppress(*Broken):
        server = await trio.open_unix_socket(path)
        async with client, server, trio.open_nursery() as nursery:
            partition.open.add(nursery.cancel_scope)
            nursery.start_soon(_pump, nursery, client, server, partition)
            await _pump(nursery, server, client, None)
        partition.open.discard(nursery.cancel_scope)


async def _pump(
    nursery: trio.Nursery, source: trio.SocketStream, sink: trio.SocketStream, partition: Partition | None
) -> None:
    with suppress(*Broken):
        while data := await source.receive_some(65536):
            if partition is not None and partition.vanishing:
                partition.swallowed.set()
            else:
                await sink.send_all(data)
    nursery.cancel_scope.cancel()
