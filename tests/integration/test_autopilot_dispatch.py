"""Firings of autopilots, on Postgres: one run each, all of it or nothing, nobody who may not be put to work."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.concurrency import watch_points
from gateway.errors import Forbidden, StoreConflict
from gateway.postgres.dispatch_store import PostgresDispatching, PostgresDispatchStore
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.pool import Pool, open_pool
from gateway.work.autopilots.dispatch import AutopilotDispatcher, Dispatched, Firing
from gateway.work.issues.issues import IssueDraft, IssueService
from support.autopilots import Autopilots, open_autopilots
from support.recording import Recording
from support.tenant import hearing_events

ENVELOPE = {"event": "github.push", "eventPayload": {"ref": "main"}, "request": {"contentType": "application/json"}}
MODES = pytest.mark.parametrize("mode", ["create_issue", "run_only"])


@pytest.fixture
async def autopilots(pool: Pool) -> Autopilots:
    return await open_autopilots(pool)


async def counts(autopilots: Autopilots) -> dict[str, int]:
    (row,) = await autopilots.tenant.sql(
        "select (select count(*) from autopilot_run) as runs, (select count(*) from issue) as issues,"
        " (select count(*) from agent_task) as tasks"
    )
    return row


async def fire_at_once(
    autopilots: Autopilots, database: str, count: int, *args: Any, **firing: Any
) -> list[Dispatched]:
    done: list[Dispatched] = []

    async with open_pool(database, size_max=count) as pool:
        many = Autopilots(autopilots.tenant, pool)

        async def fire() -> None:
            done.append(await many.fire(*args, **firing))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(fire)
    return done


# --- what a firing begins ---------------------------------------------------------------------------------------------


async def test_firing_files_an_issue_that_its_agent_works_on(autopilots: Autopilots, database: str) -> None:
    autopilot_id = await autopilots.add(issue_title_template="probe {{date}}", priority="high")
    trigger_id = await autopilots.add_trigger(autopilot_id)
    async with hearing_events(database) as events:
        done = await autopilots.fire(autopilot_id, trigger_id=trigger_id, delivery_id=uuid4(), payload=ENVELOPE)
    assert (done.status, done.repeated) == ("accepted", False)
    (run,), (issue,), (task,) = await autopilots.runs(), await autopilots.issues(), await autopilots.tenant.tasks()
    assert (run["id"], run["status"], run["issue_id"], run["task_id"]) == (
        done.run_id,
        "issue_created",
        issue["id"],
        None,
    )
    assert (run["trigger_id"], run["source"], run["trigger_payload"]) == (trigger_id, "webhook", ENVELOPE)
    assert issue["title"] == f"probe {run['triggered_at']:%Y-%m-%d}"
    assert (issue["origin_type"], issue["origin_id"], issue["priority"]) == ("autopilot", autopilot_id, "high")
    assert (issue["assignee_type"], issue["assignee_id"]) == ("agent", autopilots.tenant.agent_id)
    assert "Do what is needed." in issue["description"]
    assert '"ref": "main"' in issue["description"]
    assert (task["kind"], task["issue_id"], task["agent_id"]) == ("issue", issue["id"], autopilots.tenant.agent_id)
    assert [event["event"] for event in events] == ["issue:created", "task:queued", "autopilot:run_start"]
    assert events[2]["run_id"] == str(run["id"])
    (row,) = await autopilots.tenant.sql(
        "select a.last_run_at = r.triggered_at and t.last_fired_at = r.triggered_at as noted"
        " from autopilot a, autopilot_trigger t, autopilot_run r"
    )
    assert row["noted"]


async def test_run_only_firing_queues_a_task_that_reads_what_the_webhook_brought(autopilots: Autopilots) -> None:
    autopilot_id = await autopilots.add(execution_mode="run_only")
    done = await autopilots.fire(autopilot_id, payload=ENVELOPE)
    (run,), (task,) = await autopilots.runs(), await autopilots.tenant.tasks()
    assert (run["id"], run["status"], run["task_id"], run["issue_id"]) == (done.run_id, "running", task["id"], None)
    assert (task["kind"], task["autopilot_run_id"], task["status"]) == ("autopilot", run["id"], "queued")
    assignment = await autopilots.tenant.service.claim(autopilots.tenant.runtime, autopilots.tenant.runtime_id)
    assert assignment is not None
    assert assignment.claim.kind == "autopilot"
    assert assignment.prompt.startswith("Do what is needed.\n\nAutopilot run of ")
    assert "Event: `github.push`" in assignment.prompt
    assert '"ref": "main"' in assignment.prompt


async def test_run_only_task_of_an_autopilot_without_words_reads_its_title(autopilots: Autopilots) -> None:
    await autopilots.fire(await autopilots.add(execution_mode="run_only", description=" "), "manual")
    assignment = await autopilots.tenant.service.claim(autopilots.tenant.runtime, autopilots.tenant.runtime_id)
    assert assignment is not None
    assert assignment.prompt.startswith("Look after it\n\nAutopilot run of ")


async def test_squads_leader_does_the_work(autopilots: Autopilots) -> None:
    leader = await autopilots.tenant.add_agent(uuid4(), "leader")
    squad_id = await autopilots.add_squad(leader)
    await autopilots.fire(await autopilots.add(assignee_type="squad", assignee_id=squad_id))
    await autopilots.fire(await autopilots.add(assignee_type="squad", assignee_id=squad_id, execution_mode="run_only"))
    assert [(task["kind"], task["agent_id"]) for task in await autopilots.tenant.tasks()] == [
        ("issue", leader),
        ("autopilot", leader),
    ]
    assert (await autopilots.issues())[0]["assignee_id"] == squad_id


async def test_payload_that_a_column_refuses_is_stored_with_a_mark_in_place_of_it(autopilots: Autopilots) -> None:
    hostile = {"eventPayload": {"a\0b": "c\0", "d": "\\u0000", "e": "\\\0"}}
    assert (await autopilots.fire(await autopilots.add(), payload=hostile)).status == "accepted"
    (run,) = await autopilots.runs()
    assert run["trigger_payload"] == {"eventPayload": {"a\ufffdb": "c\ufffd", "d": "\\u0000", "e": "\\\ufffd"}}


# --- one run per delivery or key --------------------------------------------------------------------------------------


@MODES
async def test_32_firings_of_one_delivery_at_once_are_one_run(autopilots: Autopilots, database: str, mode: str) -> None:
    autopilot_id, delivery_id = await autopilots.add(execution_mode=mode), uuid4()
    trigger_id = await autopilots.add_trigger(autopilot_id)
    done = await fire_at_once(
        autopilots, database, 32, autopilot_id, trigger_id=trigger_id, delivery_id=delivery_id, payload=ENVELOPE
    )
    assert len({one.run_id for one in done}) == 1
    assert Counter(one.repeated for one in done) == {True: 31, False: 1}
    assert {one.status for one in done} == {"accepted"}
    assert await counts(autopilots) == {"runs": 1, "issues": int(mode == "create_issue"), "tasks": 1}


@MODES
async def test_many_deliveries_at_once_are_a_run_each(autopilots: Autopilots, database: str, mode: str) -> None:
    autopilot_id = await autopilots.add(execution_mode=mode)
    trigger_id = await autopilots.add_trigger(autopilot_id)
    async with open_pool(database, size_max=16) as pool:
        many = Autopilots(autopilots.tenant, pool)
        async with trio.open_nursery() as nursery:
            for number in range(48):
                payload = {"eventPayload": number}
                fire = lambda p=payload: many.fire(autopilot_id, trigger_id=trigger_id, delivery_id=uuid4(), payload=p)  # noqa: E731
                nursery.start_soon(fire)
    assert await counts(autopilots) == {"runs": 48, "issues": 48 * (mode == "create_issue"), "tasks": 48}
    assert {run["status"] for run in await autopilots.runs()} <= {"issue_created", "running"}


@MODES
async def test_key_of_a_caller_finds_the_run_again_for_the_same_autopilot_only(
    autopilots: Autopilots, mode: str
) -> None:
    one, other = await autopilots.add(execution_mode=mode), await autopilots.add(execution_mode=mode, title="Other")
    first = await autopilots.fire(one, "manual", idempotency_key="k")
    again = await autopilots.fire(one, "manual", idempotency_key="k")
    assert (again.run_id, again.repeated) == (first.run_id, True)
    assert (await autopilots.fire(other, "manual", idempotency_key="k")).run_id != first.run_id


async def test_run_is_found_again_although_the_autopilot_was_paused_meanwhile(autopilots: Autopilots) -> None:
    autopilot_id, delivery_id = await autopilots.add(), uuid4()
    first = await autopilots.fire(autopilot_id, delivery_id=delivery_id)
    await autopilots.tenant.sql("update autopilot set status = 'paused'")
    again = await autopilots.fire(autopilot_id, delivery_id=delivery_id)
    assert (again.run_id, again.status, again.repeated) == (first.run_id, "accepted", True)


async def test_skipped_run_is_found_again_with_its_reason(autopilots: Autopilots) -> None:
    autopilot_id, delivery_id = await autopilots.add(assignee_id=uuid4()), uuid4()
    first = await autopilots.fire(autopilot_id, delivery_id=delivery_id)
    again = await autopilots.fire(autopilot_id, delivery_id=delivery_id)
    assert (first.status, first.reason) == ("skipped", "agent does not exist")
    assert (again.run_id, again.status, again.reason) == (first.run_id, first.status, first.reason)


# --- all of it or nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        ("create_issue", "autopilot.issue_filed"),
        ("create_issue", "autopilot.drafted"),
        ("create_issue", "autopilot.dispatching"),
        ("run_only", "autopilot.drafted"),
        ("run_only", "autopilot.dispatching"),
    ],
)
async def test_crash_at_any_point_leaves_nothing_and_the_next_firing_all(
    autopilots: Autopilots, mode: str, point: str
) -> None:
    autopilot_id, delivery_id = await autopilots.add(execution_mode=mode), uuid4()

    def crash(name: str) -> None:
        if name == point:
            raise ZeroDivisionError

    watch_points(crash)
    try:
        with pytest.raises(ZeroDivisionError):
            await autopilots.fire(autopilot_id, delivery_id=delivery_id)
    finally:
        watch_points(None)
    assert await counts(autopilots) == {"runs": 0, "issues": 0, "tasks": 0}
    assert (await autopilots.fire(autopilot_id, delivery_id=delivery_id)).repeated is False
    assert await counts(autopilots) == {"runs": 1, "issues": int(mode == "create_issue"), "tasks": 1}


# --- the same issue twice ---------------------------------------------------------------------------------------------


async def test_same_issue_within_a_minute_is_filed_once(autopilots: Autopilots, database: str) -> None:
    autopilot_id = await autopilots.add()
    done = await fire_at_once(autopilots, database, 8, autopilot_id, "manual")
    assert Counter(one.reason_code for one in done) == {"": 1, "duplicate_issue": 7}
    assert await counts(autopilots) == {"runs": 8, "issues": 1, "tasks": 1}
    (issue,) = await autopilots.issues()
    assert {run["issue_id"] for run in await autopilots.runs()} == {issue["id"]}


async def test_same_title_for_other_news_is_another_issue(autopilots: Autopilots) -> None:
    autopilot_id = await autopilots.add()
    for ref in ("main", "main", "other"):
        await autopilots.fire(
            autopilot_id, payload={"eventPayload": {"ref": ref}, "request": {"receivedAt": uuid4().hex}}
        )
    assert [run["status"] for run in await autopilots.runs()] == ["issue_created", "skipped", "issue_created"]


async def test_same_issue_is_filed_again_when_its_run_ended_or_is_old_or_a_person_wants_it(
    autopilots: Autopilots,
) -> None:
    autopilot_id = await autopilots.add()
    await autopilots.fire(autopilot_id)
    assert (await autopilots.fire(autopilot_id)).status == "skipped"
    assert (await autopilots.fire(autopilot_id, again=True)).status == "accepted"
    await autopilots.tenant.sql("update autopilot_run set triggered_at = now() - interval '61 seconds'")
    assert (await autopilots.fire(autopilot_id)).status == "accepted"
    await autopilots.tenant.sql("update issue set status = 'done'")
    assert (await autopilots.fire(autopilot_id)).status == "accepted"


async def test_open_issue_of_somebody_else_with_that_title_does_not_stand_in_the_way(autopilots: Autopilots) -> None:
    service = IssueService(PostgresIssueStore(autopilots.pool))
    await service.file(IssueDraft(autopilots.tenant.workspace_id, "Look after it"))
    first, second = await autopilots.add(), await autopilots.add()
    assert (await autopilots.fire(first)).status == "accepted"
    assert (await autopilots.fire(second)).status == "accepted"
    assert len(await autopilots.issues()) == 3


# --- who does not run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "mode", "reason"),
    [
        ("update agent set archived_at = now()", "create_issue", "agent is archived"),
        ("update agent set runtime_id = null", "create_issue", "agent has no runtime bound"),
        ("delete from agent_runtime", "run_only", "agent has no runtime bound"),
        (
            "update agent_runtime set last_heartbeat_at = now() - interval '151 s'",
            "run_only",
            "agent runtime is offline at dispatch time",
        ),
        ("update agent_runtime set last_heartbeat_at = null", "run_only", "agent runtime is offline at dispatch time"),
    ],
)
async def test_assignee_that_cannot_run_leaves_a_skipped_run(
    autopilots: Autopilots, change: str, mode: str, reason: str
) -> None:
    autopilot_id = await autopilots.add(execution_mode=mode)
    await autopilots.tenant.sql(change)
    done = await autopilots.fire(autopilot_id, delivery_id=uuid4(), payload=ENVELOPE)
    assert (done.status, done.reason) == ("skipped", reason)
    (run,) = await autopilots.runs()
    assert (run["status"], run["failure_reason"], run["completed_at"]) == ("skipped", reason, run["triggered_at"])
    assert await counts(autopilots) == {"runs": 1, "issues": 0, "tasks": 0}


async def test_issue_waits_for_a_runtime_that_is_offline(autopilots: Autopilots) -> None:
    await autopilots.tenant.silence_runtime()
    assert (await autopilots.fire(await autopilots.add())).status == "accepted"


async def test_squad_without_leader_or_archived_or_gone_leaves_a_skipped_run(autopilots: Autopilots) -> None:
    headless = await autopilots.add_squad(None)
    put_away = await autopilots.add_squad(autopilots.tenant.agent_id)
    await autopilots.tenant.sql("update squad set archived_at = now() where id = %(id)s", id=put_away)
    reasons = [
        (await autopilots.fire(await autopilots.add(assignee_type="squad", assignee_id=squad))).reason
        for squad in (headless, put_away, uuid4())
    ]
    assert reasons == ["squad has no leader", "squad is archived", "squad does not exist"]


async def test_agent_of_another_workspace_is_no_assignee(autopilots: Autopilots, pool: Pool) -> None:
    other = await open_autopilots(pool)
    done = await autopilots.fire(await autopilots.add(assignee_id=other.tenant.agent_id))
    assert (done.status, done.reason_code) == ("skipped", "agent_not_found")


async def test_agent_that_is_being_archived_is_not_given_work(autopilots: Autopilots) -> None:
    autopilot_id = await autopilots.add(execution_mode="run_only")
    done: list[Dispatched] = []

    async def fire() -> None:
        done.append(await autopilots.fire(autopilot_id))

    async with trio.open_nursery() as nursery:
        async with autopilots.pool.transaction() as conn:
            await conn.execute("update agent set archived_at = now()")
            nursery.start_soon(fire)
            waiting = "select count(*) = 1 as yes from pg_locks where not granted and pid <> pg_backend_pid()"
            with trio.fail_after(10):
                while not (await (await conn.execute(waiting.encode())).fetchone())[0]:  # type: ignore[index]
                    await trio.sleep(0.01)
    assert [(one.status, one.reason_code) for one in done] == [("skipped", "agent_archived")]


# --- what is off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("update autopilot set status = 'paused'", "autopilot_paused"),
        ("update autopilot set status = 'archived'", "autopilot_archived"),
        ("update autopilot_trigger set enabled = false", "trigger_disabled"),
        ("delete from autopilot_trigger", "trigger_not_found"),
        ("delete from autopilot", "autopilot_not_found"),
    ],
)
async def test_firing_of_what_is_off_is_refused_and_writes_nothing(
    autopilots: Autopilots, change: str, reason: str
) -> None:
    autopilot_id = await autopilots.add()
    trigger_id = await autopilots.add_trigger(autopilot_id)
    await autopilots.tenant.sql(change)
    done = await autopilots.fire(autopilot_id, trigger_id=trigger_id, delivery_id=uuid4())
    assert (done.run_id, done.status, done.reason) == (None, "refused", reason)
    assert await counts(autopilots) == {"runs": 0, "issues": 0, "tasks": 0}


async def test_trigger_of_another_autopilot_is_none(autopilots: Autopilots) -> None:
    one, other = await autopilots.add(), await autopilots.add()
    done = await autopilots.fire(one, trigger_id=await autopilots.add_trigger(other))
    assert (done.status, done.reason) == ("refused", "trigger_not_found")


# --- private agents ---------------------------------------------------------------------------------------------------


async def private_autopilot(autopilots: Autopilots, mode: str, *, squad: bool = False, **columns: Any) -> UUID:
    """One of the tenant's agent, which is now private and somebody else's."""
    owner = await autopilots.add_person()
    await autopilots.tenant.sql("update agent set visibility = 'private', owner_id = %(owner)s", owner=owner)
    if squad:
        columns |= {"assignee_type": "squad", "assignee_id": await autopilots.add_squad(autopilots.tenant.agent_id)}
    return await autopilots.add(execution_mode=mode, **columns)


@MODES
@pytest.mark.parametrize("squad", [False, True])
async def test_autopilot_that_a_plain_member_left_with_a_private_agent_is_skipped(
    autopilots: Autopilots, mode: str, squad: bool
) -> None:
    autopilot_id = await private_autopilot(autopilots, mode, squad=squad)
    admin = await autopilots.add_person("admin")
    for firing in ({}, {"actor_id": autopilots.tenant.user_id}, {"actor_id": admin}):
        done = await autopilots.fire(autopilot_id, "manual", **firing)
        assert (done.status, done.reason_code) == ("skipped", "private_agent")
        assert done.reason == f"{'squad leader ' if squad else ''}agent is private"
    assert await counts(autopilots) == {"runs": 3, "issues": 0, "tasks": 0}


@MODES
async def test_autopilot_of_the_agents_owner_or_of_an_admin_runs(autopilots: Autopilots, mode: str) -> None:
    first = await private_autopilot(autopilots, mode)
    ((owner),) = await autopilots.tenant.sql("select owner_id from agent")
    await autopilots.tenant.sql("update autopilot set created_by_id = %(id)s", id=owner["owner_id"])
    assert (await autopilots.fire(first)).status == "accepted"
    admin = await autopilots.add_person("admin")
    second = await autopilots.add(execution_mode=mode, assigned_by_id=admin, title="Second")
    assert (await autopilots.fire(second)).status == "accepted"
    third = await autopilots.add(execution_mode=mode, created_by_type="agent", created_by_id=uuid4(), title="Third")
    assert (await autopilots.fire(third)).status == "accepted"


@MODES
async def test_person_who_may_not_use_the_private_agent_cannot_start_it_by_hand(
    autopilots: Autopilots, mode: str
) -> None:
    admin = await autopilots.add_person("admin")
    autopilot_id = await private_autopilot(autopilots, mode, created_by_id=admin)
    with pytest.raises(Forbidden):
        await autopilots.fire(autopilot_id, "manual", actor_id=autopilots.tenant.user_id)
    assert await counts(autopilots) == {"runs": 0, "issues": 0, "tasks": 0}
    assert (await autopilots.fire(autopilot_id, "manual", actor_id=admin)).status == "accepted"


@MODES
@pytest.mark.parametrize("role", [None, "guest"])
async def test_owner_who_left_the_workspace_or_became_a_guest_may_not_use_the_agent(
    autopilots: Autopilots, mode: str, role: str | None
) -> None:
    gone = await autopilots.add_person(role=role)
    autopilot_id = await private_autopilot(autopilots, mode, created_by_id=gone)
    await autopilots.tenant.sql("update agent set owner_id = %(gone)s", gone=gone)
    assert (await autopilots.fire(autopilot_id)).reason_code == "private_agent"


@MODES
async def test_check_that_fails_puts_nobody_to_work(
    autopilots: Autopilots, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await autopilots.add_person("admin")
    autopilot_id = await private_autopilot(autopilots, mode, created_by_id=admin)

    async def broken(_self: PostgresDispatching, _user_id: UUID) -> str | None:
        raise StoreConflict("out of memory")

    monkeypatch.setattr(PostgresDispatching, "role_of", broken)
    done = await autopilots.fire(autopilot_id)
    assert (done.status, done.reason_code) == ("skipped", "private_agent")
    assert "could not be checked" in done.reason


async def test_check_that_fails_in_the_database_leaves_the_run_that_says_so(autopilots: Autopilots) -> None:
    admin = await autopilots.add_person("admin")
    autopilot_id = await private_autopilot(autopilots, "run_only", created_by_id=admin)
    await autopilots.tenant.sql("alter table member rename to member_elsewhere")
    done = await autopilots.fire(autopilot_id)
    assert (done.status, done.reason_code) == ("skipped", "private_agent")
    assert await counts(autopilots) == {"runs": 1, "issues": 0, "tasks": 0}


# --- what is told -----------------------------------------------------------------------------------------------------


async def test_new_runs_are_counted_once_and_repeats_are_not(autopilots: Autopilots) -> None:
    recorder = Recording()
    dispatcher = AutopilotDispatcher(
        PostgresDispatchStore(autopilots.pool),
        IssueService(PostgresIssueStore(autopilots.pool)),
        recorder=recorder,
    )
    autopilot_id, nobody = await autopilots.add(), await autopilots.add(assignee_id=uuid4())
    for _ in range(2):
        await dispatcher.dispatch(Firing(autopilot_id, "webhook", delivery_id=UUID(int=1)))
        await dispatcher.dispatch(Firing(nobody, "manual", idempotency_key="k"))
    assert recorder.seen("autopilot_run_started") == [("event", "webhook")]
    assert recorder.seen("autopilot_run_skipped") == [("manual", "agent_not_found")]


async def test_skipped_run_is_announced_as_done(autopilots: Autopilots, database: str) -> None:
    autopilot_id = await autopilots.add(assignee_id=uuid4())
    async with hearing_events(database) as events:
        await autopilots.fire(autopilot_id)
    assert [(event["event"], event["status"]) for event in events] == [("autopilot:run_done", "skipped")]
