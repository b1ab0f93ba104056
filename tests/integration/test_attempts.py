"""A claim's identity is its task and its attempt: a worker that comes back late touches nothing of a later one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
import trio

from gateway.errors import Conflict, StoreConflict
from gateway.postgres import task_store
from gateway.postgres.pool import Pool
from gateway.postgres.task_store import PostgresTaskChange
from gateway.work.tasks.ports import Attempt, End, TaskStatus
from gateway.work.tasks.tasks import AssignedTask
from support.tenant import Tenant, open_tenant

ACTIONS: dict[str, Callable[[Tenant, Attempt], Awaitable[Any]]] = {
    "start": lambda tenant, attempt: tenant.service.start(tenant.runtime, attempt),
    "progress": lambda tenant, attempt: tenant.service.progress(tenant.runtime, attempt, "x"),
    "complete": lambda tenant, attempt: tenant.service.complete(tenant.runtime, attempt, "late"),
    "fail": lambda tenant, attempt: tenant.service.fail(tenant.runtime, attempt, "late", "timeout"),
}


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


async def claim(tenant: Tenant, instance: str | None = None) -> AssignedTask:
    await tenant.sql("update agent_task set available_at = now() where status = 'queued'")
    assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id, instance=instance)
    assert assignment is not None
    return assignment


async def started(tenant: Tenant, instance: str | None = None, text: str = "hello") -> Attempt:
    await tenant.say(await tenant.add_session(), text)
    attempt = (await claim(tenant, instance)).claim.identity
    await tenant.service.start(tenant.runtime, attempt)
    return attempt


async def went_silent(tenant: Tenant) -> Attempt:
    """An attempt that was given back to the queue while its worker was away."""
    attempt = await started(tenant)
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1
    return attempt


async def refused(call: Awaitable[Any]) -> str:
    with pytest.raises(Conflict) as caught:
        await call
    return caught.value.code


@pytest.mark.parametrize("later", ["queued", "dispatched", "running"])
@pytest.mark.parametrize("action", ACTIONS)
async def test_attempt_that_is_over_changes_nothing_of_the_later_one(tenant: Tenant, action: str, later: str) -> None:
    old = await went_silent(tenant)
    if later != "queued":
        new = (await claim(tenant)).claim.identity
        assert new == Attempt(old.task_id, 2)
        if later == "running":
            await tenant.service.start(tenant.runtime, new)
    before = await tenant.task(old.task_id)
    assert await refused(ACTIONS[action](tenant, old)) == "attempt_over"
    assert await tenant.task(old.task_id) == before
    assert await tenant.outbox() == []


@pytest.mark.parametrize("number", [2, 2**31 - 1])
@pytest.mark.parametrize("action", ACTIONS)
async def test_attempt_that_was_never_handed_out_is_a_conflict(tenant: Tenant, action: str, number: int) -> None:
    attempt = await started(tenant)
    before = await tenant.task(attempt.task_id)
    assert await refused(ACTIONS[action](tenant, Attempt(attempt.task_id, number))) == "attempt_unknown"
    assert await tenant.task(attempt.task_id) == before


async def test_late_fail_leaves_the_finished_answer_of_the_next_attempt(tenant: Tenant) -> None:
    old = await went_silent(tenant)
    new = (await claim(tenant)).claim.identity
    await tenant.service.start(tenant.runtime, new)
    assert await refused(tenant.service.fail(tenant.runtime, old, "late")) == "attempt_over"
    assert await tenant.service.complete(tenant.runtime, new, "the answer") == "completed"
    assert await refused(tenant.service.fail(tenant.runtime, old, "later still")) == "attempt_over"
    assert [row["content"] for row in await tenant.outbox()] == ["the answer"]
    assert (await tenant.task(new.task_id))["result"] == {"output": "the answer"}


async def test_claim_that_was_never_started_is_an_attempt_of_its_own(tenant: Tenant) -> None:
    await tenant.say(await tenant.add_session(), "hello")
    old = (await claim(tenant)).claim.identity
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1
    new = (await claim(tenant)).claim.identity
    assert new == Attempt(old.task_id, 2)
    assert await refused(tenant.service.start(tenant.runtime, old)) == "attempt_over"
    assert await tenant.service.start(tenant.runtime, new) == "running"
    # It was never tried, so the task may still be tried as often as any other.
    assert await tenant.service.fail(tenant.runtime, new, "x", "timeout") == "queued"
    assert await tenant.service.fail(tenant.runtime, (await claim(tenant)).claim.identity, "x", "timeout") == "queued"
    assert await tenant.service.fail(tenant.runtime, (await claim(tenant)).claim.identity, "x", "timeout") == "failed"


@pytest.mark.parametrize("second", ["complete", "fail"])
@pytest.mark.parametrize("first", ["complete", "fail"])
async def test_second_end_of_an_attempt_is_accepted_without_effect(tenant: Tenant, first: str, second: str) -> None:
    attempt = await started(tenant)
    status = await ACTIONS[first](tenant, attempt)
    before = await tenant.task(attempt.task_id)
    assert await ACTIONS[second](tenant, attempt) == status
    assert await tenant.task(attempt.task_id) == before
    assert len(await tenant.outbox()) == (1 if first == "complete" else 0)


async def test_given_up_attempt_is_over_once_the_task_is_claimed_again(tenant: Tenant) -> None:
    old = await started(tenant)
    for _ in range(2):
        assert await tenant.service.fail(tenant.runtime, old, "x", "timeout") == "queued"
    assert await refused(tenant.service.progress(tenant.runtime, old, "x")) == "attempt_over"
    await claim(tenant)
    assert await refused(tenant.service.fail(tenant.runtime, old, "x", "timeout")) == "attempt_over"
    # Given back by silence this time: nobody reported the second attempt, so nobody ends it twice.
    await tenant.silence_runtime()
    await tenant.service.return_lost()
    for number in (1, 2):
        again = Attempt(old.task_id, number)
        assert await refused(tenant.service.fail(tenant.runtime, again, "x", "timeout")) == "attempt_over"


async def test_ends_of_two_attempts_at_the_same_time_leave_one_answer(tenant: Tenant) -> None:
    old = await went_silent(tenant)
    new = (await claim(tenant)).claim.identity
    await tenant.service.start(tenant.runtime, new)
    seen: list[str] = []

    async def end(attempt: Attempt, action: str) -> None:
        try:
            seen.append(await ACTIONS[action](tenant, attempt))
        except Conflict as error:
            seen.append(error.code)

    async with trio.open_nursery() as nursery:
        for action in ("fail", "complete"):
            nursery.start_soon(end, old, action)
        nursery.start_soon(end, new, "complete")
    assert sorted(seen) == ["attempt_over", "attempt_over", "completed"]
    assert len(await tenant.outbox()) == 1


async def test_statements_name_the_attempt_themselves(tenant: Tenant) -> None:
    attempt = await started(tenant)
    ended: dict[str, Any] = {"error": None, "failure_reason": None, "stderr_tail": None}
    statements: dict[Any, dict[str, Any]] = {
        task_store._START_TASK: {},
        task_store._RECORD_PROGRESS: {"progress": "x"},
        task_store._FINISH_TASK: {"status": "failed", "result": None, **ended},
        task_store._NOTE_UNDELIVERED: {"undelivered": 3},
        task_store._REQUEUE_TASK: {"forgiven": False, "reported": False, "delay_seconds": 0.0, **ended},
    }
    before = await tenant.task(attempt.task_id)
    async with tenant.pool.connection() as conn:
        for statement, values in statements.items():
            assert await statement(conn, task_id=attempt.task_id, attempt=2, **values) == 0
    assert await tenant.task(attempt.task_id) == before
    # What was read before is not what decides.
    async with tenant.store.change(attempt.task_id) as change:
        assert change is not None
        await change.requeue(End(), forgiven=False, reported=False)
        with pytest.raises(StoreConflict):
            await change.finish(TaskStatus.COMPLETED, End())


async def test_heartbeat_stops_the_old_attempt_and_keeps_the_new_one(tenant: Tenant) -> None:
    old = await went_silent(tenant)
    new = (await claim(tenant)).claim.identity
    unknown = Attempt(uuid4(), 1)
    stopped = await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, [old, new, unknown])
    assert stopped == [old, unknown]


async def test_old_attempt_in_a_heartbeat_keeps_no_task_alive(tenant: Tenant) -> None:
    old = await went_silent(tenant)
    new = (await claim(tenant)).claim.identity
    await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, [new])
    await tenant.sql("update agent_task set seen_at = now() - interval '151 seconds'")
    await tenant.service.heartbeat(tenant.runtime, tenant.runtime_id, [old])
    assert await tenant.service.return_lost() == 1


# Instances


async def test_instance_gets_back_at_once_only_what_it_had(tenant: Tenant) -> None:
    mine, others, nobodys = [await started(tenant, instance) for instance in ("a", "b", None)]
    await tenant.say(await tenant.add_session(), "unstarted")
    unstarted = (await claim(tenant, "a")).claim.identity
    view = await tenant.service.register(tenant.runtime, None, name=None, kind="", version="", instance="a")
    assert view.id == tenant.runtime_id
    states = {task["id"]: (task["status"], task["attempt"], task["forgiven"]) for task in await tenant.tasks()}
    assert states == {
        mine.task_id: ("queued", 2, 0),
        unstarted.task_id: ("queued", 2, 1),
        others.task_id: ("running", 1, 0),
        nobodys.task_id: ("running", 1, 0),
    }
    row = await tenant.task(mine.task_id)
    assert (row["failure_reason"], row["instance"], row["runtime_id"]) == ("runtime_recovery", None, None)
    assert await refused(tenant.service.complete(tenant.runtime, mine, "late")) == "attempt_over"


async def test_instance_keeps_what_it_says_it_works_on(tenant: Tenant) -> None:
    kept, lost = await started(tenant, "a"), await started(tenant, "a")
    stale = Attempt(lost.task_id, 7)
    for _ in range(2):
        await tenant.service.register(
            tenant.runtime, None, name=None, kind="", version="", instance="a", working_on=[kept, stale]
        )
    assert [(await tenant.task(each.task_id))["status"] for each in (kept, lost)] == ["running", "queued"]


async def test_instance_gets_back_also_what_a_concurrent_message_stood_in_the_way_of(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await started(tenant, "a")
    requeue, conflicts = PostgresTaskChange.requeue, [StoreConflict("a run appeared meanwhile")]

    async def stumble(change: PostgresTaskChange, end: End, **how: Any) -> bool:
        if conflicts:
            raise conflicts.pop()
        return await requeue(change, end, **how)

    monkeypatch.setattr(PostgresTaskChange, "requeue", stumble)
    await tenant.service.register(tenant.runtime, None, name=None, kind="", version="", instance="a")
    assert ((await tenant.task(mine.task_id))["status"], conflicts) == ("queued", [])


async def test_instance_of_another_runtime_of_the_same_name_is_somebody_else(tenant: Tenant) -> None:
    other = await tenant.add_runtime(uuid4(), "other")
    kept = await started(tenant, "a")
    await tenant.service.register(other, None, name=None, kind="", version="", instance="a")
    assert (await tenant.task(kept.task_id))["status"] == "running"


async def test_worker_without_an_instance_takes_nothing_back(tenant: Tenant) -> None:
    kept = [await started(tenant, instance) for instance in ("a", None)]
    await tenant.service.register(tenant.runtime, None, name=None, kind="", version="")
    assert [(await tenant.task(each.task_id))["status"] for each in kept] == ["running"] * 2


async def test_instance_that_dies_with_every_run_gives_up_after_three(tenant: Tenant) -> None:
    await started(tenant, "a")
    for _ in range(2):
        await tenant.service.register(tenant.runtime, None, name=None, kind="", version="", instance="a")
        await tenant.service.start(tenant.runtime, (await claim(tenant, "a")).claim.identity)
    await tenant.service.register(tenant.runtime, None, name=None, kind="", version="", instance="a")
    (task,) = await tenant.tasks()
    assert (task["status"], task["failure_reason"]) == ("failed", "runtime_recovery")


# The end of stderr


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("", None),
        (" \n", None),
        ("a\x00b\n", "ab"),
        ("x" * 10_000 + "end", "x" * 4_093 + "end"),
        ("\u00fc" * 4_000, "\u00fc" * 2_048),
        ("\u20ac" * 4_000, "\u20ac" * 1_365),
    ],
    ids=["none", "empty", "blank", "nul", "long", "two bytes", "three bytes"],
)
async def test_end_of_stderr_is_kept_with_its_task_within_its_bound(
    tenant: Tenant, given: str | None, kept: str | None
) -> None:
    done, failed, retried = [await started(tenant) for _ in range(3)]
    await tenant.service.complete(tenant.runtime, done, "", stderr_tail=given)
    await tenant.service.fail(tenant.runtime, failed, "x", stderr_tail=given)
    await tenant.service.fail(tenant.runtime, retried, "x", "timeout", stderr_tail=given)
    for attempt in (done, failed, retried):
        task = await tenant.service.find(tenant.runtime, attempt.task_id)
        assert task.stderr_tail == kept
