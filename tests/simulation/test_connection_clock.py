"""The long connection under a mock clock, over memory streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock as Clock

from gateway.channel.channel import ConnectionState, LinkLost, LinkRefused
from gateway.channel.errors import PlatformRefused, PlatformThrottled, PlatformUnauthorized, PlatformUnavailable
from gateway.concurrency import finishing
from gateway.lark.chat.connection import ConnectionSettings, RawLink
from gateway.lark.wire.endpoint import Endpoint
from gateway.lark.wire.frame import Frame
from support.lark_peer import Client, Peer, code_of, endpoint, event_frame, in_memory, play


@dataclass
class Talk:
    """A running connection and its peer. `ended` has how the connection came to its end."""

    client: Client
    peer: Peer
    scope: trio.CancelScope
    done: trio.Event
    ended: LinkLost | LinkRefused | None = None
    ended_at: float = 0.0

    async def end(self) -> LinkLost | LinkRefused:
        await self.done.wait()
        assert self.ended is not None
        return self.ended


@asynccontextmanager
async def talking(client: Client, *, hours: float = 2) -> AsyncIterator[Talk]:
    """An established connection; the peer's side stays open until the block ends."""
    peers: list[Peer] = []
    accepted = trio.Event()

    async def script(peer: Peer) -> None:
        peers.append(peer)
        accepted.set()
        await trio.sleep_forever()

    async def run(talk: Talk, *, task_status: trio.TaskStatus[None]) -> None:
        with talk.scope:
            try:
                await client.run(in_memory(platform, partial(play, script=script)), task_status=task_status)
            except (LinkLost, LinkRefused) as error:
                talk.ended = error
        talk.ended_at = trio.current_time()
        talk.done.set()

    with trio.fail_after(hours * 3600):
        async with trio.open_nursery() as platform, trio.open_nursery() as nursery:
            talk = Talk(client, None, trio.CancelScope(), trio.Event())  # type: ignore[arg-type]
            await nursery.start(run, talk)
            await accepted.wait()
            talk.peer = peers[0]
            yield talk
            platform.cancel_scope.cancel()


async def attempt(client: Client, open_stream: Callable[[Endpoint], Awaitable[RawLink]]) -> LinkLost | LinkRefused:
    """Run a connection that is expected to fail to come up."""
    with trio.fail_after(3600):
        try:
            await client.run(open_stream)
        except (LinkLost, LinkRefused) as error:
            return error
    raise AssertionError("the connection came up")


def slow(*payloads: bytes, seconds: float) -> Callable[[bytes], Awaitable[int]]:
    async def decide(payload: bytes) -> int:
        if payload in payloads:
            await trio.sleep(seconds)
        return 200

    return decide


async def silent(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


# Events and their answers


async def test_event_is_acknowledged_at_once_while_another_chat_hangs(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"chat a", seconds=5))) as talk:
        await talk.peer.send_event(b"chat a", "slow")
        await talk.peer.send_event(b"chat b", "fast")
        sent_at = trio.current_time()
        await talk.peer.ack("slow")
        times = {name: at - sent_at for name, (at, _) in zip(talk.peer.acked, talk.peer.acks, strict=True)}
        assert times["fast"] <= 0.5
        assert times["slow"] == pytest.approx(5)


async def test_ping_of_the_platform_is_answered_while_an_event_hangs(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"chat a", seconds=5))) as talk:
        await talk.peer.send_event(b"chat a")
        sent_at = trio.current_time()
        await talk.peer.send_ping()
        await talk.peer.wait_until(lambda: bool(talk.peer.pongs))
        assert talk.peer.pongs[0] - sent_at <= 0.5


async def test_events_of_one_chat_are_decided_in_order(autojump_clock: Clock) -> None:
    async def decide(payload: bytes) -> int:
        await trio.sleep(3 if payload == b"a0" else 0)
        finished.append(payload)
        return 200

    finished: list[bytes] = []
    client = Client(on_event=decide, order_key=lambda payload: payload[:1].decode())
    async with talking(client) as talk:
        for payload in (b"a0", b"a1", b"b0", b"a2", b"b1"):
            await talk.peer.send_event(payload, payload.decode())
        await talk.peer.ack("a2")
        assert [name for name in finished if name.startswith(b"a")] == [b"a0", b"a1", b"a2"]
        assert finished[:2] == [b"b0", b"b1"]


async def test_events_without_an_order_key_do_not_wait_for_each_other(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"a", seconds=5), order_key=lambda _: "")) as talk:
        await talk.peer.send_event(b"a", "slow")
        await talk.peer.send_event(b"b", "fast")
        await talk.peer.ack("slow")
        assert talk.peer.acked == ["fast", "slow"]


async def test_acknowledgement_carries_the_time_taken_and_is_reported(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"a", seconds=1.5))) as talk:
        sent = await talk.peer.send_event(b"a")
        ack = await talk.peer.ack()
        assert ack.headers == (*sent.headers, (b"biz_rt", b"1500"))
        assert (ack.seq_id, ack.log_id, ack.service) == (sent.seq_id, sent.log_id, sent.service)
        assert talk.client.recorder.seen("channel_ack_seconds") == [("feishu", "200")]
        assert talk.client.recorder.values("channel_ack_seconds") == [pytest.approx(1.5)]


async def test_poison_event_is_answered_500_and_the_connection_stays(autojump_clock: Clock) -> None:
    async def decide(payload: bytes) -> int:
        if payload == b"poison":
            raise RuntimeError("boom")
        return 200

    async with talking(Client(on_event=decide)) as talk:
        with capture_logs() as logs:
            await talk.peer.send_event(b"poison", "p")
            assert code_of(await talk.peer.ack("p")) == 500
        assert [entry["exc_info"] for entry in logs if entry["event"] == "event_failed"] == [True]
        await talk.peer.send_event(b"good", "g")
        assert code_of(await talk.peer.ack("g")) == 200


async def test_poison_event_does_not_block_the_next_one_of_its_chat(autojump_clock: Clock) -> None:
    async def decide(payload: bytes) -> int:
        if payload == b"poison":
            raise ExceptionGroup("several", [ValueError("boom")])
        return 200

    async with talking(Client(on_event=decide, order_key=lambda _: "one chat")) as talk:
        await talk.peer.send_event(b"poison", "p")
        await talk.peer.send_event(b"good", "g")
        assert code_of(await talk.peer.ack("g")) == 200
        assert talk.peer.acked == ["p", "g"]


async def test_event_whose_order_cannot_be_told_is_still_decided(autojump_clock: Clock) -> None:
    def order_key(_payload: bytes) -> str:
        raise ValueError("no chat")

    async with talking(Client(order_key=order_key)) as talk:
        await talk.peer.send_event(b"x")
        assert code_of(await talk.peer.ack()) == 200


async def test_answer_of_500_is_passed_on(autojump_clock: Clock) -> None:
    async def decide(_payload: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return 500

    async with talking(Client(on_event=decide)) as talk:
        await talk.peer.send_event(b"x")
        assert code_of(await talk.peer.ack()) == 500


async def test_split_event_is_delivered_once_and_late_pieces_are_settled(autojump_clock: Clock) -> None:
    async with talking(Client()) as talk:
        for seq, part in ((2, b"C"), (0, b"A"), (0, b"A"), (1, b"B")):
            await talk.peer.send_event(part, "m", sum="3", seq=str(seq))
        ack = await talk.peer.ack()
        assert ack.header(b"seq") == b"1"
        await talk.peer.send_event(b"A", "m", sum="3", seq="0")
        await talk.peer.wait_until(lambda: len(talk.peer.acks) == 2)
        assert code_of(talk.peer.acks[1][1]) == 200
        assert talk.client.events == [b"ABC"]


# Bad input


async def test_bad_input_of_every_kind_leaves_the_connection_up(autojump_clock: Clock) -> None:
    async with talking(Client(settings=ConnectionSettings(frame_bytes_max=1000))) as talk:
        with capture_logs() as logs:
            await talk.peer.ws.send_message("text")
            await talk.peer.ws.send_message(b"")
            await talk.peer.ws.send_message(b"\xff\xff\xff")
            await talk.peer.ws.send_message(b"x" * 1001)
            await talk.peer.send(Frame(method=9))
            await talk.peer.send_event(b"x", "m", sum=str(2**31))
            await talk.peer.send(event_frame(b"\xff\xfe", "utf8", trace_id="\N{SNOWMAN}"))
            await talk.peer.ack("utf8")
        assert [entry["event"] for entry in logs] == [
            "message_dropped",
            "frame_malformed",
            "frame_malformed",
            "message_dropped",
            "frame_ignored",
            "frame_ignored",
        ]
        assert talk.client.events == [b"\xff\xfe"]
        assert talk.client.health.state is ConnectionState.LIVE


async def test_message_above_the_websocket_limit_closes_with_1009(autojump_clock: Clock) -> None:
    async with talking(Client(settings=ConnectionSettings(frame_bytes_max=1000))) as talk:
        await talk.peer.ws.send_message(b"x" * 70_000)
        assert "1009" in str(await talk.end())
        await talk.peer.closed.wait()


# Keeping alive


async def test_pings_go_out_at_once_and_then_at_the_interval_of_the_url(autojump_clock: Clock) -> None:
    async with talking(Client(endpoint=endpoint(ping_interval_seconds=30))) as talk:
        await talk.peer.wait_until(lambda: len(talk.peer.pings) == 4)
        start = talk.peer.pings[0]
        assert [at - start for at in talk.peer.pings] == pytest.approx([0, 30, 60, 90])


async def test_ping_interval_of_a_pong_applies_from_the_last_ping_on(autojump_clock: Clock) -> None:
    async with talking(Client(endpoint=endpoint(ping_interval_seconds=100))) as talk:
        talk.peer.pong_payload = b'{"PingInterval":20}'
        await talk.peer.wait_until(lambda: len(talk.peer.pings) == 3)
        start = talk.peer.pings[0]
        # The first pong may be on its way before the payload is set.
        assert talk.peer.pings[-1] - start in (pytest.approx(40), pytest.approx(120))


async def test_ping_interval_of_zero_keeps_the_last_good_one(autojump_clock: Clock) -> None:
    async with talking(Client(endpoint=endpoint(ping_interval_seconds=50))) as talk:
        talk.peer.pong_payload = b'{"PingInterval":0}'
        await talk.peer.wait_until(lambda: len(talk.peer.pings) == 3)
        assert talk.peer.pings[2] - talk.peer.pings[0] == pytest.approx(100)


async def test_silent_peer_is_deaf_after_two_intervals_and_ten_seconds(autojump_clock: Clock) -> None:
    async with talking(Client(endpoint=endpoint(ping_interval_seconds=30))) as talk:
        await talk.peer.wait_until(lambda: len(talk.peer.pings) == 2)
        talk.peer.answer_pings = False
        heard_at = talk.peer.pings[1]
        ending = await talk.end()
        assert isinstance(ending, LinkLost)
        assert ending.deaf
        assert talk.ended_at - heard_at == pytest.approx(70, abs=1)
        assert talk.client.health.state is ConnectionState.DEAF


async def test_connection_that_is_not_read_for_lack_of_room_is_not_deaf(autojump_clock: Clock) -> None:
    settings = ConnectionSettings(events_in_flight_max=1)
    client = Client(on_event=slow(b"a", seconds=1000), settings=settings, endpoint=endpoint(ping_interval_seconds=30))
    async with talking(client) as talk:
        await talk.peer.send_event(b"a", "slow")
        await talk.peer.send_event(b"b", "waiting")
        await talk.peer.ack("waiting")
        assert trio.current_time() >= 1000
        assert not talk.done.is_set()


async def test_events_beyond_the_bound_wait_and_none_is_lost(autojump_clock: Clock) -> None:
    under_way = 0
    most = 0

    async def decide(_payload: bytes) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(1)
        under_way -= 1
        return 200

    async with talking(Client(on_event=decide, settings=ConnectionSettings(events_in_flight_max=4))) as talk:
        for number in range(20):
            await talk.peer.send_event(b"%d" % number, f"m{number}")
        await talk.peer.wait_until(lambda: len(talk.peer.acks) == 20)
        assert most == 4


async def test_bytes_beyond_the_bound_wait_except_for_a_single_event(autojump_clock: Clock) -> None:
    settings = ConnectionSettings(bytes_in_flight_max=100)
    client = Client(on_event=slow(b"a" * 200, seconds=5), settings=settings)
    async with talking(client) as talk:
        await talk.peer.send_event(b"a" * 200, "big")
        await talk.peer.send_event(b"b", "small")
        await talk.peer.ack("small")
        assert talk.peer.acked == ["big", "small"]


async def test_health_shows_frames_events_and_the_round_trip(autojump_clock: Clock) -> None:
    async with talking(Client()) as talk:
        health = talk.client.health
        await talk.peer.send_event(b"x")
        await talk.peer.ack()
        assert health.state is ConnectionState.LIVE
        assert health.last_frame_at is not None
        assert health.last_event_at is not None
        assert health.pong_ms == pytest.approx(0, abs=100)


# Coming up


async def test_bootstrap_that_hangs_is_lost_in_time(autojump_clock: Clock) -> None:
    class Hanging(Client):
        async def _fetch(self) -> Endpoint:
            await trio.sleep_forever()
            raise AssertionError

    ending = await attempt(Hanging(), open_stream=pytest.fail)
    assert isinstance(ending, LinkLost)
    assert trio.current_time() == pytest.approx(15)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PlatformRefused("no", code=514), LinkRefused),
        (PlatformUnauthorized("no", code=514), LinkRefused),
        (PlatformUnavailable("later", code=1), LinkLost),
        (PlatformThrottled("later", retry_after=3.0), LinkLost),
    ],
)
async def test_bootstrap_error_becomes_a_refusal_or_a_loss(
    error: Exception, kind: type[Exception], autojump_clock: Clock
) -> None:
    class Failing(Client):
        async def _fetch(self) -> Endpoint:
            await trio.lowlevel.checkpoint()
            raise error

    client = Failing()
    ending = await attempt(client, open_stream=pytest.fail)
    assert type(ending) is kind
    if isinstance(ending, LinkRefused):
        assert (ending.code, ending.reason) == (514, "no")
        assert (client.health.state, client.health.code) == (ConnectionState.REFUSED, 514)


async def test_dial_that_hangs_is_lost_in_time(autojump_clock: Clock) -> None:
    async def open_stream(_endpoint: Endpoint) -> RawLink:
        await trio.sleep_forever()
        raise AssertionError

    assert isinstance(await attempt(Client(), open_stream), LinkLost)
    assert trio.current_time() == pytest.approx(15)


async def test_dial_that_fails_is_lost_without_showing_the_ticket(autojump_clock: Clock) -> None:
    async def open_stream(_endpoint: Endpoint) -> RawLink:
        await trio.lowlevel.checkpoint()
        raise OSError("no route")

    ending = await attempt(Client(), open_stream)
    assert "no route" in str(ending)
    assert "ticket" not in str(ending)


async def test_handshake_with_a_silent_server_is_lost_in_time(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        ending = await attempt(Client(), in_memory(nursery, silent))
        nursery.cancel_scope.cancel()
    assert isinstance(ending, LinkLost)
    assert "within 15 s" in str(ending)
    assert trio.current_time() == pytest.approx(15)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Pro", b"no http\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_handshake_that_is_torn_is_lost_at_once(answer: bytes, autojump_clock: Clock) -> None:
    async def tear(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10_000)
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        ending = await attempt(Client(), in_memory(nursery, tear))
        nursery.cancel_scope.cancel()
    assert isinstance(ending, LinkLost)
    assert trio.current_time() < 1


@pytest.mark.parametrize("body", [b"", b"no"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([(b"Handshake-Status", b"403"), (b"Handshake-Msg", b"forbidden")], 403),
        ([(b"Handshake-Status", b"514"), (b"Handshake-Autherrcode", b"1000040350")], 1000040350),
        ([(b"Handshake-Status", b"514"), (b"Handshake-Autherrcode", b"1")], None),
        ([], None),
    ],
)
async def test_handshake_refused_is_judged_by_its_headers(
    headers: list[tuple[bytes, bytes]], code: int | None, body: bytes, autojump_clock: Clock
) -> None:
    reject = {"status_code": 403, "extra_headers": headers, "body": body or None}
    async with trio.open_nursery() as nursery:
        ending = await attempt(Client(), in_memory(nursery, partial(play, script=pytest.fail, **reject)))
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 2
    if code is None:
        assert isinstance(ending, LinkLost)
    else:
        assert isinstance(ending, LinkRefused)
        assert ending.code == code


# Coming down


async def test_server_that_closes_ends_the_connection_with_its_reason(autojump_clock: Clock) -> None:
    async with talking(Client()) as talk:
        await talk.peer.ws.aclose(1001, "going away")
        ending = await talk.end()
        assert isinstance(ending, LinkLost)
        assert not ending.deaf
        assert "1001" in str(ending)


async def test_write_that_makes_no_progress_ends_the_connection(autojump_clock: Clock) -> None:
    """The peer's end of a lockstep stream must read for us to write; it stops after the handshake."""
    held = trio.Event()

    class Stalling(trio.abc.Stream):
        def __init__(self, inner: trio.abc.Stream) -> None:
            self.inner = inner
            self.writes = 0

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            self.writes += 1
            if self.writes > 1:
                await held.wait()
            await self.inner.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await self.inner.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self.inner.receive_some(max_bytes)

        async def aclose(self) -> None:
            await self.inner.aclose()

    async def script(_peer: Peer) -> None:
        await trio.sleep_forever()

    async def open_stream(at: Endpoint) -> RawLink:
        raw = await in_memory(nursery, partial(play, script=script))(at)
        return RawLink(Stalling(raw.stream), raw.abort)

    async with trio.open_nursery() as nursery:
        ending = await attempt(Client(), open_stream)
        nursery.cancel_scope.cancel()
    assert "could not be written within 10 s" in str(ending)
    assert trio.current_time() == pytest.approx(10, abs=0.5)


async def test_cancellation_settles_and_acknowledges_what_was_received(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"a", b"b", seconds=0.8))) as talk:
        await talk.peer.send_event(b"a", "1")
        await talk.peer.send_event(b"b", "2")
        await trio.testing.wait_all_tasks_blocked()
        cancelled_at = trio.current_time()
        talk.scope.cancel()
        await talk.done.wait()
        assert sorted(talk.peer.acked) == ["1", "2"]
        assert talk.ended_at - cancelled_at == pytest.approx(0.8, abs=0.1)
        await talk.peer.closed.wait()
        assert talk.peer.ws.closed is not None
        assert talk.peer.ws.closed.code == 1000


async def test_cancellation_waits_a_second_at_most_for_an_event_that_hangs(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"a", seconds=60))) as talk:
        await talk.peer.send_event(b"a")
        await trio.testing.wait_all_tasks_blocked()
        cancelled_at = trio.current_time()
        talk.scope.cancel()
        await talk.done.wait()
        assert talk.ended_at - cancelled_at == pytest.approx(1, abs=0.1)
        await talk.peer.closed.wait()
        assert talk.peer.acked == []


async def test_cancellation_ends_reading_before_what_was_received_is_settled(autojump_clock: Clock) -> None:
    async with talking(Client(on_event=slow(b"a", seconds=0.5))) as talk:
        await talk.peer.send_event(b"a", "before")
        await trio.testing.wait_all_tasks_blocked()
        talk.scope.cancel()
        await talk.peer.send_event(b"b", "after")
        await talk.done.wait()
        assert talk.client.events == [b"a"]
        assert talk.peer.acked == ["before"]


async def test_cancellation_before_the_handshake_is_over_ends_at_once(autojump_clock: Clock) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(3):
                await Client().run(in_memory(nursery, silent))
            assert trio.current_time() == pytest.approx(3)
            nursery.cancel_scope.cancel()


async def test_fence_that_falls_closes_the_link_while_a_shielded_event_still_runs(autojump_clock: Clock) -> None:
    async def decide(_payload: bytes) -> int:
        with finishing(2):
            await trio.sleep(0.9)
        return 200

    async with talking(Client(on_event=decide)) as talk:
        await talk.peer.send_event(b"a")
        await trio.testing.wait_all_tasks_blocked()
        fell_at = trio.current_time()
        talk.client.fence.fall()
        talk.scope.cancel()
        await talk.peer.closed.wait()
        assert trio.current_time() - fell_at < 0.01
        assert not talk.done.is_set()
        await talk.done.wait()
        assert talk.peer.acked == []


async def test_fence_that_fell_before_the_dial_lets_nothing_through(autojump_clock: Clock) -> None:
    client = Client()
    client.fence.fall()
    async with trio.open_nursery() as nursery:
        assert isinstance(await attempt(client, in_memory(nursery, silent)), LinkLost)
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 1


async def test_connection_takes_its_teardown_back_from_the_fence(autojump_clock: Clock) -> None:
    async with talking(Client()) as talk:
        talk.scope.cancel()
        await talk.done.wait()
        assert talk.client.fence._teardowns == []


async def test_connection_may_be_run_again(autojump_clock: Clock) -> None:
    client = Client()
    for _ in range(3):
        async with talking(client) as talk:
            await talk.peer.send_event(b"x")
            await talk.peer.ack()
            talk.scope.cancel()
            await talk.done.wait()
    assert client.events == [b"x"] * 3
