"""The whole way in beside the whole way out, on a clock that jumps: an answer that hangs delays no acknowledgement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.channel.channel import ChannelConfig
from gateway.concurrency import Signal
from gateway.lark.api.client import BotIdentity
from gateway.lark.chat.cards import Rendered
from gateway.lark.chat.channel import KEY_SECONDS, LIMITS, LarkChannel
from gateway.lark.wire.endpoint import Endpoint
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import run_outbox
from support.inbound_memory import MemoryInbound
from support.inbound_world import open_desk
from support.lark_peer import Peer, code_of, endpoint, in_memory, play
from support.outbox_memory import INSTALLATION, MemoryOutboxStore

HANG_SECONDS = 5.0
ACK_SECONDS_MAX = 0.5


@dataclass
class HangingClient:
    """Stands in for LarkClient: every message takes its time to be sent."""

    began: trio.Event = field(default_factory=trio.Event)
    sent: list[str] = field(default_factory=list)

    async def fetch_endpoint(self) -> Endpoint:
        await trio.lowlevel.checkpoint()
        return endpoint()

    async def identify(self) -> BotIdentity:
        raise AssertionError("the installation knows its bot")

    async def send(self, message: Rendered, **_fields: Any) -> str:
        self.began.set()
        await trio.sleep(HANG_SECONDS)
        self.sent.append(message.words)
        return "om_answer"


@dataclass
class Scene:
    world: MemoryInbound
    client: HangingClient
    outbox: MemoryOutboxStore
    peer: Peer


@asynccontextmanager
async def conversing() -> AsyncIterator[Scene]:
    """A live bot: connection, pipeline and shared statement, outbox; store and platform are in memory."""
    world, client, outbox = MemoryInbound(), HangingClient(), MemoryOutboxStore()
    bot = await world.add_bot("cli_a")
    await world.bind(bot, "ou_ann")
    peers: list[Peer] = []
    accepted = trio.Event()

    async def script(peer: Peer) -> None:
        peers.append(peer)
        accepted.set()
        await trio.sleep_forever()

    async with open_desk(world, fused=True) as desk, trio.open_nursery() as nursery:
        raw = {"app_id": "cli_a", "app_secret": "fake-secret", "bot_open_id": "ou_bot"}
        config = ChannelConfig("feishu", bot.installation_id, raw, desk.receive)
        channel = LarkChannel(
            config,
            client,  # type: ignore[arg-type]
            open_stream=in_memory(nursery, partial(play, script=script)),
        )
        await nursery.start(channel.run)
        await accepted.wait()
        speak = partial(
            run_outbox,
            installation_id=INSTALLATION,
            lease_epoch=1,
            channel=channel,
            store=outbox,
            governor=Governor(limits=LIMITS),
            key_seconds=KEY_SECONDS,
        )
        # Longer than the hang: the answer must arrive in the end, not be cut off.
        nursery.start_soon(partial(speak, wake=Signal(), attempt_seconds=2 * HANG_SECONDS))
        yield Scene(world, client, outbox, peers[0])
        nursery.cancel_scope.cancel()


def message(message_id: str, chat_id: str = "oc_ann") -> bytes:
    body = {"message_id": message_id, "chat_id": chat_id, "chat_type": "p2p", "message_type": "text"}
    event = {
        "sender": {"sender_id": {"open_id": "ou_ann"}, "sender_type": "user"},
        "message": {**body, "content": json.dumps({"text": f"text of {message_id}"})},
    }
    header = {"event_id": f"ev_{message_id}", "event_type": "im.message.receive_v1", "app_id": "cli_a"}
    return json.dumps({"schema": "2.0", "header": header, "event": event}).encode()


@pytest.mark.parametrize("chat_id", ["oc_ann", "oc_another"])
async def test_message_is_acknowledged_in_half_a_second_while_an_answer_hangs(
    autojump_clock: MockClock, chat_id: str
) -> None:
    with trio.fail_after(3600):
        async with conversing() as scene:
            scene.outbox.add("an answer", "oc_ann")
            await scene.client.began.wait()
            sent_at = trio.current_time()
            for name in ("first", "second", "third"):
                await scene.peer.send_event(message(f"om_{name}", chat_id), name)
            acks = [await scene.peer.ack(name) for name in ("first", "second", "third")]
            assert [code_of(ack) for ack in acks] == [200, 200, 200]
            assert max(at for at, _ in scene.peer.acks) - sent_at <= ACK_SECONDS_MAX
            assert [stored.content for stored in await scene.world.messages()] == [
                "text of om_first",
                "text of om_second",
                "text of om_third",
            ]
            assert scene.client.sent == []  # still hanging
            await trio.sleep(HANG_SECONDS + 1)
            assert scene.client.sent == ["an answer"]
