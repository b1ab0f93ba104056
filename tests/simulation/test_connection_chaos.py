"""Many short lives of one connection, each with its own seed: only what was decided is acknowledged, and in order."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from gateway.channel.channel import LinkLost
from gateway.lark.chat.connection import ConnectionSettings
from gateway.lark.wire.frame import Frame
from support.lark_peer import Client, Peer, code_of, endpoint, in_memory, play


class Life:
    """One run. Payloads are `<chat>:<number>`, and the number is the transport id too."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.outcomes: dict[str, int] = {}
        self.decided: list[str] = []
        self.peer: Peer | None = None
        self.client = Client(
            on_event=self.decide,
            order_key=lambda payload: payload.split(b":")[0].decode("latin-1"),
            endpoint=endpoint(ping_interval_seconds=5),
            settings=ConnectionSettings(events_in_flight_max=self.dice.choice([1, 4, 64]), frame_bytes_max=5000),
        )

    async def decide(self, payload: bytes) -> int:
        name = payload.decode()
        await trio.sleep(self.dice.choice([0, 0.01, 0.3, 2]))
        code = self.dice.choice([200, 200, 500, 0])
        self.decided.append(name)
        self.outcomes[name] = code or 500
        if code == 0:
            raise RuntimeError("poison")
        return code

    async def script(self, peer: Peer) -> None:
        self.peer = peer
        for number in range(60):
            await self.act(peer, number)
            await trio.sleep(self.dice.choice([0, 0, 0.01, 0.2]))
        await trio.sleep(self.dice.choice([0, 1, 30]))

    async def act(self, peer: Peer, number: int) -> None:
        payload = f"{self.dice.choice('abc')}:{number}".encode()
        match self.dice.randrange(8):
            case 0:
                await peer.send(Frame(method=self.dice.randrange(5), headers=((b"type", b"odd"),)))
            case 1:
                await peer.ws.send_message(self.dice.randbytes(self.dice.randrange(1, 6000)))
            case 2:
                await peer.ws.send_message("text")
            case 3:
                await peer.send_ping()
            case 4:
                cut = self.dice.randrange(len(payload) + 1)
                pieces = [(0, payload[:cut]), (1, payload[cut:])]
                for seq, part in self.dice.sample(pieces, 2) + self.dice.sample(pieces, self.dice.randrange(2)):
                    await peer.send_event(part, str(number), sum="2", seq=str(seq))
            case _:
                await peer.send_event(payload, str(number))

    def check(self) -> None:
        assert self.peer is not None
        codes = {name.split(":")[1]: code for name, code in self.outcomes.items()}
        for _, ack in self.peer.acks:
            if ack.header(b"type") == b"event":
                # What was not decided was refused for want of room.
                assert code_of(ack) == codes.get((ack.header(b"message_id") or b"").decode(), 500)
        for chat in "abc":
            numbers = [int(name[2:]) for name in self.decided if name.startswith(chat)]
            assert numbers == sorted(numbers)


@pytest.mark.parametrize("seed", range(40))
async def test_life_of_a_connection_keeps_its_promises(seed: int, autojump_clock: MockClock) -> None:
    life = Life(seed)
    with trio.fail_after(3600):
        async with trio.open_nursery() as platform:
            cancel_after = life.dice.choice([0.05, 1, 5, 1000])
            with trio.move_on_after(cancel_after) as scope:
                try:
                    await life.client.run(in_memory(platform, partial(play, script=life.script)))
                except LinkLost:
                    assert not scope.cancelled_caught
            if scope.cancelled_caught:
                assert trio.current_time() <= cancel_after + 1.1
            platform.cancel_scope.cancel()
    life.check()
