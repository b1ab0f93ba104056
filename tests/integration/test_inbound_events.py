"""What live listeners are told of messages that come in: each once, with its commit, and by ids alone."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from gateway.inbound.ports import MessageClaim, UserMessage
from gateway.postgres.pool import Pool
from support.inbound_backend import Bot, direct, open_pipeline
from support.inbound_postgres import PostgresInbound
from support.tenant import hearing_events

both_paths = pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])


@pytest.fixture
async def backend(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool)


async def _staffed(backend: PostgresInbound) -> Bot:
    """A bot whose conversation with ann exists, so that the shared statement takes her messages."""
    bot = await backend.add_bot()
    await backend.bind(bot, "ou_ann")
    async with open_pipeline(backend.store, fused=False, issues=backend.issues) as pipeline:
        await pipeline.receive(direct("om_0", "first"))
    await backend.run("delete from agent_task")
    return bot


def _named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


@both_paths
async def test_message_and_its_run_are_announced_by_their_ids(
    backend: PostgresInbound, database: str, fused: bool
) -> None:
    bot = await _staffed(backend)
    async with hearing_events(database) as events, open_pipeline(backend.store, fused=fused) as pipeline:
        await pipeline.receive(direct("om_1", "hello"))
    ((message_id, session_id),) = await backend.run(
        "select id, chat_session_id from chat_message where channel_message_id = 'om_1'"
    )
    ((task_id, agent_id),) = await backend.run("select id, agent_id from agent_task")
    place = {"workspace_id": str(bot.workspace_id), "chat_session_id": str(session_id)}
    assert events == [
        {"event": "chat:message", **place, "message_id": str(message_id)},
        {
            "event": "task:queued", **place, "task_id": str(task_id), "agent_id": str(agent_id), "issue_id": None,
            "status": "queued",
        },
    ]  # fmt: skip


@both_paths
async def test_messages_that_join_a_waiting_run_do_not_announce_it_again(
    backend: PostgresInbound, database: str, fused: bool
) -> None:
    await _staffed(backend)
    async with hearing_events(database) as events, open_pipeline(backend.store, fused=fused) as pipeline:
        for number in (1, 2, 3):
            await pipeline.receive(direct(f"om_{number}", "hello"))
    assert len(_named(events, "task:queued")) == 1
    # The shared statement announces a conversation once per window: whoever listens reads it anew when the run starts.
    assert len(_named(events, "chat:message")) == (1 if fused else 3)


async def test_messages_that_join_a_run_which_nobody_starts_are_announced(pool: Pool, database: str) -> None:
    backend = PostgresInbound(pool, window_seconds=0)
    await _staffed(backend)
    async with hearing_events(database) as events, open_pipeline(backend.store, fused=True) as pipeline:
        for number in (1, 2, 3):
            await pipeline.receive(direct(f"om_{number}", "hello"))
    stored = await backend.run("select id from chat_message where channel_message_id <> 'om_0' order by seq")
    assert [event["message_id"] for event in _named(events, "chat:message")] == [str(row[0]) for row in stored]
    assert len(_named(events, "task:queued")) == 1


@both_paths
async def test_delivered_again_dropped_and_unbound_messages_are_not_announced(
    backend: PostgresInbound, database: str, fused: bool
) -> None:
    await _staffed(backend)
    async with hearing_events(database) as events, open_pipeline(backend.store, fused=fused) as pipeline:
        await pipeline.receive(direct("om_0", "first"))
        await pipeline.receive(direct("om_1", "hello", sender="ou_stranger"))
    assert events == []


async def test_command_is_announced_as_a_message_and_its_issue_with_its_run(
    backend: PostgresInbound, database: str
) -> None:
    await _staffed(backend)
    async with (
        hearing_events(database) as events,
        open_pipeline(backend.store, fused=True, issues=backend.issues) as pipeline,
    ):
        await pipeline.receive(direct("om_1", "/issue Fix the login"))
    assert [event["event"] for event in events] == ["chat:message", "issue:created", "task:queued"]
    filed, run = events[1:]
    assert run["issue_id"] == filed["issue_id"]
    assert run["chat_session_id"] is None


async def test_message_that_is_rolled_back_is_not_announced(backend: PostgresInbound, database: str) -> None:
    bot = await _staffed(backend)
    user = await backend.bind(bot, "ou_bob")
    ((session_id,),) = await backend.run("select id from chat_session")
    async with hearing_events(database) as events:
        lost = MessageClaim(bot.installation_id, "om_9", uuid4())
        entry = UserMessage(lost.token, session_id, user, "x", lost.message_id, "", None)
        assert await backend.store.append(entry, lost, {}) is None
    assert events == []
