"""How runs of autopilots end: with their issue or task, whoever ends that, once."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.postgres.pool import Pool
from gateway.work.tasks.ports import TaskClaim
from support.autopilots import Autopilots, open_autopilots
from support.tenant import hearing_events


@pytest.fixture
async def autopilots(pool: Pool) -> Autopilots:
    return await open_autopilots(pool)


async def only_run(autopilots: Autopilots) -> dict[str, Any]:
    (run,) = await autopilots.runs()
    return run


async def set_issue(autopilots: Autopilots, status: str) -> None:
    await autopilots.tenant.sql("update issue set status = %(status)s", status=status)


async def claimed(autopilots: Autopilots) -> TaskClaim:
    """A run without an issue whose task has started."""
    await autopilots.fire(await autopilots.add(execution_mode="run_only"))
    assignment = await autopilots.tenant.service.claim(autopilots.tenant.runtime, autopilots.tenant.runtime_id)
    assert assignment is not None
    await autopilots.tenant.service.start(autopilots.tenant.runtime, assignment.claim.identity)
    return assignment.claim


# --- issues -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issue_status", "status", "failure", "code"),
    [
        ("done", "completed", None, None),
        ("in_review", "completed", None, None),
        ("cancelled", "failed", "issue cancelled", "issue_cancelled"),
        ("blocked", "failed", "issue blocked", "issue_blocked"),
        ("in_progress", "issue_created", None, None),
        ("backlog", "issue_created", None, None),
    ],
)
async def test_run_ends_with_its_issue(
    autopilots: Autopilots, issue_status: str, status: str, failure: str | None, code: str | None
) -> None:
    await autopilots.fire(await autopilots.add())
    await set_issue(autopilots, issue_status)
    run = await only_run(autopilots)
    assert (run["status"], run["failure_reason"], run["reason_code"]) == (status, failure, code)
    assert (run["completed_at"] is None) == (status == "issue_created")


async def test_run_that_ended_stays_as_it_ended(autopilots: Autopilots, database: str) -> None:
    await autopilots.fire(await autopilots.add())
    async with hearing_events(database) as events:
        for status in ("blocked", "todo", "done", "done", "cancelled"):
            await set_issue(autopilots, status)
    run = await only_run(autopilots)
    assert (run["status"], run["failure_reason"]) == ("failed", "issue blocked")
    assert [(event["event"], event["run_id"], event["status"]) for event in events] == [
        ("autopilot:run_done", str(run["id"]), "failed")
    ]


async def test_run_of_an_issue_that_is_deleted_fails(autopilots: Autopilots) -> None:
    await autopilots.fire(await autopilots.add())
    await autopilots.tenant.sql("delete from issue")
    run = await only_run(autopilots)
    assert (run["status"], run["failure_reason"], run["issue_id"]) == ("failed", "issue deleted", None)


async def test_runs_issue_may_be_worked_on_without_ending_the_run(autopilots: Autopilots) -> None:
    await autopilots.fire(await autopilots.add())
    tenant = autopilots.tenant
    assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
    assert assignment is not None
    await tenant.service.start(tenant.runtime, assignment.claim.identity)
    await tenant.service.complete(tenant.runtime, assignment.claim.identity, "I had a look.")
    assert (await only_run(autopilots))["status"] == "issue_created"


# --- tasks ------------------------------------------------------------------------------------------------------------


async def test_run_completes_with_its_task_and_keeps_the_result(autopilots: Autopilots, database: str) -> None:
    claim = await claimed(autopilots)
    async with hearing_events(database) as events:
        await autopilots.tenant.service.complete(autopilots.tenant.runtime, claim.identity, "All is well.")
    run = await only_run(autopilots)
    assert (run["status"], run["result"], run["failure_reason"]) == ("completed", {"output": "All is well."}, None)
    assert {"autopilot:run_done", "task:completed"} == {event["event"] for event in events}


@pytest.mark.parametrize("reason", [None, "runtime_recovery", "timeout", "agent_error.provider_network"])
async def test_run_fails_with_its_task_which_is_not_tried_again(autopilots: Autopilots, reason: str | None) -> None:
    claim = await claimed(autopilots)
    await autopilots.tenant.service.fail(autopilots.tenant.runtime, claim.identity, "it broke", reason)
    run = await only_run(autopilots)
    assert (run["status"], run["failure_reason"], run["reason_code"]) == ("failed", "it broke", "task_failed")
    assert [task["status"] for task in await autopilots.tenant.tasks()] == ["failed"]


async def test_run_fails_when_its_runtime_goes_silent(autopilots: Autopilots) -> None:
    await claimed(autopilots)
    await autopilots.tenant.silence_runtime()
    assert await autopilots.tenant.service.return_lost() == 1
    assert (await only_run(autopilots))["status"] == "failed"
    assert [task["status"] for task in await autopilots.tenant.tasks()] == ["failed"]


async def test_run_whose_task_was_never_delivered_goes_on(autopilots: Autopilots) -> None:
    await autopilots.fire(await autopilots.add(execution_mode="run_only"))
    tenant = autopilots.tenant
    assert await tenant.service.claim(tenant.runtime, tenant.runtime_id) is not None
    await tenant.silence_runtime()
    assert await tenant.service.return_lost() == 1
    assert (await only_run(autopilots))["status"] == "running"
    assert [(task["status"], task["attempt"]) for task in await tenant.tasks()] == [("queued", 2)]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_run_ends_with_its_task_whoever_ends_that(autopilots: Autopilots, status: str) -> None:
    await autopilots.fire(await autopilots.add(execution_mode="run_only"))
    await autopilots.tenant.sql("update agent_task set status = %(status)s", status=status)
    run = await only_run(autopilots)
    assert run["status"] == ("completed" if status == "completed" else "failed")
    assert run["failure_reason"] == (None if status == "completed" else f"task {status}")


async def test_run_of_a_task_that_is_deleted_with_its_agent_fails(autopilots: Autopilots) -> None:
    await autopilots.fire(await autopilots.add(execution_mode="run_only"))
    await autopilots.tenant.sql("delete from agent")
    run = await only_run(autopilots)
    assert (run["status"], run["failure_reason"], run["task_id"]) == ("failed", "task deleted", None)


async def test_workspace_with_runs_can_be_deleted(autopilots: Autopilots) -> None:
    await autopilots.fire(await autopilots.add())
    await autopilots.fire(await autopilots.add(execution_mode="run_only"))
    await autopilots.tenant.sql("delete from workspace")
    assert await autopilots.runs() == []
    assert await autopilots.tenant.tasks() == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"error": "it broke", "failure_reason": "timeout"}, "it broke"),
        ({"error": "  ", "failure_reason": "timeout"}, "timeout"),
        ({"failure_reason": "agent_error.unknown"}, "agent_error.unknown"),
        ({}, "task failed"),
    ],
)
async def test_failure_text_prefers_the_agents_words(
    autopilots: Autopilots, given: dict[str, str], expected: str
) -> None:
    values: dict[str, Any] = {"error": None, "failure_reason": None, **given}
    ((row),) = await autopilots.tenant.sql(
        "select autopilot_failure_text(%(error)s, %(failure_reason)s, 'failed') as text", **values
    )
    assert row["text"] == expected


# --- counting ---------------------------------------------------------------------------------------------------------


async def test_ends_are_counted_once_whoever_counts(autopilots: Autopilots) -> None:
    first = await autopilots.add()
    await autopilots.fire(first, "webhook")
    await autopilots.fire(await autopilots.add(execution_mode="run_only"), "manual")
    await autopilots.fire(await autopilots.add(assignee_id=uuid4()), "webhook")
    assert await counted(autopilots) == []
    await set_issue(autopilots, "blocked")
    await autopilots.tenant.sql("update agent_task set status = 'completed' where kind = 'autopilot'")
    assert sorted(await counted(autopilots)) == [
        ("manual", "completed", None, None),
        ("webhook", "failed", "issue_blocked", "issue blocked"),
    ]
    assert await counted(autopilots) == []


async def counted(autopilots: Autopilots) -> list[tuple[Any, ...]]:
    from gateway.postgres.autopilot_store import PostgresAutopilotStore

    ended = await PostgresAutopilotStore(autopilots.pool).take_ended(100)
    assert all(isinstance(run.id, UUID) for run in ended)
    return [(run.source, run.status, run.reason_code, run.failure_reason) for run in ended]
