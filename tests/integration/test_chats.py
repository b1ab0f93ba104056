"""Deleting a conversation on a real Postgres: all that hangs on it goes, nothing else does, and nobody is stuck."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.errors import NotFound, StoreConflict
from gateway.postgres.chat_store import PostgresChatStore
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.work.tasks.chats import ChatService
from support.inbound_backend import Bot, ObservedPipeline, direct, open_pipeline
from support.inbound_postgres import PostgresInbound
from support.recording import Recording
from support.tenant import Session, Tenant, hearing_events, open_tenant

ORPHANS = """
select
  (select count(*) from chat_message m where not exists (select from chat_session s where s.id = m.chat_session_id))
+ (select count(*) from agent_task t where kind = 'chat'
     and not exists (select from chat_session s where s.id = t.chat_session_id))
+ (select count(*) from channel_chat_session_binding b
     where not exists (select from chat_session s where s.id = b.chat_session_id))
+ (select count(*) from channel_pending_command c
     where not exists (select from chat_session s where s.id = c.chat_session_id))
+ (select count(*) from channel_outbound_card_message c
     where not exists (select from chat_session s where s.id = c.chat_session_id))
+ (select count(*) from outbound_message o where o.chat_session_id is not null
     and not exists (select from chat_session s where s.id = o.chat_session_id)) as orphans
"""
HANGING = ("chat_session", "chat_message", "agent_task", "channel_chat_session_binding", "channel_pending_command")


async def _counts(tenant: Tenant) -> dict[str, int]:
    return {table: (await tenant.sql(f"select count(*) as n from {table}"))[0]["n"] for table in HANGING}


async def _full_session(tenant: Tenant) -> Session:
    """A conversation that has been answered, is being worked on again, and has a command that waits for a word."""
    session = await tenant.add_session()
    first = await tenant.running(session, "first")
    await tenant.service.complete(tenant.runtime, first.claim.identity, "answer")
    await tenant.running(session, "second")
    await tenant.say(session, "third")
    await tenant.sql(
        "insert into channel_pending_command (chat_session_id, user_id, workspace_id, installation_id,"
        " chat_message_id, words) values (%(s)s, %(u)s, %(w)s, %(i)s, gen_random_uuid(), '/issue x')",
        s=session.id,
        u=tenant.user_id,
        w=tenant.workspace_id,
        i=tenant.installation_id,
    )
    await tenant.sql(
        "insert into channel_outbound_card_message (id, chat_session_id, channel_type, channel_chat_id,"
        " channel_card_message_id, status) values (gen_random_uuid(), %(s)s, 'feishu', 'oc', 'om', 'final')",
        s=session.id,
    )
    return session


async def test_delete_takes_all_that_hangs_on_the_conversation_and_nothing_of_another(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    kept = await _full_session(tenant)
    before = await _counts(tenant)
    session = await _full_session(tenant)
    await PostgresChatStore(pool).delete(tenant.workspace_id, session.id)
    assert await _counts(tenant) == before
    assert (await tenant.sql(ORPHANS))[0]["orphans"] == 0
    assert {row["chat_session_id"] for row in await tenant.outbox()} == {kept.id}
    assert await tenant.sql("select chat_session_id as id from channel_outbound_card_message") == [{"id": kept.id}]


async def test_delete_with_a_foreign_workspace_changes_nothing(pool: Pool) -> None:
    tenant, other = await open_tenant(pool), await open_tenant(pool)
    session = await _full_session(tenant)
    before = await _counts(tenant), await tenant.outbox()
    assert await PostgresChatStore(pool).delete(other.workspace_id, session.id) is None
    assert (await _counts(tenant), await tenant.outbox()) == before


@pytest.mark.parametrize(
    "statement",
    [
        "delete_chat_tasks",
        "delete_chat_outbound",
        "detach_chat_outbound",
        "delete_chat_cards",
        "delete_held_commands",
        "delete_chat_binding",
        "delete_chat_session",
    ],
)
async def test_each_statement_with_a_foreign_workspace_changes_nothing_and_with_its_own_something(
    pool: Pool, statement: str
) -> None:
    from gateway.postgres import chat_store

    tenant, other = await open_tenant(pool), await open_tenant(pool)
    session = await _full_session(tenant)
    run = getattr(chat_store, f"_{statement.upper()}")
    async with pool.connection() as conn:
        more = {"statuses": ["completed", "running", "queued"]} if statement == "delete_chat_tasks" else {}
        assert not await run(conn, workspace_id=other.workspace_id, chat_id=session.id, **more)
        assert await run(conn, workspace_id=tenant.workspace_id, chat_id=session.id, **more)


async def test_delete_cancels_live_runs_tells_listeners_and_the_runtimes_stop_list(pool: Pool, database: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    running = await tenant.running(session)
    queued = await tenant.say(session, "more")
    recorder = Recording()
    chats = ChatService(PostgresChatStore(pool), recorder=recorder)
    async with hearing_events(database) as events:
        await tenant.sql("insert into member values (%(w)s, %(u)s, 'owner')", w=tenant.workspace_id, u=tenant.user_id)
        await chats.delete(session.id, tenant.user_id)
    assert {(event["event"], event["task_id"]) for event in events} == {
        ("task:cancelled", str(running.claim.id)),
        ("task:cancelled", str(queued)),
    }
    assert recorder.seen("agent_task_terminal") == [("chat", "cancelled")] * 2
    attempt = running.claim.identity
    assert await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, [attempt]) == [attempt]
    with pytest.raises(NotFound):
        await tenant.service.complete(tenant.runtime, attempt, "too late")
    assert await tenant.outbox() == []


async def test_delete_leaves_a_reply_on_its_way_to_its_sender(pool: Pool) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "answer")
    await tenant.sql("update outbound_message set status = 'sending'")
    await PostgresChatStore(pool).delete(tenant.workspace_id, session.id)
    (row,) = await tenant.outbox()
    assert (row["status"], row["content"], row["chat_session_id"], row["task_id"]) == ("sending", "answer", None, None)


async def test_delete_waits_for_a_run_that_is_just_ending_and_takes_its_answer_along(pool: Pool, database: str) -> None:
    tenant = await open_tenant(pool)
    session = await tenant.add_session()
    assignment = await tenant.running(session)
    async with trio.open_nursery() as nursery:
        async with tenant.store.change(assignment.claim.id) as change:
            assert change is not None
            nursery.start_soon(PostgresChatStore(pool).delete, tenant.workspace_id, session.id)
            await _one_waits_for_a_lock(database)
            await change.append_answer("at the last moment")
            await change.send_reply("answer", "at the last moment")
    assert set((await _counts(tenant)).values()) == {0}
    assert await tenant.outbox() == []


async def _one_waits_for_a_lock(database: str) -> None:
    statement = b"select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' limit 1"
    async with await TrioConnection.connect(database, autocommit=True) as conn:
        with trio.fail_after(10):
            while await (await conn.execute(statement)).fetchone() is None:
                await trio.sleep(0.01)


async def test_deleted_conversation_begins_anew_with_its_next_message(pool: Pool) -> None:
    inbound = PostgresInbound(pool)
    bot = await inbound.add_bot()
    await inbound.bind(bot, "ou_ann")
    async with open_pipeline(inbound.store, fused=True) as pipeline:
        await pipeline.receive(direct("om_1", "before"))
        (session,) = await inbound.sessions()
        await PostgresChatStore(pool).delete(bot.workspace_id, session.id)
        # What was taken in is not taken in again.
        assert await pipeline.receive(direct("om_1", "before")) is Verdict.SETTLED
        assert await inbound.sessions() == []
        await pipeline.receive(direct("om_2", "after"))
    (anew,) = await inbound.sessions()
    assert anew.id != session.id
    assert [message.content for message in await inbound.messages()] == ["after"]


async def test_delete_under_a_load_of_messages_and_runs_leaves_no_orphans_and_loses_no_later_message(
    pool: Pool, database: str
) -> None:
    inbound = PostgresInbound(pool, window_seconds=0)
    bot = await inbound.add_bot()
    await inbound.bind(bot, "ou_ann")
    tenant = Tenant(pool, bot.workspace_id, agent_id=bot.agent_id)
    await tenant.add_runtime(tenant.runtime_id, "runtime")
    await tenant.sql("update agent set runtime_id = %(r)s", r=tenant.runtime_id)
    deletions: list[UUID] = []
    async with open_pipeline(inbound.store, fused=True) as pipeline, trio.open_nursery() as load:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for sender in range(4):
                    nursery.start_soon(_send_all, pipeline, range(sender, 120, 4))
                load.start_soon(_work, tenant)
                load.start_soon(_work, tenant)
                load.start_soon(_delete_all, inbound, bot, deletions)
        load.cancel_scope.cancel()
    assert deletions
    async with open_pipeline(inbound.store, fused=True) as pipeline:
        await _send(pipeline, direct("om_last", "the last one"))
    assert (await tenant.sql(ORPHANS))[0]["orphans"] == 0
    assert [message.content for message in await inbound.messages()][-1] == "the last one"
    claims = await inbound.claims()
    assert len(claims) == 121
    assert all(claim.processed_at is not None for claim in claims.values())


async def _send_all(pipeline: ObservedPipeline, numbers: range) -> None:
    for number in numbers:
        await _send(pipeline, direct(f"om_{number}", f"message {number}"))


async def _send(pipeline: ObservedPipeline, message: Any) -> None:
    """As the platform does: again, until it is settled."""
    while True:
        try:
            if await pipeline.receive(message) is Verdict.SETTLED:
                return
        except StoreConflict:
            await trio.sleep(0.01)


async def _work(tenant: Tenant) -> None:
    while True:
        assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
        if assignment is None:
            await trio.sleep(0.005)
            continue
        try:
            await tenant.service.start(tenant.runtime, assignment.claim.identity)
            await tenant.service.complete(tenant.runtime, assignment.claim.identity, "answer")
        except NotFound:
            pass


async def _delete_all(inbound: PostgresInbound, bot: Bot, deleted: list[UUID]) -> None:
    store = PostgresChatStore(inbound.pool)
    admin = uuid4()
    await inbound.run("insert into app_user (id, email) values (%s, 'admin@example.test')", admin)
    await inbound.run("insert into member values (%s, %s, 'admin')", bot.workspace_id, admin)
    service = ChatService(store)
    while True:
        for session in await inbound.sessions():
            await service.delete(session.id, admin)
            deleted.append(session.id)
        await trio.sleep(0.02)
