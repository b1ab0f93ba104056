"""What the inbound path owes to Postgres alone: locks, cancellation, rollback, notifications, plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from secrets import token_hex
from typing import Any
from uuid import uuid4

import pytest
import trio

from gateway.channel.channel import Verdict
from gateway.channel.message import ReplyTo
from gateway.concurrency import watch_points
from gateway.core.inbound import InboundOutcome
from gateway.errors import StoreConflict, StoreError, StoreUnavailable
from gateway.inbound.ports import Conversation, InboundInstallation, PlainMessage
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.driver import TrioConnection
from gateway.postgres.inbound_store import LOCK_MILLISECONDS
from gateway.postgres.pool import Pool
from gateway.postgres.statements import DECLARED
from gateway.work.people.directory import AgentChange, Directory
from support.inbound_backend import direct, grouped, open_pipeline
from support.inbound_postgres import PostgresInbound


@pytest.fixture
def backend(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool)


@contextmanager
def _points(watcher: Any) -> Iterator[None]:
    watch_points(watcher)
    try:
        yield
    finally:
        watch_points(None)


async def _until(backend: PostgresInbound, sql: str) -> None:
    """Poll until the statement's one value is true."""
    with trio.fail_after(10):
        while not (await backend.run(sql))[0][0]:
            await trio.sleep(0.01)


ONE_WAITS_FOR_A_LOCK = (
    "select count(*) > 0 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
)
TRANSACTIONS_LEFT_OPEN = (
    "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%%'"
)


@asynccontextmanager
async def _locked(database: str, sql: str):  # type: ignore[no-untyped-def]
    """A second session that has run `sql` in a transaction it does not end until the block does."""
    async with await TrioConnection.connect(database) as conn:
        async with conn.transaction():
            await conn.execute(sql.encode())
            yield conn


async def _with_session(backend: PostgresInbound) -> None:
    bot = await backend.add_bot()
    await backend.bind(bot, "ou_ann")
    async with open_pipeline(backend.store, fused=False) as pipeline:
        await pipeline.receive(direct("om_0", "first"))


async def test_append_cancelled_while_it_waits_releases_the_claim_and_leaves_no_transaction(
    backend: PostgresInbound, database: str
) -> None:
    await _with_session(backend)
    async with open_pipeline(backend.store, fused=False) as pipeline:
        async with _locked(database, "select from chat_session for update"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipeline.receive, direct("om_1", "cut short"))
                await _until(backend, ONE_WAITS_FOR_A_LOCK)
                started = trio.current_time()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - started < 1.5
            assert (await backend.run(TRANSACTIONS_LEFT_OPEN))[0][0] == 1  # the one of this test
        assert len(await backend.claims()) == 1
        assert await pipeline.receive(direct("om_1", "again")) is Verdict.SETTLED
    assert [message.content for message in await backend.messages()] == ["first", "again"]


async def test_failure_inside_the_append_rolls_everything_back_and_releases(backend: PostgresInbound) -> None:
    await _with_session(backend)
    await backend.start_tasks()
    before = await backend.claims(), await backend.sessions(), await backend.tasks()

    def fail(point: str) -> None:
        if point == "inbound.appended":
            raise RuntimeError("a bug")

    async with open_pipeline(backend.store, fused=False) as pipeline:
        with _points(fail), pytest.raises(RuntimeError, match="a bug"):
            await pipeline.receive(direct("om_1"))
        assert (await backend.claims(), await backend.sessions(), await backend.tasks()) == before
        assert await pipeline.receive(direct("om_1", "again")) is Verdict.SETTLED
    assert [message.content for message in await backend.messages()] == ["first", "again"]


async def test_failure_after_the_append_committed_releases_nothing(backend: PostgresInbound) -> None:
    await _with_session(backend)

    def fail(point: str) -> None:
        if point == "inbound.committed":
            raise RuntimeError("a bug")

    async with open_pipeline(backend.store, fused=False) as pipeline:
        with _points(fail), pytest.raises(RuntimeError, match="a bug"):
            await pipeline.receive(direct("om_1"))
        assert await pipeline.receive(direct("om_1", "again")) is Verdict.SETTLED
    assert [message.content for message in await backend.messages()] == ["first", "hello"]


@pytest.mark.parametrize(
    ("fused", "message", "expected"),
    [
        (True, direct("om_1"), ["received", "fused.before", "fused.committed", "settled"]),
        (False, direct("om_1"), ["received", "claimed", "before_append", "appended", "committed", "settled"]),
        (False, direct("om_1", sender="ou_stranger"), ["received", "claimed", "before_mark", "settled"]),
    ],
    ids=["fused", "stepwise", "dropped"],
)
async def test_named_points_are_passed_in_order(
    backend: PostgresInbound, fused: bool, message: Any, expected: list[str]
) -> None:
    await _with_session(backend)
    seen: list[str] = []
    async with open_pipeline(backend.store, fused=fused) as pipeline:
        with _points(seen.append):
            await pipeline.receive(message)
    assert seen == [f"inbound.{point}" for point in expected]


async def test_session_made_by_a_transaction_still_open_is_waited_for_and_shared(
    backend: PostgresInbound, database: str
) -> None:
    """The loser must not take the winner's binding for an orphan: the session is not in its statement's snapshot."""
    bot = await backend.add_bot()
    installation = InboundInstallation(bot.installation_id, bot.workspace_id, bot.agent_id, None, False, False)
    conversation = Conversation(installation, "feishu", "oc_1", "oc_1", False, None, "Direct chat")
    winner = uuid4()
    found = []

    async def lose() -> None:
        found.append(await backend.store.ensure_session(conversation))

    async with trio.open_nursery() as nursery:
        async with _locked(
            database,
            f"insert into chat_session (id, workspace_id, agent_id) values"
            f" ('{winner}', '{bot.workspace_id}', '{bot.agent_id}');"
            f"insert into channel_chat_session_binding (id, workspace_id, chat_session_id, installation_id,"
            f" channel_type, channel_chat_id, chat_type) values ('{uuid4()}', '{bot.workspace_id}', '{winner}',"
            f" '{bot.installation_id}', 'feishu', 'oc_1', 'p2p')",
        ):
            nursery.start_soon(lose)
            await _until(backend, ONE_WAITS_FOR_A_LOCK)
    assert found == [winner]
    assert await backend.run("select count(*) from chat_session") == [(1,)]


async def test_conversation_locked_elsewhere_holds_up_no_other(backend: PostgresInbound, database: str) -> None:
    await _with_session(backend)
    other = await backend.add_bot("cli_b")
    await backend.bind(other, "ou_bob")
    async with open_pipeline(backend.store, fused=True) as pipeline:
        await pipeline.receive(direct("om_0", app_id="cli_b", sender="ou_bob"))
        async with trio.open_nursery() as nursery:
            async with _locked(
                database,
                "select from chat_session s join channel_chat_session_binding b on b.chat_session_id = s.id"
                " where b.channel_chat_id = 'oc_ou_ann' for update of s",
            ):
                nursery.start_soon(pipeline.receive, direct("om_1", "held up"))
                await _until(backend, ONE_WAITS_FOR_A_LOCK)
                with trio.fail_after(2):
                    assert await pipeline.receive(direct("om_1", app_id="cli_b", sender="ou_bob")) is Verdict.SETTLED
                assert "held up" not in [message.content for message in await backend.messages()]
    assert [message.content for message in await backend.messages()][-1] == "held up"


async def test_queued_run_locked_elsewhere_is_waited_for_a_moment_only(backend: PostgresInbound, database: str) -> None:
    await _with_session(backend)
    message = PlainMessage(uuid4(), "feishu", "cli_a", "om_1", "oc_ou_ann", "ou_ann", "", "x", None)
    async with _locked(database, "select from agent_task for update"):
        started = trio.current_time()
        with pytest.raises(StoreConflict):
            await backend.store.ingest([message])
        assert trio.current_time() - started >= LOCK_MILLISECONDS / 1000
        assert len(await backend.claims()) == len(await backend.messages()) == 1
        # What the statement set is over with it: a later wait on the same connection is not cut short.
        assert await backend.run("show lock_timeout") == [("0",)]
    assert list(await backend.store.ingest([message])) == [message.token]


async def test_queued_run_locked_elsewhere_holds_up_no_other_bot(backend: PostgresInbound, database: str) -> None:
    await _with_session(backend)
    other = await backend.add_bot("cli_b")
    await backend.bind(other, "ou_bob")
    async with open_pipeline(backend.store, fused=True) as pipeline:
        await pipeline.receive(direct("om_0", app_id="cli_b", sender="ou_bob"))
        async with trio.open_nursery() as nursery:
            async with _locked(
                database,
                "select from agent_task t join agent a on a.id = t.agent_id"
                " join channel_installation i on i.agent_id = a.id"
                " where i.config ->> 'app_id' = 'cli_a' for update of t",
            ):
                nursery.start_soon(pipeline.receive, direct("om_1", "held up"))
                for number in range(1, 4):
                    # Far below the statement's own limit of 30 s, and within what the platform waits for an answer.
                    with trio.fail_after(3):
                        message = direct(f"om_{number}", app_id="cli_b", sender="ou_bob")
                        assert await pipeline.receive(message) is Verdict.SETTLED
                assert "held up" not in [message.content for message in await backend.messages()]
    assert [message.content for message in await backend.messages()].count("held up") == 1


async def test_message_that_no_index_takes_fails_alone(backend: PostgresInbound) -> None:
    """It shares a statement with another bot's: to call its failure an outage would fail both, again and again."""
    await _with_session(backend)
    other = await backend.add_bot("cli_b")
    await backend.bind(other, "ou_bob")
    verdicts: list[Verdict] = []
    async with open_pipeline(backend.store, fused=True) as pipeline:
        await pipeline.receive(direct("om_0", app_id="cli_b", sender="ou_bob"))

        async def hand_in_poison() -> None:
            with pytest.raises(StoreError) as caught:
                await pipeline.receive(direct(token_hex(4000)))
            assert not isinstance(caught.value, StoreUnavailable)

        async def hand_in_another() -> None:
            verdicts.append(await pipeline.receive(direct("om_1", app_id="cli_b", sender="ou_bob")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_in_poison)
            nursery.start_soon(hand_in_another)
    assert verdicts == [Verdict.SETTLED]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stepwise"])
async def test_runtime_is_told_of_a_new_run_and_of_one_that_was_due_but_not_of_each_message(
    backend: PostgresInbound, database: str, fused: bool
) -> None:
    bot = await backend.add_bot()
    await backend.bind(bot, "ou_ann")
    runtime = (await backend.run("select runtime_id from agent"))[0][0]
    offline = await backend.add_bot("cli_b", has_runtime=False)
    await backend.bind(offline, "ou_ann")
    async with (
        await TrioConnection.connect(database) as listener,
        open_pipeline(backend.store, fused=fused) as pipeline,
    ):
        await listener.execute("listen gateway_task")
        heard = []
        for number in range(3):
            await pipeline.receive(direct(f"om_{number}"))
            await pipeline.receive(direct(f"om_{number}", app_id="cli_b"))
        heard.append(await _heard(backend, listener))
        await backend.start_tasks()
        await pipeline.receive(direct("om_3"))
        heard.append(await _heard(backend, listener))
        await backend.run("update agent_task set available_at = now() where status = 'queued'")
        await pipeline.receive(direct("om_4"))
        await pipeline.receive(direct("om_5"))
        heard.append(await _heard(backend, listener))
    assert heard == [[str(runtime)]] * 3


async def _heard(backend: PostgresInbound, listener: TrioConnection[Any]) -> list[str]:
    """What was notified so far: notifications arrive in the order of commits, so a last one of our own ends it."""
    await backend.run("select pg_notify('gateway_task', 'end')")
    heard = []
    with trio.fail_after(10):
        async with aclosing(listener.notifies()) as notices:
            async for notice in notices:
                if notice.payload == "end":
                    break
                heard.append(notice.payload)
    return heard


async def test_attaching_a_runtime_makes_the_waiting_task_its_own_and_tells_it(
    backend: PostgresInbound, pool: Pool, database: str
) -> None:
    """The queued row names no runtime: who may claim it is read from the agent at that moment."""
    bot = await backend.add_bot(has_runtime=False)
    await backend.bind(bot, "ou_ann")
    async with open_pipeline(backend.store, fused=False) as pipeline:
        await pipeline.receive(direct())
    assert pipeline.outcomes == [(InboundOutcome.AGENT_OFFLINE, None)]
    assert await backend.run("select status, runtime_id from agent_task") == [("queued", None)]
    directory = Directory(PostgresDirectoryStore(pool))
    ((agent_id, workspace_id),) = await backend.run("select id, workspace_id from agent")
    runtime, _ = await directory.add_runtime(await directory.workspace(str(workspace_id)), "machine")
    async with await TrioConnection.connect(database) as listener:
        await listener.execute("listen gateway_task")
        agent = await directory.agent(agent_id)
        await directory.set_agent(agent, AgentChange(sets_runtime=True, runtime_id=runtime.id))
        await directory.set_agent(agent, AgentChange(sets_runtime=True))
        assert await _heard(backend, listener) == [str(runtime.id)]


@pytest.mark.parametrize("fused", [True, False])
async def test_message_remembers_what_it_quotes_and_bundles(backend: PostgresInbound, fused: bool) -> None:
    await _with_session(backend)
    async with open_pipeline(backend.store, fused=fused) as pipeline:
        await pipeline.receive(direct("om_1", reply_to=ReplyTo("om_q", "om_root"), bundle=True))
    rows = await backend.run("select channel_message_id, quoted_message_id, bundle from chat_message order by seq")
    assert rows == [("om_0", None, False), ("om_1", "om_q", True)]


@pytest.mark.parametrize(
    ("reply_to", "quoted"), [(ReplyTo("om_root", "om_root"), None), (ReplyTo("om_other", "om_root"), "om_other")]
)
async def test_message_of_a_topic_does_not_quote_the_one_that_began_it(
    backend: PostgresInbound, reply_to: ReplyTo, quoted: str | None
) -> None:
    bot = await backend.add_bot()
    await backend.bind(bot, "ou_ann")
    async with open_pipeline(backend.store, fused=False) as pipeline:
        await pipeline.receive(grouped("om_1", thread="omt_1", reply_to=reply_to))
    assert await backend.run("select quoted_message_id from chat_message") == [(quoted,)]


@pytest.mark.parametrize("events", [1, 64])
async def test_shared_statement_reaches_every_row_by_an_index(backend: PostgresInbound, events: int) -> None:
    statement = next(item for item in DECLARED if item.name == "ingest_plain_messages")
    messages = [PlainMessage(uuid4(), "feishu", "cli_a", f"om_{n}", "oc", "ou", "", "x", None) for n in range(events)]
    parameters = {
        "tokens": [message.token for message in messages],
        "channel_types": [message.channel_type for message in messages],
        "app_ids": [message.app_id for message in messages],
        "message_ids": [message.message_id for message in messages],
        "session_keys": [message.session_key for message in messages],
        "sender_ids": [message.sender_id for message in messages],
        "thread_ids": [message.thread_id for message in messages],
        "contents": [message.text for message in messages],
        "sent_ats": [message.sent_at for message in messages],
        "quoted_ids": [message.quoted_id for message in messages],
        "bundles": [message.bundle for message in messages],
        "window_seconds": 3.0,
        "silent_seconds": 150.0,
        "lock_milliseconds": 300,
    }
    async with backend.pool.transaction() as conn:
        # Small tables are read whole whatever the indexes; what is asked here is that there is an index to use.
        for method in ("seqscan", "hashjoin", "mergejoin"):
            await conn.execute(f"set local enable_{method} = off".encode())
        cursor = await conn.execute(f"explain (costs off) {statement.sql}".encode(), parameters)
        plan = [row[0].strip() for row in await cursor.fetchall()]
    assert not [line for line in plan if "Seq Scan" in line]
    probes = [position for position, line in enumerate(plan) if "Index" in line and " using " in line]
    assert len(probes) >= 8
    assert all(plan[position + 1].startswith("Index Cond") for position in probes)
