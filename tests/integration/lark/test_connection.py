"""The long connection over loopback sockets and the real clock."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import wrap_server_stream

from gateway.channel.channel import ConnectionState, LinkLost
from gateway.lark.chat.connection import ConnectionSettings, open_tcp_link
from gateway.lark.wire.endpoint import Endpoint
from support.certificates import self_signed
from support.lark_peer import Client, Peer, code_of, endpoint, loopback, play

PLAIN = partial(open_tcp_link, ssl_context=ssl.create_default_context())


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Endpoint, trio.MemoryReceiveChannel[Peer]]]:
    """A platform on a loopback socket, and its end of each connection as they come."""
    send, receive = trio.open_memory_channel[Peer](10)

    async def script(peer: Peer) -> None:
        await send.send(peer)
        await peer.closed.wait()

    with trio.fail_after(20):
        async with loopback(partial(play, script=script)) as at:
            yield at, receive


async def lost(client: Client) -> LinkLost:
    with trio.fail_after(20), pytest.raises(LinkLost) as caught:
        await client.run(PLAIN)
    return caught.value


async def test_event_over_a_socket_is_delivered_and_acknowledged() -> None:
    async with serving() as (at, peers), trio.open_nursery() as nursery:
        client = Client(endpoint=at)
        await nursery.start(client.run, PLAIN)
        peer = await peers.receive()
        await peer.send_event(b"x" * 900_000, "big")
        assert code_of(await peer.ack("big")) == 200
        assert [len(payload) for payload in client.events] == [900_000]
        await peer.wait_until(lambda: bool(peer.pings))
        nursery.cancel_scope.cancel()


async def test_acknowledgement_takes_less_than_half_a_second_while_another_chat_hangs() -> None:
    async def decide(payload: bytes) -> int:
        if payload == b"hangs":
            await trio.sleep_forever()
        return 200

    async def acknowledgement() -> float:
        async with serving() as (at, peers), trio.open_nursery() as nursery:
            await nursery.start(Client(endpoint=at, on_event=decide).run, PLAIN)
            peer = await peers.receive()
            await peer.send_event(b"hangs", "slow")
            sent_at = trio.current_time()
            for number in range(50):
                await peer.send_event(b"%d" % number, f"m{number}")
            await peer.wait_until(lambda: len(peer.acks) == 50)
            seconds = trio.current_time() - sent_at
            assert "slow" not in peer.acked
            nursery.cancel_scope.cancel()
        return seconds

    assert await fastest(acknowledgement) < 0.5


async def fastest(measure: Callable[[], Awaitable[float]]) -> float:
    """The best of a few: a machine that is busy with something else says nothing about us."""
    return min([await measure() for _ in range(4)])


async def test_cancellation_of_a_blocked_read_ends_within_50_ms() -> None:
    async def measure() -> float:
        async with serving() as (at, peers):
            async with trio.open_nursery() as nursery:
                await nursery.start(Client(endpoint=at).run, PLAIN)
                peer = await peers.receive()
                await peer.wait_until(lambda: bool(peer.pings))
                cancelled_at = trio.current_time()
                nursery.cancel_scope.cancel()
            return trio.current_time() - cancelled_at

    assert await fastest(measure) < 0.05


async def test_cancellation_beside_a_frozen_peer_ends_within_50_ms() -> None:
    async def freeze(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            nursery.cancel_scope.cancel()
        await trio.sleep_forever()

    async def measure() -> float:
        async with loopback(freeze) as at:
            async with trio.open_nursery() as nursery:
                await nursery.start(Client(endpoint=at).run, PLAIN)
                cancelled_at = trio.current_time()
                nursery.cancel_scope.cancel()
            return trio.current_time() - cancelled_at

    with trio.fail_after(20):
        assert await fastest(measure) < 0.05


async def run_until_lost(client: Client, *, task_status: trio.TaskStatus[None]) -> None:
    with pytest.raises(LinkLost):
        await client.run(PLAIN, task_status=task_status)


async def test_fence_that_falls_closes_the_socket_at_once() -> None:
    async def measure() -> float:
        async with serving() as (at, peers), trio.open_nursery() as nursery:
            client = Client(endpoint=at)
            await nursery.start(run_until_lost, client)
            peer = await peers.receive()
            await peer.wait_until(lambda: bool(peer.pings))
            fell_at = trio.current_time()
            client.fence.fall()
            await peer.closed.wait()
            return trio.current_time() - fell_at

    assert await fastest(measure) < 0.05


async def test_server_that_resets_the_socket_loses_the_link() -> None:
    async def reset(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.socket.close()
            nursery.cancel_scope.cancel()

    async with loopback(reset) as at:
        client = Client(endpoint=at)
        assert not (await lost(client)).deaf
        assert client.health.state is ConnectionState.CONNECTING


async def test_server_that_sends_nonsense_after_the_handshake_loses_the_link() -> None:
    async def babble(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            await stream.send_all(b"\xff" * 100)
            await trio.sleep_forever()

    async with loopback(babble) as at:
        await lost(Client(endpoint=at))


async def test_port_where_nobody_listens_loses_the_link_and_names_it_without_ticket() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await lost(Client(endpoint=endpoint(port)))
    assert f"ws://127.0.0.1:{port}/ws cannot be reached" in str(error)
    assert "ticket" not in str(error)


async def test_silent_server_loses_the_link_when_the_handshake_takes_too_long() -> None:
    async def silent(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with loopback(silent) as at:
        started_at = trio.current_time()
        await lost(Client(endpoint=at, settings=ConnectionSettings(handshake_timeout_seconds=0.1)))
        assert trio.current_time() - started_at < 5


async def test_socket_is_tuned_to_notice_a_vanished_peer() -> None:
    async with serving() as (at, _):
        settings = ConnectionSettings(keepalive_idle_seconds=7, keepalive_interval_seconds=3, user_timeout_seconds=9)
        raw = await open_tcp_link(at, ssl_context=ssl.create_default_context(), settings=settings)
        assert isinstance(raw.stream, trio.SocketStream)
        options = [socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT]
        values = [raw.stream.socket.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        assert values == [1, 7, 3, 9000]
        assert raw.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        raw.abort()
        raw.abort()


@asynccontextmanager
async def serving_tls(context: ssl.SSLContext) -> AsyncIterator[Endpoint]:
    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await play(tls, script)
        except* trio.BrokenResourceError:
            pass  # the client did not like our certificate

    async def script(peer: Peer) -> None:
        await peer.send_event(b"{}")
        await peer.ack()
        await peer.closed.wait()

    with trio.fail_after(20):
        async with loopback(serve) as at:
            yield replace(at, url=at.url.replace("ws:", "wss:"))


async def test_event_over_tls_is_acknowledged_and_cancellation_ends_within_50_ms(tmp_path: Path) -> None:
    server, ours = self_signed(tmp_path)

    async def measure() -> float:
        async with serving_tls(server) as at:
            client = Client(endpoint=at)
            async with trio.open_nursery() as nursery:
                await nursery.start(client.run, partial(open_tcp_link, ssl_context=ours))
                await client.recorder.until("channel_ack_seconds", "feishu", "200")
                cancelled_at = trio.current_time()
                nursery.cancel_scope.cancel()
            return trio.current_time() - cancelled_at

    assert await fastest(measure) < 0.05


async def test_certificate_that_nobody_vouches_for_loses_the_link(tmp_path: Path) -> None:
    server, _ = self_signed(tmp_path)
    async with serving_tls(server) as at:
        error = await lost(Client(endpoint=at))
        assert "cannot be reached: its certificate is not believed: self-signed certificate" in str(error)


async def test_fence_that_falls_over_tls_ends_the_link(tmp_path: Path) -> None:
    server, ours = self_signed(tmp_path)
    async with serving_tls(server) as at:
        client = Client(endpoint=at)

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with pytest.raises(LinkLost):
                await client.run(partial(open_tcp_link, ssl_context=ours), task_status=task_status)

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            client.fence.fall()
