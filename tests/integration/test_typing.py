"""Signs that runs last, on a real Postgres: who wants one, what ends it, and what waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import trio

from gateway.concurrency import watch_points
from gateway.outbound.ports import Lease, TypingRow
from gateway.postgres.driver import TrioConnection
from gateway.postgres.janitor_store import PostgresJanitorStore
from gateway.postgres.listen import run_listener
from gateway.postgres.outbox_store import PostgresOutboxStore
from gateway.postgres.pool import Pool
from gateway.postgres.typing_store import PostgresTypingStore
from gateway.work.tasks.ports import End as EndOfRun
from gateway.work.tasks.ports import TaskStatus
from support.outbox_memory import sending
from support.task_world import Session, World, open_world
from support.toy.platform import ToyPlatform


@pytest.fixture
async def world(pool: Pool) -> World:
    return await open_world(pool)


@pytest.fixture
def store(pool: Pool) -> PostgresTypingStore:
    return PostgresTypingStore(pool)


@pytest.fixture
def outbox(pool: Pool) -> PostgresOutboxStore:
    return PostgresOutboxStore(pool)


def lease_of(world: World, epoch: int = 1) -> Lease:
    return Lease(world.installation_id, epoch)


async def hear(world: World, session: Session, message_id: str | None = "om_1", *, age_seconds: float = 1) -> None:
    """A message comes in from the platform, or with `message_id` None from elsewhere."""
    await world.say(session, "hello")
    await world.sql(
        "update chat_message set channel_message_id = %(message)s, sent_at = now() - make_interval(secs => %(age)s)"
        " where seq = (select max(seq) from chat_message)",
        message=message_id,
        age=age_seconds,
    )


async def claim(world: World) -> UUID:
    assignment = await world.service.claim(world.runtime, world.runtime_id)
    assert assignment is not None
    return assignment.claim.id


async def signs(world: World) -> list[tuple[str, str]]:
    rows = await world.sql("select channel_message_id, status from channel_typing order by created_at, id")
    return [(row["channel_message_id"], row["status"]) for row in rows]


async def show(world: World, store: PostgresTypingStore) -> TypingRow:
    (row,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    assert not await store.mark_shown(lease_of(world), row.id, "sign of om_1")
    return row


async def shown_run(world: World, store: PostgresTypingStore) -> UUID:
    """A run that has started, with its sign on the message."""
    await hear(world, await world.add_session())
    task_id = await claim(world)
    await world.service.start(world.runtime, await world.attempt(task_id))
    await show(world, store)
    return task_id


# Who wants a sign


async def test_claim_wants_a_sign_on_the_newest_message(world: World) -> None:
    session = await world.add_session()
    await hear(world, session, "om_1")
    await hear(world, session, "om_2")
    await claim(world)
    assert await signs(world) == [("om_2", "wanted")]


@pytest.mark.parametrize(("age_seconds", "wanted"), [(-30, True), (0, True), (119, True), (121, False), (7200, False)])
async def test_claim_wants_none_on_an_old_message(world: World, age_seconds: float, wanted: bool) -> None:
    await hear(world, await world.add_session(), age_seconds=age_seconds)
    await claim(world)
    assert bool(await signs(world)) == wanted


async def test_message_of_a_clock_that_is_ahead_is_no_younger_than_now(
    world: World, store: PostgresTypingStore
) -> None:
    await hear(world, await world.add_session(), age_seconds=-3600)
    await claim(world)
    rows = await world.sql("select show_before <= now() + interval '2 minutes' as soon from channel_typing")
    assert rows == [{"soon": True}]


async def test_claim_wants_none_for_what_was_not_said_on_the_platform(world: World) -> None:
    session = await world.add_session()
    await hear(world, session, "om_1")
    await hear(world, session, None)
    await claim(world)
    assert await signs(world) == []


async def test_claim_wants_none_without_a_bot_to_show_it(world: World) -> None:
    await hear(world, await world.add_session(bound=False))
    await claim(world)
    await world.sql("update channel_installation set status = 'revoked'")
    await hear(world, await world.add_session(), "om_2")
    await claim(world)
    assert await signs(world) == []


async def test_claim_that_is_rolled_back_wants_nothing(world: World) -> None:
    await hear(world, await world.add_session())

    def fail(point: str) -> None:
        if point == "task.claimed":
            raise RuntimeError

    watch_points(fail)
    try:
        with pytest.raises(RuntimeError):
            await claim(world)
    finally:
        watch_points(None)
    assert await signs(world) == []


# What ends it


async def complete(world: World, task_id: UUID) -> None:
    await world.service.complete(world.runtime, await world.attempt(task_id), "done")


async def complete_silently(world: World, task_id: UUID) -> None:
    await world.service.complete(world.runtime, await world.attempt(task_id), "")


async def fail_for_good(world: World, task_id: UUID) -> None:
    await world.sql("update agent_task set attempt = max_attempts where id = %(id)s", id=task_id)
    await world.service.fail(world.runtime, await world.attempt(task_id), "broken")


async def fail_for_now(world: World, task_id: UUID) -> None:
    await world.service.fail(world.runtime, await world.attempt(task_id), "away", "runtime_offline")
    assert (await world.task(task_id))["status"] == "queued"


async def lose(world: World, _task_id: UUID) -> None:
    await world.silence_runtime()
    assert await world.service.return_lost() == 1


async def cancel(world: World, task_id: UUID) -> None:
    async with world.store.change(task_id) as change:
        assert change is not None
        await change.finish(TaskStatus.CANCELLED, EndOfRun())


async def delete_conversation(world: World, _task_id: UUID) -> None:
    await world.sql("delete from channel_chat_session_binding")
    await world.sql("delete from chat_session")


async def delete_agent(world: World, _task_id: UUID) -> None:
    await world.sql("delete from agent")


End = Callable[[World, UUID], Awaitable[None]]
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
    world: World, store: PostgresTypingStore, end: End
) -> None:
    task_id = await shown_run(world, store)
    assert await signs(world) == [("om_1", "shown")]
    await end(world, task_id)
    (row,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    assert (row.channel_message_id, row.reaction_id, row.unwanted, row.attempts) == ("om_1", "sign of om_1", True, 1)
    assert await store.mark_gone(lease_of(world), row.id)
    assert await signs(world) == [("om_1", "gone")]


@pytest.mark.parametrize("end", ENDS)
async def test_sign_that_was_never_begun_ends_with_its_run(world: World, store: PostgresTypingStore, end: End) -> None:
    await hear(world, await world.add_session())
    task_id = await claim(world)
    await world.service.start(world.runtime, await world.attempt(task_id))
    await end(world, task_id)
    assert await signs(world) == [("om_1", "gone")]
    assert await store.take_due(lease_of(world), busy=(), rows_max=8) == []


async def test_sign_outlives_the_start_and_the_progress_of_its_run(world: World, store: PostgresTypingStore) -> None:
    task_id = await shown_run(world, store)
    await world.service.progress(world.runtime, await world.attempt(task_id), "half")
    assert await signs(world) == [("om_1", "shown")]


async def test_second_attempt_shows_it_once_more(world: World, store: PostgresTypingStore) -> None:
    task_id = await shown_run(world, store)
    await fail_for_now(world, task_id)
    await world.sql("update agent_task set available_at = now()")
    (row,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    await store.mark_gone(lease_of(world), row.id)
    assert await claim(world) == task_id
    assert await signs(world) == [("om_1", "wanted")]
    (again,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    assert (again.reaction_id, again.unwanted, again.attempts) == (None, False, 1)


async def test_second_attempt_leaves_alone_what_is_still_being_taken_away(
    world: World, store: PostgresTypingStore
) -> None:
    task_id = await shown_run(world, store)
    await fail_for_now(world, task_id)
    await world.sql("update agent_task set available_at = now()")
    await claim(world)
    assert await signs(world) == [("om_1", "unwanted")]


# What the store promises


async def test_sign_that_comes_after_the_end_is_named_and_stays_unwanted(
    world: World, store: PostgresTypingStore
) -> None:
    await hear(world, await world.add_session())
    task_id = await claim(world)
    (row,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    await cancel(world, task_id)
    assert not await store.postpone(lease_of(world), row, 30)
    assert await store.mark_shown(lease_of(world), row.id, "re_1")
    (left,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    assert (left.reaction_id, left.unwanted) == ("re_1", True)


async def test_take_due_is_bounded_passes_over_the_busy_and_begins_with_the_unwanted(
    world: World, store: PostgresTypingStore
) -> None:
    await world.sql("update agent set max_concurrent_tasks = 99")
    tasks = []
    for number in range(4):
        await hear(world, await world.add_session(), f"om_{number}")
        tasks.append(await claim(world))
    (first,) = await store.take_due(lease_of(world), busy=(), rows_max=1)
    assert first.channel_message_id == "om_0"
    rest = await store.take_due(lease_of(world), busy={first.id}, rows_max=2)
    assert {row.channel_message_id for row in rest} == {"om_1", "om_2"}
    assert all([await store.postpone(lease_of(world), row, 60) for row in rest])
    await cancel(world, tasks[2])
    (unwanted,) = await store.take_due(lease_of(world), busy={first.id}, rows_max=1)
    assert (unwanted.channel_message_id, unwanted.unwanted) == ("om_2", True)


async def test_new_holder_takes_over_at_once_and_the_former_one_changes_nothing(
    world: World, store: PostgresTypingStore
) -> None:
    await hear(world, await world.add_session())
    task_id = await claim(world)
    former, holder = lease_of(world, 1), lease_of(world, 2)
    (row,) = await store.take_due(former, busy=(), rows_max=8)
    assert await store.postpone(former, row, 3600)
    await world.sql("update channel_installation set lease_epoch = 2")
    assert await store.take_due(former, busy=(), rows_max=8) == []
    (taken,) = await store.take_due(holder, busy=(), rows_max=8)
    assert (taken.id, taken.attempts) == (row.id, 2)
    assert not await store.mark_shown(former, row.id, "re_old")
    assert not await store.postpone(former, row, 1)
    assert not await store.mark_failed(former, row.id)
    assert not await store.mark_shown(holder, row.id, "re_1")
    await cancel(world, task_id)
    assert not await store.mark_gone(former, row.id)
    assert await store.mark_gone(holder, row.id)


async def test_sign_is_not_begun_once_its_message_is_old(world: World, store: PostgresTypingStore) -> None:
    await hear(world, await world.add_session())
    await claim(world)
    await world.sql("update channel_typing set show_before = now()")
    assert await store.take_due(lease_of(world), busy=(), rows_max=8) == []


async def test_signs_are_forgotten_after_a_day_whatever_became_of_them(
    world: World, store: PostgresTypingStore
) -> None:
    await shown_run(world, store)
    janitor = PostgresJanitorStore(world.pool)
    assert await janitor.purge_typing() == 0
    await world.sql("update channel_typing set created_at = now() - interval '25 hours'")
    assert await janitor.purge_typing() == 1


# What waits for it


async def take_answer(world: World, outbox: PostgresOutboxStore) -> list[str]:
    return [row.content for row in await outbox.take_due(lease_of(world), busy=(), rows_max=8)]


async def test_answer_waits_until_the_sign_is_gone(
    world: World, store: PostgresTypingStore, outbox: PostgresOutboxStore
) -> None:
    await complete(world, await shown_run(world, store))
    assert await take_answer(world, outbox) == []
    pause = await outbox.seconds_to_next(lease_of(world), busy=())
    assert pause is not None
    assert 0 < pause <= 1
    (row,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    assert await take_answer(world, outbox) == []
    await store.mark_gone(lease_of(world), row.id)
    assert await take_answer(world, outbox) == ["done"]


async def test_answer_waits_a_second_and_no_longer(
    world: World, store: PostgresTypingStore, outbox: PostgresOutboxStore
) -> None:
    await complete(world, await shown_run(world, store))
    await store.take_due(lease_of(world), busy=(), rows_max=8)
    await world.sql("update outbound_message set created_at = created_at - interval '1 second'")
    pause = await outbox.seconds_to_next(lease_of(world), busy=())
    assert pause is not None
    assert pause <= 0
    assert await take_answer(world, outbox) == ["done"]


@pytest.mark.parametrize("outcome", ["postponed", "failed"])
async def test_answer_does_not_wait_for_a_sign_that_could_not_go(
    world: World, store: PostgresTypingStore, outbox: PostgresOutboxStore, outcome: str
) -> None:
    await complete(world, await shown_run(world, store))
    (row,) = await store.take_due(lease_of(world), busy=(), rows_max=8)
    if outcome == "postponed":
        await store.postpone(lease_of(world), row, 2)
    else:
        await store.mark_failed(lease_of(world), row.id)
    assert await take_answer(world, outbox) == ["done"]


async def test_notice_waits_for_no_sign_and_no_answer_for_another_runs(
    world: World, store: PostgresTypingStore, outbox: PostgresOutboxStore
) -> None:
    await cancel(world, await shown_run(world, store))
    await hear(world, await world.add_session(), "om_2", age_seconds=500)
    task_id = await claim(world)
    await world.service.start(world.runtime, await world.attempt(task_id))
    await complete(world, task_id)
    assert await take_answer(world, outbox) == ["done"]


async def test_what_becomes_wanted_or_unwanted_rings_the_holder(
    world: World, store: PostgresTypingStore, database: str
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
            await hear(world, await world.add_session())
            task_id = await claim(world)
            await heard.wait()
            heard = trio.Event()
            await show(world, store)
            await cancel(world, task_id)
            await heard.wait()
        nursery.cancel_scope.cancel()
    assert rung == [str(world.installation_id)] * 2


class _Killed(BaseException):
    """Stands for kill -9: nothing after it runs, except that Python unwinds."""


@pytest.mark.parametrize("point", ["typing.taken", "typing.shown_unmarked", "typing.hidden_unmarked"])
async def test_holder_killed_anywhere_leaves_no_sign_and_one_answer(
    world: World, store: PostgresTypingStore, outbox: PostgresOutboxStore, point: str
) -> None:
    platform = ToyPlatform()
    await hear(world, await world.add_session())
    task_id = await claim(world)
    await world.service.start(world.runtime, await world.attempt(task_id))
    if point == "typing.hidden_unmarked":
        await show(world, store)
        platform.show("om_1")
        await complete(world, task_id)

    def kill(name: str) -> None:
        if name == point:
            raise _Killed

    watch_points(kill)
    try:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with sending(outbox, platform, installation_id=world.installation_id, typing=store):
                await trio.sleep(10)
        assert caught.group_contains(_Killed)
    finally:
        watch_points(None)
    if point != "typing.hidden_unmarked":
        await complete(world, task_id)
    await world.sql("update channel_installation set lease_epoch = 2")

    async def is_over() -> Any:
        rows = await world.sql(
            "select exists (select from outbound_message where status = 'sent')"
            " and not exists (select from channel_typing where status <> 'gone') as over"
        )
        return rows[0]["over"]

    async with sending(outbox, platform, installation_id=world.installation_id, epoch=2, typing=store):
        with trio.fail_after(10):
            while not await is_over():
                await trio.sleep(0.01)
    assert platform.signs == {}
    assert [text for _, text in platform.visible] == ["done"]
    if point != "typing.taken":
        assert platform.log[-2:] == [("hide", "om_1"), ("answer", "done")]
