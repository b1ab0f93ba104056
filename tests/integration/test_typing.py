"""Signs that runs last, on a real Postgres: who wants one, what ends it, and what waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import trio

from gateway.concurrency import watch_points
from gateway.outbound.ports import LeaseEpoch, TypingRow
from gateway.postgres.driver import TrioConnection
from gateway.postgres.listen import run_listener
from gateway.postgres.outbox_store import PostgresOutboxStore
from gateway.postgres.pool import Pool
from gateway.postgres.typing_store import PostgresTypingStore
from gateway.work.tasks.ports import End as EndOfRun
from gateway.work.tasks.ports import TaskStatus
from support.outbox_memory import sending
from support.purging import purge
from support.tenant import Session, Tenant, open_tenant
from support.toy.platform import ToyPlatform


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
def store(pool: Pool) -> PostgresTypingStore:
    return PostgresTypingStore(pool)


@pytest.fixture
def outbox(pool: Pool) -> PostgresOutboxStore:
    return PostgresOutboxStore(pool)


def lease_of(tenant: Tenant, epoch: int = 1) -> LeaseEpoch:
    return LeaseEpoch(tenant.installation_id, epoch)


async def hear(tenant: Tenant, session: Session, message_id: str | None = "om_1", *, age_seconds: float = 1) -> None:
    """A message comes in from the platform, or with `message_id` None from elsewhere."""
    await tenant.say(session, "hello")
    await tenant.sql(
        "update chat_message set channel_message_id = %(message)s, sent_at = now() - make_interval(secs => %(age)s)"
        " where seq = (select max(seq) from chat_message)",
        message=message_id,
        age=age_seconds,
    )


async def claim(tenant: Tenant) -> UUID:
    assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
    assert assignment is not None
    return assignment.claim.id


async def signs(tenant: Tenant) -> list[tuple[str, str]]:
    rows = await tenant.sql("select channel_message_id, status from channel_typing order by created_at, id")
    return [(row["channel_message_id"], row["status"]) for row in rows]


async def show(tenant: Tenant, store: PostgresTypingStore) -> TypingRow:
    (row,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    assert not await store.mark_shown(lease_of(tenant), row.id, "sign of om_1")
    return row


async def shown_run(tenant: Tenant, store: PostgresTypingStore) -> UUID:
    """A run that has started, with its sign on the message."""
    await hear(tenant, await tenant.add_session())
    task_id = await claim(tenant)
    await tenant.service.start(tenant.runtime, await tenant.attempt(task_id))
    await show(tenant, store)
    return task_id


# Who wants a sign


async def test_claim_wants_a_sign_on_the_newest_message(tenant: Tenant) -> None:
    session = await tenant.add_session()
    await hear(tenant, session, "om_1")
    await hear(tenant, session, "om_2")
    await claim(tenant)
    assert await signs(tenant) == [("om_2", "wanted")]


@pytest.mark.parametrize(("age_seconds", "wanted"), [(-30, True), (0, True), (119, True), (121, False), (7200, False)])
async def test_claim_wants_none_on_an_old_message(tenant: Tenant, age_seconds: float, wanted: bool) -> None:
    await hear(tenant, await tenant.add_session(), age_seconds=age_seconds)
    await claim(tenant)
    assert bool(await signs(tenant)) == wanted


async def test_message_of_a_clock_that_is_ahead_is_no_younger_than_now(
    tenant: Tenant, store: PostgresTypingStore
) -> None:
    await hear(tenant, await tenant.add_session(), age_seconds=-3600)
    await claim(tenant)
    rows = await tenant.sql("select show_before <= now() + interval '2 minutes' as soon from channel_typing")
    assert rows == [{"soon": True}]


async def test_claim_wants_none_for_what_was_not_said_on_the_platform(tenant: Tenant) -> None:
    session = await tenant.add_session()
    await hear(tenant, session, "om_1")
    await hear(tenant, session, None)
    await claim(tenant)
    assert await signs(tenant) == []


async def test_claim_wants_none_without_a_bot_to_show_it(tenant: Tenant) -> None:
    await hear(tenant, await tenant.add_session(bound=False))
    await claim(tenant)
    await tenant.sql("update channel_installation set status = 'revoked'")
    await hear(tenant, await tenant.add_session(), "om_2")
    await claim(tenant)
    assert await signs(tenant) == []


async def test_claim_that_is_rolled_back_wants_nothing(tenant: Tenant) -> None:
    await hear(tenant, await tenant.add_session())

    def fail(point: str) -> None:
        if point == "task.claimed":
            raise RuntimeError

    watch_points(fail)
    try:
        with pytest.raises(RuntimeError):
            await claim(tenant)
    finally:
        watch_points(None)
    assert await signs(tenant) == []


# What ends it


async def complete(tenant: Tenant, task_id: UUID) -> None:
    await tenant.service.complete(tenant.runtime, await tenant.attempt(task_id), "done")


async def complete_silently(tenant: Tenant, task_id: UUID) -> None:
    await tenant.service.complete(tenant.runtime, await tenant.attempt(task_id), "")


async def fail_for_good(tenant: Tenant, task_id: UUID) -> None:
    await tenant.sql("update agent_task set attempt = max_attempts where id = %(id)s", id=task_id)
    await tenant.service.fail(tenant.runtime, await tenant.attempt(task_id), "broken")


async def fail_for_now(tenant: Tenant, task_id: UUID) -> None:
    await tenant.service.fail(tenant.runtime, await tenant.attempt(task_id), "away", "runtime_offline")
    assert (await tenant.task(task_id))["status"] == "queued"


async def lose(tenant: Tenant, _task_id: UUID) -> None:
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1


async def cancel(tenant: Tenant, task_id: UUID) -> None:
    async with tenant.store.change(task_id) as change:
        assert change is not None
        await change.finish(TaskStatus.CANCELLED, EndOfRun())


async def delete_conversation(tenant: Tenant, _task_id: UUID) -> None:
    await tenant.sql("delete from channel_chat_session_binding")
    await tenant.sql("delete from chat_session")


async def delete_agent(tenant: Tenant, _task_id: UUID) -> None:
    await tenant.sql("delete from agent")


End = Callable[[Tenant, UUID], Awaitable[None]]
ENDS: list[End] = [
    complete,
    complete_silently,
    fail_for_good,
    fail_for_now,
    lose,
    cancel,
    delete_conversation,
    delete_agent,
]


@pytest.mark.parametrize("end", ENDS)
async def test_end_of_a_run_in_whatever_way_makes_its_sign_unwanted(
    tenant: Tenant, store: PostgresTypingStore, end: End
) -> None:
    task_id = await shown_run(tenant, store)
    assert await signs(tenant) == [("om_1", "shown")]
    await end(tenant, task_id)
    (row,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    assert (row.channel_message_id, row.reaction_id, row.unwanted, row.attempts) == ("om_1", "sign of om_1", True, 1)
    assert await store.mark_gone(lease_of(tenant), row.id)
    assert await signs(tenant) == [("om_1", "gone")]


@pytest.mark.parametrize("end", ENDS)
async def test_sign_that_was_never_begun_ends_with_its_run(
    tenant: Tenant, store: PostgresTypingStore, end: End
) -> None:
    await hear(tenant, await tenant.add_session())
    task_id = await claim(tenant)
    await tenant.service.start(tenant.runtime, await tenant.attempt(task_id))
    await end(tenant, task_id)
    assert await signs(tenant) == [("om_1", "gone")]
    assert await store.take_due(lease_of(tenant), busy=(), rows_max=8) == []


async def test_sign_outlives_the_start_and_the_progress_of_its_run(tenant: Tenant, store: PostgresTypingStore) -> None:
    task_id = await shown_run(tenant, store)
    await tenant.service.progress(tenant.runtime, await tenant.attempt(task_id), "half")
    assert await signs(tenant) == [("om_1", "shown")]


async def test_second_attempt_shows_it_once_more(tenant: Tenant, store: PostgresTypingStore) -> None:
    task_id = await shown_run(tenant, store)
    await fail_for_now(tenant, task_id)
    await tenant.sql("update agent_task set available_at = now()")
    (row,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    await store.mark_gone(lease_of(tenant), row.id)
    assert await claim(tenant) == task_id
    assert await signs(tenant) == [("om_1", "wanted")]
    (again,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    assert (again.reaction_id, again.unwanted, again.attempts) == (None, False, 1)


async def test_second_attempt_leaves_alone_what_is_still_being_taken_away(
    tenant: Tenant, store: PostgresTypingStore
) -> None:
    task_id = await shown_run(tenant, store)
    await fail_for_now(tenant, task_id)
    await tenant.sql("update agent_task set available_at = now()")
    await claim(tenant)
    assert await signs(tenant) == [("om_1", "unwanted")]


# What the store promises


async def test_sign_that_comes_after_the_end_is_named_and_stays_unwanted(
    tenant: Tenant, store: PostgresTypingStore
) -> None:
    await hear(tenant, await tenant.add_session())
    task_id = await claim(tenant)
    (row,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    await cancel(tenant, task_id)
    assert not await store.postpone(lease_of(tenant), row, 30)
    assert await store.mark_shown(lease_of(tenant), row.id, "re_1")
    (left,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    assert (left.reaction_id, left.unwanted) == ("re_1", True)


async def test_take_due_is_bounded_passes_over_the_busy_and_begins_with_the_unwanted(
    tenant: Tenant, store: PostgresTypingStore
) -> None:
    await tenant.sql("update agent set max_concurrent_tasks = 99")
    tasks = []
    for number in range(4):
        await hear(tenant, await tenant.add_session(), f"om_{number}")
        tasks.append(await claim(tenant))
    (first,) = await store.take_due(lease_of(tenant), busy=(), rows_max=1)
    assert first.channel_message_id == "om_0"
    rest = await store.take_due(lease_of(tenant), busy={first.id}, rows_max=2)
    assert {row.channel_message_id for row in rest} == {"om_1", "om_2"}
    assert all([await store.postpone(lease_of(tenant), row, 60) for row in rest])
    await cancel(tenant, tasks[2])
    (unwanted,) = await store.take_due(lease_of(tenant), busy={first.id}, rows_max=1)
    assert (unwanted.channel_message_id, unwanted.unwanted) == ("om_2", True)


async def test_new_holder_takes_over_at_once_and_the_former_one_changes_nothing(
    tenant: Tenant, store: PostgresTypingStore
) -> None:
    await hear(tenant, await tenant.add_session())
    task_id = await claim(tenant)
    former, holder = lease_of(tenant, 1), lease_of(tenant, 2)
    (row,) = await store.take_due(former, busy=(), rows_max=8)
    assert await store.postpone(former, row, 3600)
    await tenant.sql("update channel_installation set lease_epoch = 2")
    assert await store.take_due(former, busy=(), rows_max=8) == []
    (taken,) = await store.take_due(holder, busy=(), rows_max=8)
    assert (taken.id, taken.attempts) == (row.id, 2)
    assert not await store.mark_shown(former, row.id, "re_old")
    assert not await store.postpone(former, row, 1)
    assert not await store.mark_failed(former, row.id)
    assert not await store.mark_shown(holder, row.id, "re_1")
    await cancel(tenant, task_id)
    assert not await store.mark_gone(former, row.id)
    assert await store.mark_gone(holder, row.id)


async def test_sign_is_not_begun_once_its_message_is_old(tenant: Tenant, store: PostgresTypingStore) -> None:
    await hear(tenant, await tenant.add_session())
    await claim(tenant)
    await tenant.sql("update channel_typing set show_before = now()")
    assert await store.take_due(lease_of(tenant), busy=(), rows_max=8) == []


async def test_signs_are_forgotten_after_a_day_whatever_became_of_them(
    tenant: Tenant, store: PostgresTypingStore
) -> None:
    await shown_run(tenant, store)
    assert await purge(tenant.pool, "typing") == 0
    await tenant.sql("update channel_typing set created_at = now() - interval '25 hours'")
    assert await purge(tenant.pool, "typing") == 1


# What waits for it


async def take_answer(tenant: Tenant, outbox: PostgresOutboxStore) -> list[str]:
    return [row.content for row in await outbox.take_due(lease_of(tenant), busy=(), rows_max=8)]


async def test_answer_waits_until_the_sign_is_gone(
    tenant: Tenant, store: PostgresTypingStore, outbox: PostgresOutboxStore
) -> None:
    await complete(tenant, await shown_run(tenant, store))
    assert await take_answer(tenant, outbox) == []
    pause = await outbox.seconds_to_next(lease_of(tenant), busy=())
    assert pause is not None
    assert 0 < pause <= 1
    (row,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    assert await take_answer(tenant, outbox) == []
    await store.mark_gone(lease_of(tenant), row.id)
    assert await take_answer(tenant, outbox) == ["done"]


async def test_answer_waits_a_second_and_no_longer(
    tenant: Tenant, store: PostgresTypingStore, outbox: PostgresOutboxStore
) -> None:
    await complete(tenant, await shown_run(tenant, store))
    await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    await tenant.sql("update outbound_message set created_at = created_at - interval '1 second'")
    pause = await outbox.seconds_to_next(lease_of(tenant), busy=())
    assert pause is not None
    assert pause <= 0
    assert await take_answer(tenant, outbox) == ["done"]


@pytest.mark.parametrize("outcome", ["postponed", "failed"])
async def test_answer_does_not_wait_for_a_sign_that_could_not_go(
    tenant: Tenant, store: PostgresTypingStore, outbox: PostgresOutboxStore, outcome: str
) -> None:
    await complete(tenant, await shown_run(tenant, store))
    (row,) = await store.take_due(lease_of(tenant), busy=(), rows_max=8)
    if outcome == "postponed":
        await store.postpone(lease_of(tenant), row, 2)
    else:
        await store.mark_failed(lease_of(tenant), row.id)
    assert await take_answer(tenant, outbox) == ["done"]


async def test_notice_waits_for_no_sign_and_no_answer_for_another_runs(
    tenant: Tenant, store: PostgresTypingStore, outbox: PostgresOutboxStore
) -> None:
    await cancel(tenant, await shown_run(tenant, store))
    await hear(tenant, await tenant.add_session(), "om_2", age_seconds=500)
    task_id = await claim(tenant)
    await tenant.service.start(tenant.runtime, await tenant.attempt(task_id))
    await complete(tenant, task_id)
    assert await take_answer(tenant, outbox) == ["done"]


async def test_what_becomes_wanted_or_unwanted_rings_the_holder(
    tenant: Tenant, store: PostgresTypingStore, database: str
) -> None:
    rung: list[str] = []
    heard = trio.Event()

    def ring(payload: str) -> None:
        nonlocal heard
        if payload:
            rung.append(payload)
            heard.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run_listener, lambda: TrioConnection.connect(database), {"gateway_outbound": ring})
        with trio.fail_after(10):
            await hear(tenant, await tenant.add_session())
            task_id = await claim(tenant)
            await heard.wait()
            heard = trio.Event()
            await show(tenant, store)
            await cancel(tenant, task_id)
            await heard.wait()
        nursery.cancel_scope.cancel()
    assert rung == [str(tenant.installation_id)] * 2


class _Killed(BaseException):
    """Stands for kill -9: nothing after it runs, except that Python unwinds."""


@pytest.mark.parametrize("point", ["typing.taken", "typing.shown_unmarked", "typing.hidden_unmarked"])
async def test_holder_killed_anywhere_leaves_no_sign_and_one_answer(
    tenant: Tenant, store: PostgresTypingStore, outbox: PostgresOutboxStore, point: str
) -> None:
    platform = ToyPlatform()
    await hear(tenant, await tenant.add_session())
    task_id = await claim(tenant)
    await tenant.service.start(tenant.runtime, await tenant.attempt(task_id))
    if point == "typing.hidden_unmarked":
        await show(tenant, store)
        platform.show("om_1")
        await complete(tenant, task_id)

    def kill(name: str) -> None:
        if name == point:
            raise _Killed

    watch_points(kill)
    try:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with sending(outbox, platform, installation_id=tenant.installation_id, typing=store):
                await trio.sleep(10)
        assert caught.group_contains(_Killed)
    finally:
        watch_points(None)
    if point != "typing.hidden_unmarked":
        await complete(tenant, task_id)
    await tenant.sql("update channel_installation set lease_epoch = 2")

    async def is_over() -> Any:
        rows = await tenant.sql(
            "select exists (select from outbound_message where status = 'sent')"
            " and not exists (select from channel_typing where status <> 'gone') as over"
        )
        return rows[0]["over"]

    async with sending(outbox, platform, installation_id=tenant.installation_id, epoch=2, typing=store):
        with trio.fail_after(10):
            while not await is_over():
                await trio.sleep(0.01)
    assert platform.signs == {}
    assert [text for _, text in platform.visible] == ["done"]
    if point != "typing.taken":
        assert platform.log[-2:] == [("hide", "om_1"), ("answer", "done")]
