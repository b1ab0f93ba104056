"""A live Lark bot without sockets: its connection, the pipeline and the shared statement, on a store in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from gateway.channel.channel import ChannelConfig, LinkHealth
from gateway.lark.chat.channel import LarkChannel
from gateway.lark.chat.connection import ConnectionSettings
from gateway.lark.wire.endpoint import Endpoint
from support.inbound_backend import open_pipeline
from support.inbound_memory import MemoryInbound
from support.lark_peer import Peer, endpoint, in_memory, play


class KnownBot:
    """Stands in for LarkClient where a channel is only connected."""

    async def fetch_endpoint(self) -> Endpoint:
        await trio.lowlevel.checkpoint()
        return endpoint()


@dataclass
class LiveBot:
    """The bot `cli_a`, to which `ou_ann` is bound. `peer` is the platform's end of its connection."""

    channel: LarkChannel
    health: LinkHealth
    peer: Peer
    nursery: trio.Nursery
    """Ends with the bot."""


@asynccontextmanager
async def open_live_bot(
    backend: MemoryInbound, client: KnownBot, settings: ConnectionSettings | None = None
) -> AsyncIterator[LiveBot]:
    bot = await backend.add_bot("cli_a")
    await backend.bind(bot, "ou_ann")
    peers: list[Peer] = []
    accepted = trio.Event()

    async def script(peer: Peer) -> None:
        peers.append(peer)
        accepted.set()
        await trio.sleep_forever()

    async with open_pipeline(backend, fused=True) as pipeline, trio.open_nursery() as nursery:
        raw = {"app_id": "cli_a", "app_secret": "fake-secret", "bot_open_id": "ou_bot"}
        config = ChannelConfig("feishu", bot.installation_id, raw, pipeline.receive)
        options: dict[str, Any] = {} if settings is None else {"settings": settings}
        channel = LarkChannel(
            config,
            client,  # type: ignore[arg-type]  # nothing else is asked of it
            open_stream=in_memory(nursery, partial(play, script=script)),
            **options,
        )
        await nursery.start(channel.run)
        await accepted.wait()
        yield LiveBot(channel, config.health, peers[0], nursery)
        nursery.cancel_scope.cancel()


def text_event(message_id: str, chat_id: str, text: str) -> bytes:
    """The event of a text that `ou_ann` sends in a conversation of two."""
    body = {"message_id": message_id, "chat_id": chat_id, "chat_type": "p2p", "message_type": "text"}
    event = {
        "sender": {"sender_id": {"open_id": "ou_ann"}, "sender_type": "user"},
        "message": {**body, "content": json.dumps({"text": text})},
    }
    header = {"event_id": f"ev_{message_id}", "event_type": "im.message.receive_v1", "app_id": "cli_a"}
    return json.dumps({"schema": "2.0", "header": header, "event": event}).encode()
