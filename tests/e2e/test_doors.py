"""Attacks on the front of the HTTP server of a daemon that has a bot, and how it ends under them."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from support.processes import GatewayProcess
from support.world import LarkBot, World

ACK_MS_MAX = 3_000
"""The flood's own clients take most of the processor. Held up by it, an answer took half a minute."""
FLOOD = Path(__file__).parents[1] / "support" / "flood.py"


@asynccontextmanager
async def flooding(url: str, clients: int, kind: str) -> AsyncIterator[None]:
    process = await trio.lowlevel.open_process(
        [sys.executable, str(FLOOD), url, str(clients), kind], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        with trio.fail_after(20):
            assert (await process.stdout.receive_some()).startswith(b"began")
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def connect(url: str) -> trio.SocketStream:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return await trio.open_tcp_stream(host, int(port))


async def ask(url: str, head: str, body: bytes = b"") -> bytes:
    """Everything that a server says to one request before it closes."""
    stream = await connect(url)
    async with stream:
        await stream.send_all(head.encode() + b"\r\n\r\n" + body)
        with trio.fail_after(10):
            return b"".join([piece async for piece in stream])


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def slowest_ack(world: World, bot: LarkBot, daemon: GatewayProcess, count: int = 5) -> float:
    """Of messages said one after the other, in milliseconds."""
    ada = await bot.bind("Ada")
    slowest = 0.0
    for number in range(count):
        said = world.sim.say(ada, bot.app, f"message {number}")
        with trio.fail_after(20):
            await said.event.settled()
        assert len(said.event.pushes) == 1
        slowest = max(slowest, said.event.pushes[0].latency_ms)
    assert daemon.returncode is None
    return slowest


async def ends_well(world: World, daemon: GatewayProcess, *, within: float) -> None:
    began = trio.current_time()
    assert await daemon.terminate(within + 20) == 0
    assert trio.current_time() - began < within
    assert await world.value("select count(*) from channel_installation where ws_lease_token is not null") == 0
    assert "drain_abandoned" not in daemon.log
    assert "Traceback" not in daemon.log


async def test_bot_hears_and_daemon_ends_under_floods(world: World) -> None:
    bot = await world.add_bot()
    async with world.daemon() as daemon:
        (connection,) = await bot.connected()
        async with AsyncExitStack() as floods:
            for kind, clients in (("heads", 30), ("bodies", 30), ("noise", 30), ("forms", 90)):
                await floods.enter_async_context(flooding(daemon.url, clients, kind))
            assert await slowest_ack(world, bot, daemon) < ACK_MS_MAX
            assert connection.live
            await ends_well(world, daemon, within=15)


async def test_daemon_without_work_ends_within_a_second_whoever_is_connected(world: World) -> None:
    _, token = await world.directory.add_user_token(world.owner)
    bot = await world.add_bot()
    async with world.daemon() as daemon, AsyncExitStack() as streams:

        async def say(head: str, *, answered: bytes = b"") -> None:
            stream = await streams.enter_async_context(await connect(daemon.url))
            await stream.send_all(head.encode())
            received = b""
            while answered not in received:
                received += await stream.receive_some()

        await bot.connected()
        bearer = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
        runtime = f"Host: x\r\nAuthorization: Bearer {world.runtime_token}\r\n"
        await say("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", answered=b"ok")
        await say(f"GET /api/workspaces/acme/events HTTP/1.1\r\n{bearer}\r\n", answered=b"resync")
        await say(f"POST /api/runtimes/{world.runtime_id}/tasks/claim?wait_seconds=50 HTTP/1.1\r\n{runtime}\r\n")
        await say("POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n{")
        await say("GET /healthz HTTP/1.1\r\nHo")
        await say("\x16\x03\x01")
        await say("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", answered=b"ok")
        await ends_well(world, daemon, within=1)


async def test_strangers_get_one_protocol_one_meaning_and_no_descriptor_for_long(world: World) -> None:
    async with world.daemon() as daemon:
        page = "GET /login HTTP/1.1\r\nHost: evil.example\r\nConnection: close"
        assert (await ask(daemon.url, page)).startswith(b"HTTP/1.1 200")
        before = descriptors(daemon.pid)
        for _ in range(50):
            async with await connect(daemon.url) as stream:
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        with trio.fail_after(5):
            while descriptors(daemon.pid) > before:
                await trio.sleep(0.01)
        upgrade = (
            page.replace("close", "close, Upgrade, HTTP2-Settings") + "\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
        )
        assert (await ask(daemon.url, upgrade)).startswith(b"HTTP/1.1 200")
        assert (await ask(daemon.url, "PRI * HTTP/2.0", b"SM\r\n\r\n")).startswith(b"HTTP/1.1 505")
        framed = "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"
        assert (await ask(daemon.url, framed, b"0\r\n\r\n")).startswith(b"HTTP/1.1 400")
        for path in ("//evil.example/", "/login/", "/issues/ACM-1", "//login"):
            answer = await ask(daemon.url, page.replace("/login", path))
            assert b"evil.example" not in answer.partition(b"\r\n\r\n")[0].replace(b"%2F", b"/").lower()
        answer = await ask(daemon.url, page.replace("/login", "/api/me"))
        assert {b"x-content-type-options: nosniff", b"cache-control: no-store"} <= set(answer.split(b"\r\n"))
        await ends_well(world, daemon, within=1)


async def test_descriptors_that_run_out_cost_new_connections_only(world: World) -> None:
    bot = await world.add_bot()
    async with world.daemon() as daemon:
        (connection,) = await bot.connected()
        await slowest_ack(world, bot, daemon, count=1)
        # Room for some clients, and for what the daemon itself opens and closes all the time.
        limit = descriptors(daemon.pid) + 20
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, limit))
        async with AsyncExitStack() as clients:
            streams = [await clients.enter_async_context(await connect(daemon.url)) for _ in range(60)]
            with trio.fail_after(5):
                assert await streams[-1].receive_some() == b""
            assert await slowest_ack(world, bot, daemon, count=2) < ACK_MS_MAX
            before = processor_seconds(daemon.pid)
            await trio.sleep(0.5)  # a loop that spins takes all of this time
            assert processor_seconds(daemon.pid) - before < 0.3
            assert connection.live
        with trio.fail_after(5):
            while descriptors(daemon.pid) > limit - 10:
                await trio.sleep(0.01)
        assert (await ask(daemon.url, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close")).startswith(
            b"HTTP/1.1 200"
        )
        assert daemon.log.count("http_connections_turned_away") == 1
        assert '"because": "EMFILE"' in daemon.log or '"because":"EMFILE"' in daemon.log
        await ends_well(world, daemon, within=3)
