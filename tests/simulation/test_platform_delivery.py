"""The simulated platform's redelivery schedule, on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
import trio.testing
from trio_websocket import WebSocketConnection, wrap_client_stream

from gateway.lark.wire.frame import Frame, acknowledge, decode, encode, ping
from gateway.simulator.delivery import PushPlan
from gateway.simulator.exchange import Request
from gateway.simulator.platform import App, Person
from gateway.simulator.simulator import Simulator, Utterance

# pytest-trio runs a test on the clock that is among its arguments; usefixtures would leave the real one.
Clock = trio.testing.MockClock

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Stage:
    """A simulator in memory, with one app and one person."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.app: App = simulator.create_app("Echo")
        self.ada: Person = simulator.create_person("Ada")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[WebSocketConnection]:
        """A client's WebSocket over memory streams."""
        body = msgspec.json.encode({"AppID": self.app.app_id, "AppSecret": self.app.secret})
        answer = await self.simulator.respond(Request("POST", "/callback/ws/endpoint", body=body))
        url = urlsplit(msgspec.json.decode(answer.body)["data"]["URL"])
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.simulator.door.serve, theirs)
            client = await wrap_client_stream(nursery, ours, url.netloc, f"{url.path}?{url.query}")
            yield client
            await client.aclose()


@asynccontextmanager
async def staged(**settings: float) -> AsyncIterator[Stage]:
    simulator = Simulator(seed=7, **settings)
    with trio.fail_after(3 * DAY):
        async with trio.open_nursery() as nursery:
            await nursery.start(simulator.delivery.run)
            yield Stage(simulator)
            nursery.cancel_scope.cancel()


async def receive(client: WebSocketConnection) -> Frame:
    message = await client.get_message()
    assert isinstance(message, bytes)
    return decode(message)


async def test_event_refused_comes_again_on_schedule_then_is_given_up(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        started = trio.current_time()
        event = stage.simulator.say(stage.ada, stage.app, "hello").event
        arrived, transport_ids = [], set()
        for _ in range(5):
            frame = await receive(client)
            arrived.append(trio.current_time() - started)
            transport_ids.add(frame.header(b"message_id"))
            await client.send_message(encode(acknowledge(frame, 500, 0)))
        await event.settled()

        pauses = [later - earlier for earlier, later in pairwise(arrived)]
        assert pauses == pytest.approx([15, 5 * MINUTE, HOUR, 6 * HOUR])
        assert len(transport_ids) == 5
        assert event.state == "given_up"
        assert [push.outcome for push in event.pushes] == ["refused"] * 5


async def test_event_unanswered_counts_as_failed_after_three_seconds(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        event = stage.simulator.say(stage.ada, stage.app, "hello").event
        frame = await receive(client)
        push = await event.answered()
        assert (push.outcome, push.latency_ms) == ("timeout", 3000)

        await client.send_message(encode(acknowledge(frame, 200, 0)))
        again = await receive(client)
        assert event.pushes[0].late
        await client.send_message(encode(acknowledge(again, 200, 0)))
        await event.settled()
        assert event.state == "delivered"


@pytest.mark.parametrize("lost", [b"instance_id", b"sum", b"trace_id", b"timestamp"])
async def test_ack_that_lost_a_header_is_not_accepted(lost: bytes, autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        event = stage.simulator.say(stage.ada, stage.app, "hello").event
        frame = await receive(client)
        ack = acknowledge(frame, 200, 0)
        kept = tuple(header for header in ack.headers if header[0] != lost)
        await client.send_message(encode(replace(ack, headers=kept)))

        push = await event.answered()
        assert push.outcome == "timeout"
        assert lost.decode() in push.complaint


async def test_ack_that_lost_the_numbers_is_accepted(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        event = stage.simulator.say(stage.ada, stage.app, "hello").event
        frame = await receive(client)
        await client.send_message(encode(replace(acknowledge(frame, 200, 0), seq_id=0, log_id=0)))
        await event.settled()
        assert event.state == "delivered"


async def test_event_without_connection_waits_for_the_schedule(autojump_clock: Clock) -> None:
    async with staged() as stage:
        event = stage.simulator.say(stage.ada, stage.app, "anybody?").event
        assert event.pushes[0].outcome == "no_connection"
        async with stage.connected() as client:
            started = trio.current_time()
            frame = await receive(client)
            assert trio.current_time() - started == pytest.approx(15)
            await client.send_message(encode(acknowledge(frame, 200, 0)))
            await event.settled()


async def test_connection_lost_before_the_ack_fails_the_push_at_once(autojump_clock: Clock) -> None:
    async with staged(redelivery_scale=0.1) as stage:
        async with stage.connected() as client:
            event = stage.simulator.say(stage.ada, stage.app, "hello").event
            await receive(client)
        started = trio.current_time()
        assert (await event.answered()).outcome == "lost"
        async with stage.connected() as client:
            frame = await receive(client)
            assert trio.current_time() - started == pytest.approx(1.5, abs=0.1)
            await client.send_message(encode(acknowledge(frame, 200, 0)))
            await event.settled()


async def test_events_said_in_order_arrive_in_order_and_the_ack_of_one_settles_only_it(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        records = [stage.simulator.say(stage.ada, stage.app, f"line {number}").event for number in range(20)]
        frames = [await receive(client) for _ in range(20)]
        assert [(frame.payload or b"").find(b"line %d" % number) > 0 for number, frame in enumerate(frames)]

        await client.send_message(encode(acknowledge(frames[3], 200, 0)))
        await records[3].settled()
        assert [record.state for record in records].count("delivered") == 1


async def test_redelivery_on_demand_is_the_same_event_in_a_new_envelope(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        event = stage.simulator.say(stage.ada, stage.app, "hello").event
        first = await receive(client)
        await client.send_message(encode(acknowledge(first, 200, 0)))
        await event.settled()

        stage.simulator.redeliver(event.event_id)
        second = await receive(client)
        assert second.payload == first.payload
        assert second.header(b"message_id") != first.header(b"message_id")
        await client.send_message(encode(acknowledge(second, 200, 0)))
        assert (await event.answered(2)).outcome == "delivered"


async def test_chunks_come_in_the_asked_order_and_make_up_the_payload(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        event = stage.simulator.say(
            stage.ada, stage.app, Utterance("a long story", plan=PushPlan(3, (2, 0, 0, 1)))
        ).event
        frames = [await receive(client) for _ in range(4)]

        assert [frame.header(b"seq") for frame in frames] == [b"2", b"0", b"0", b"1"]
        assert {frame.header(b"sum") for frame in frames} == {b"3"}
        parts = {frame.header(b"seq"): frame.payload or b"" for frame in frames}
        assert b"".join(parts[b"%d" % seq] for seq in range(3)) == event.payload
        await client.send_message(encode(acknowledge(frames[-1], 200, 0)))
        await event.settled()


async def test_frames_have_numbers_a_double_cannot_hold_and_all_headers(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        stage.simulator.say(stage.ada, stage.app, "hello")
        frame = await receive(client)

        assert int(float(frame.log_id)) != frame.log_id
        assert frame.seq_id > 0
        assert [key for key, _ in frame.headers] == [
            b"type",
            b"message_id",
            b"trace_id",
            b"timestamp",
            b"sum",
            b"seq",
            b"instance_id",
        ]


async def test_each_event_goes_to_one_of_the_connections(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as one, stage.connected() as two:
        counts = {id(one): 0, id(two): 0}

        async def answer(client: WebSocketConnection) -> None:
            while True:
                frame = await receive(client)
                counts[id(client)] += 1
                await client.send_message(encode(acknowledge(frame, 200, 0)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, one)
            nursery.start_soon(answer, two)
            for number in range(40):
                await stage.simulator.say(stage.ada, stage.app, f"line {number}").event.settled()
            nursery.cancel_scope.cancel()

        assert sum(counts.values()) == 40
        assert min(counts.values()) > 5
        assert stage.simulator.most_live(stage.app) == 2


async def test_ping_is_answered_with_the_current_config(autojump_clock: Clock) -> None:
    async with staged() as stage, stage.connected() as client:
        stage.simulator.configure_client({"PingInterval": 7}, replace=True)
        await client.send_message(encode(ping(stage.app.service_id)))
        frame = await receive(client)
        assert (frame.header(b"type"), frame.payload) == (b"pong", b'{"PingInterval":7}')

        stage.simulator.door.answers_pings = False
        await client.send_message(encode(ping(stage.app.service_id)))
        with trio.move_on_after(DAY) as waiting:
            await receive(client)
        assert waiting.cancelled_caught
