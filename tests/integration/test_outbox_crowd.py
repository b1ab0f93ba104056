"""Fifty chats at once over real sockets and a real database, against the simulated platform with its limits on."""

from __future__ import annotations

import ssl
import time
from functools import partial
from uuid import UUID

import trio

from gateway.channel.channel import ChannelConfig, Verdict
from gateway.channel.message import InboundMessage
from gateway.concurrency import Signal
from gateway.lark.api.client import open_http_client
from gateway.lark.api.clients import LarkClients
from gateway.lark.chat.channel import KEY_SECONDS, LIMITS, lark_factory
from gateway.lark.chat.connection import open_tcp_link
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import run_outbox
from gateway.outbound.ports import LeaseEpoch, SendingContext
from gateway.postgres.outbox_store import PostgresOutboxStore
from gateway.postgres.pool import Pool
from gateway.simulator import open_simulator
from support.tenant import Tenant, open_tenant

CHATS = 50
SHORT, BACKLOG = 3, 25
APP_CALLS_PER_SECOND, CHAT_CALLS_PER_SECOND = 50, 5
LATE_SECONDS = 5
"""What a loaded machine may add."""


async def _settled(_message: InboundMessage) -> Verdict:
    return Verdict.SETTLED


async def write(tenant: Tenant, chat_ids: list[str]) -> None:
    """The backlog of the first chat stands before everything else."""
    counts = [(chat_id, SHORT if place else BACKLOG) for place, chat_id in enumerate(chat_ids)]
    await tenant.sql(
        "insert into outbound_message (id, workspace_id, installation_id, kind, recipient_id, content, uuid)"
        " select gen_random_uuid(), %(workspace)s, %(installation)s, 'notice', chat, 'message ' || number,"
        " gen_random_uuid()::text"
        " from unnest(%(chats)s::text[], %(counts)s::int[]) with ordinality as wanted (chat, count, place),"
        " generate_series(1, wanted.count) as number order by place, number",
        workspace=tenant.workspace_id,
        installation=tenant.installation_id,
        chats=[chat_id for chat_id, _ in counts],
        counts=[count for _, count in counts],
    )


async def test_fifty_chats_at_once_are_served_below_every_limit_and_none_waits_for_a_backlog(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    async with open_simulator() as simulator, open_http_client() as http, trio.open_nursery() as nursery:
        app = simulator.create_app("Echo")
        people = [simulator.create_person(f"Person {number}") for number in range(CHATS)]
        chats = [simulator.direct_chat(person, app).chat_id for person in people]
        raw = {"app_id": app.app_id, "app_secret": app.secret, "bot_open_id": app.open_id}
        dial = partial(open_tcp_link, ssl_context=ssl.create_default_context())
        build = lark_factory(LarkClients(http, open_base_override=simulator.base_url), open_stream=dial)
        await write(tenant, chats)
        began = time.time()
        nursery.start_soon(
            partial(
                run_outbox,
                SendingContext(
                    LeaseEpoch(tenant.installation_id, 1),
                    build(ChannelConfig("feishu", UUID(int=1), raw, _settled)),
                    Governor(limits=LIMITS),
                    Signal(),
                    KEY_SECONDS,
                ),
                PostgresOutboxStore(pool),
            )
        )
        messages = BACKLOG + SHORT * (CHATS - 1)
        with trio.fail_after(messages / APP_CALLS_PER_SECOND + BACKLOG / CHAT_CALLS_PER_SECOND + 4 * LATE_SECONDS):
            while len(await tenant.sql("select id from outbound_message where status = 'sent'")) < messages:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert [call.code for call in simulator.calls if call.code] == []
    last = {chat: simulator.sent(chat)[-1].create_time / 1000 - began for chat in chats}
    assert [len(simulator.sent(chat)) for chat in chats] == [BACKLOG, *[SHORT] * (CHATS - 1)]
    # Everybody's share of the app's limit, and not the seconds that the backlog of the first chat needs besides.
    assert max(last[chat] for chat in chats[1:]) < messages / APP_CALLS_PER_SECOND + LATE_SECONDS
    assert last[chats[0]] > (BACKLOG - CHAT_CALLS_PER_SECOND) / CHAT_CALLS_PER_SECOND
