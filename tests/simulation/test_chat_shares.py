"""One chat that is stuck or flooded delays no other chat's acknowledgement, on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from gateway.channel.channel import DEGRADED_SECONDS
from gateway.inbound import ports
from gateway.lark.chat.connection import ConnectionSettings
from support.inbound_memory import MemoryInbound
from support.lark_peer import Client, Peer, code_of, in_memory, play
from support.live_bot import KnownBot, LiveBot, open_live_bot, text_event

ACK_SECONDS_MAX = 0.5
REDELIVERED_AFTER_SECONDS = 15.0
IN_FLIGHT_MAX = 64


class Stuck(MemoryInbound):
    """The store call of one chat hangs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = trio.Event()

    async def ensure_session(self, conversation: ports.Conversation) -> UUID:
        if conversation.chat_id.startswith("oc_stuck"):
            await self.let_go.wait()
        return await super().ensure_session(conversation)


@dataclass
class Conversation:
    """A live bot on a store that may be stuck, and when each message was sent to it."""

    backend: Stuck
    bot: LiveBot
    sent_at: dict[str, float] = field(default_factory=dict)

    @property
    def peer(self) -> Peer:
        return self.bot.peer

    async def say(self, chat_id: str, number: int) -> str:
        name = f"{chat_id}:{number}"
        self.sent_at[name] = trio.current_time()
        await self.peer.send_event(text_event(name, chat_id, name), name)
        return name

    async def latency(self, name: str) -> float:
        """Of an acknowledgement with 200."""
        assert code_of(await self.peer.ack(name)) == 200
        return self.peer.acks[self.peer.acked.index(name)][0] - self.sent_at[name]


@asynccontextmanager
async def conversing() -> AsyncIterator[Conversation]:
    backend, settings = Stuck(), ConnectionSettings(events_in_flight_max=IN_FLIGHT_MAX)
    with trio.fail_after(3600):
        async with open_live_bot(backend, KnownBot(), settings) as bot:
            yield Conversation(backend, bot)


@pytest.mark.parametrize("stuck", [["oc_stuck"], ["oc_stuck", "oc_stuck too", "oc_stuck as well"]])
async def test_stuck_chat_delays_no_other_chat(autojump_clock: MockClock, stuck: list[str]) -> None:
    async with conversing() as talk:
        for number in range(300):
            for chat in stuck:
                await talk.say(chat, number)
            if number % 10 == 0:
                name = await talk.say("oc_other", number)
                assert await talk.latency(name) <= ACK_SECONDS_MAX
        refused = 300 * len(stuck) - IN_FLIGHT_MAX
        await talk.peer.wait_until(lambda: sum(code_of(frame) == 500 for _, frame in talk.peer.acks) >= refused)
        talk.backend.let_go.set()


async def test_what_a_stuck_chat_was_refused_comes_again_and_is_taken_in_order(autojump_clock: MockClock) -> None:
    async with conversing() as talk:
        names = [await talk.say("oc_stuck", number) for number in range(100)]
        await talk.peer.wait_until(lambda: len(talk.peer.acks) == 100 - IN_FLIGHT_MAX // 2)
        assert {code_of(frame) for _, frame in talk.peer.acks} == {500}
        refused = list(talk.peer.acked)
        assert refused == names[IN_FLIGHT_MAX // 2 :]
        talk.backend.let_go.set()
        await trio.sleep(REDELIVERED_AFTER_SECONDS)
        talk.peer.acks.clear()
        for start in range(0, len(refused), IN_FLIGHT_MAX // 4):
            for name in refused[start : start + IN_FLIGHT_MAX // 4]:
                await talk.peer.send_event(text_event(name, "oc_stuck", name), name)
            await trio.sleep(1)
        assert [code_of(await talk.peer.ack(name)) for name in refused] == [200] * len(refused)
        assert [stored.content for stored in await talk.backend.messages()] == names


async def test_bot_that_refused_an_event_is_degraded_for_a_minute(autojump_clock: MockClock) -> None:
    async with conversing() as talk:
        await talk.latency(await talk.say("oc_other", 0))
        assert talk.bot.health.degraded_seconds(trio.current_time()) == 0
        for number in range(IN_FLIGHT_MAX):
            await talk.say("oc_stuck", number)
        await talk.peer.wait_until(lambda: len(talk.peer.acks) >= IN_FLIGHT_MAX // 2)
        now = trio.current_time()
        assert 0 < talk.bot.health.degraded_seconds(now) <= DEGRADED_SECONDS
        assert talk.bot.health.degraded_seconds(now + DEGRADED_SECONDS) == 0
        talk.backend.let_go.set()


@asynccontextmanager
async def connected(on_event: Callable[[bytes], Awaitable[int]], settings: ConnectionSettings) -> AsyncIterator[Peer]:
    """A connection whose events are `<chat>:<anything>`."""
    client = Client(on_event=on_event, order_key=lambda payload: payload.split(b":")[0].decode(), settings=settings)
    peers, accepted = list[Peer](), trio.Event()

    async def script(peer: Peer) -> None:
        peers.append(peer)
        accepted.set()
        await trio.sleep_forever()

    with trio.fail_after(3600):
        async with trio.open_nursery() as platform, trio.open_nursery() as nursery:
            await nursery.start(client.run, in_memory(platform, partial(play, script=script)))
            await accepted.wait()
            yield peers[0]
            nursery.cancel_scope.cancel()
            platform.cancel_scope.cancel()


async def _decide_slowly(_payload: bytes) -> int:
    await trio.sleep(0.02)
    return 200


async def test_flooded_chat_delays_no_other_chat(autojump_clock: MockClock) -> None:
    async with connected(_decide_slowly, ConnectionSettings(events_in_flight_max=IN_FLIGHT_MAX)) as peer:
        latencies = []
        for number in range(600):
            await peer.send_event(b"flood:%d" % number, f"flood{number}")
            if number % 50 == 0:
                sent_at = trio.current_time()
                await peer.send_event(b"other:%d" % number, f"other{number}")
                assert code_of(await peer.ack(f"other{number}")) == 200
                latencies.append(trio.current_time() - sent_at)
        assert max(latencies) <= ACK_SECONDS_MAX
        await peer.wait_until(lambda: len(peer.acks) == 600 + len(latencies))


async def test_flooded_chat_is_taken_in_order_and_in_unbroken_stretches(autojump_clock: MockClock) -> None:
    taken: list[int] = []

    async def decide(payload: bytes) -> int:
        taken.append(int(payload.split(b":")[1]))
        return await _decide_slowly(payload)

    async with connected(decide, ConnectionSettings(events_in_flight_max=IN_FLIGHT_MAX)) as peer:
        for number in range(300):
            await peer.send_event(b"flood:%d" % number, str(number))
            await trio.sleep(0.01)
        await peer.wait_until(lambda: len(peer.acks) == 300)
    assert taken == sorted(taken)
    breaks = sum(later - former > 1 for former, later in pairwise(taken))
    assert 1 <= breaks <= 300 // (IN_FLIGHT_MAX // 2)


async def test_share_of_a_chat_is_bounded_in_bytes_too(autojump_clock: MockClock) -> None:
    let_go = trio.Event()

    async def decide(_payload: bytes) -> int:
        await let_go.wait()
        return 200

    async with connected(decide, ConnectionSettings(bytes_in_flight_max=100)) as peer:
        await peer.send_event(b"a:" + b"x" * 58, "first")
        await peer.send_event(b"a:" + b"x" * 18, "second")
        assert code_of(await peer.ack("second")) == 500
        await peer.send_event(b"b:" + b"x" * 18, "other")
        let_go.set()
        assert code_of(await peer.ack("first")) == code_of(await peer.ack("other")) == 200


async def test_burst_over_many_chats_is_waited_for_and_none_is_refused(autojump_clock: MockClock) -> None:
    async with connected(_decide_slowly, ConnectionSettings(events_in_flight_max=IN_FLIGHT_MAX)) as peer:
        for number in range(400):
            await peer.send_event(b"chat%d:%d" % (number % 40, number), str(number))
        await peer.wait_until(lambda: len(peer.acks) == 400)
        assert {code_of(frame) for _, frame in peer.acks} == {200}
