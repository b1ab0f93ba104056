"""The whole way in beside the whole way out, on a clock that jumps: an answer that hangs delays no acknowledgement."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.concurrency import Signal
from gateway.lark.api.client import BotIdentity
from gateway.lark.chat.cards import Rendered
from gateway.lark.chat.channel import KEY_SECONDS, LIMITS
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import run_outbox
from gateway.outbound.ports import LeaseEpoch, SendingContext
from support.inbound_memory import MemoryInbound
from support.lark_peer import code_of
from support.live_bot import KnownBot, open_live_bot, text_event
from support.outbox_memory import INSTALLATION, MemoryOutboxStore

HANG_SECONDS = 5.0
ACK_SECONDS_MAX = 0.5


class HangingClient(KnownBot):
    """Stands in for LarkClient: every message takes its time to be sent."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.sent: list[str] = []

    async def identify(self) -> BotIdentity:
        raise AssertionError("the installation knows its bot")

    async def send(self, message: Rendered, **_fields: Any) -> str:
        self.began.set()
        await trio.sleep(HANG_SECONDS)
        self.sent.append(message.words)
        return "om_answer"


@pytest.mark.parametrize("chat_id", ["oc_ann", "oc_another"])
async def test_message_is_acknowledged_in_half_a_second_while_an_answer_hangs(
    autojump_clock: MockClock, chat_id: str
) -> None:
    with trio.fail_after(3600):
        backend, client, outbox = MemoryInbound(), HangingClient(), MemoryOutboxStore()
        async with open_live_bot(backend, client) as bot:
            context = SendingContext(
                LeaseEpoch(INSTALLATION, 1),
                bot.channel,
                Governor(limits=LIMITS),
                Signal(),
                KEY_SECONDS,
                # Longer than the hang: the answer must arrive in the end, not be cut off.
                attempt_seconds=2 * HANG_SECONDS,
            )
            bot.nursery.start_soon(run_outbox, context, outbox)
            outbox.add("an answer", "oc_ann")
            await client.began.wait()
            sent_at = trio.current_time()
            for name in ("first", "second", "third"):
                await bot.peer.send_event(text_event(f"om_{name}", chat_id, f"text of om_{name}"), name)
            acks = [await bot.peer.ack(name) for name in ("first", "second", "third")]
            assert [code_of(ack) for ack in acks] == [200, 200, 200]
            assert max(at for at, _ in bot.peer.acks) - sent_at <= ACK_SECONDS_MAX
            assert [stored.content for stored in await backend.messages()] == [
                "text of om_first",
                "text of om_second",
                "text of om_third",
            ]
            assert client.sent == []  # still hanging
            await trio.sleep(HANG_SECONDS + 1)
            assert client.sent == ["an answer"]
