"""Filing issues, against Postgres."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.concurrency import watch_points
from gateway.errors import Invalid
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.pool import Pool
from gateway.work.issues.issues import Filed, IssueDraft, IssueService
from gateway.work.tasks.notices import Notice, notice_key
from gateway.work.tasks.sessions import Queueing
from support.tenant import Tenant, hearing_events


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await Tenant(pool).create()


@pytest.fixture
def service(pool: Pool) -> IssueService:
    return IssueService(PostgresIssueStore(pool))


def draft(tenant: Tenant, title: str = "Fix the login", **changes: Any) -> IssueDraft:
    fields: dict[str, Any] = {
        "assignee_type": "agent",
        "assignee_id": tenant.agent_id,
        "creator_id": tenant.user_id,
        "origin_type": "lark_chat",
        "origin_id": uuid4(),
        **changes,
    }
    return IssueDraft(tenant.workspace_id, title, **fields)


async def stored(tenant: Tenant) -> list[dict[str, Any]]:
    return await tenant.sql("select * from issue order by number")


async def test_filed_issue_has_its_number_origin_and_defaults(tenant: Tenant, service: IssueService) -> None:
    await tenant.silence_runtime(0)
    wanted = draft(tenant, description="It fails.")
    filed = await service.file(wanted)
    assert (filed.identifier, filed.duplicate, filed.queueing) == ("ABC-1", False, Queueing.QUEUED)
    (row,) = await stored(tenant)
    assert (row["title"], row["description"], row["status"], row["priority"]) == (
        "Fix the login", "It fails.", "todo", "none",
    )  # fmt: skip
    assert (row["origin_type"], row["origin_id"]) == ("lark_chat", wanted.origin_id)
    assert (row["creator_type"], row["creator_id"], row["assignee_id"]) == ("member", tenant.user_id, tenant.agent_id)


async def test_filed_issue_is_its_agents_run_with_title_and_description(tenant: Tenant, service: IssueService) -> None:
    filed = await service.file(draft(tenant, description="It fails."))
    assignment = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
    assert assignment is not None
    assert (assignment.claim.kind, assignment.claim.issue_id) == ("issue", filed.issue.id)
    assert assignment.claim.issue_key == "ABC-1"
    assert assignment.prompt == "Fix the login\n\nIt fails."


async def test_issue_in_the_backlog_or_of_nobody_has_no_run(tenant: Tenant, service: IssueService) -> None:
    for changes in ({"status": "backlog"}, {"assignee_type": None, "assignee_id": None}):
        filed = await service.file(draft(tenant, str(changes), **changes))
        assert filed.queueing is None
    assert await tenant.sql("select id from agent_task") == []


async def test_issue_of_a_squad_runs_at_its_leader(tenant: Tenant, service: IssueService) -> None:
    squad = uuid4()
    await tenant.sql(
        "insert into squad (id, workspace_id, name, leader_agent_id) values (%(id)s, %(workspace)s, 'S', %(agent)s)",
        id=squad, workspace=tenant.workspace_id, agent=tenant.agent_id,
    )  # fmt: skip
    await tenant.silence_runtime(0)
    assert (await service.file(draft(tenant, assignee_type="squad", assignee_id=squad))).queueing is Queueing.QUEUED
    (task,) = await tenant.sql("select agent_id from agent_task")
    assert task["agent_id"] == tenant.agent_id


async def test_issue_of_an_agent_without_a_runtime_waits_for_one(tenant: Tenant, service: IssueService) -> None:
    await tenant.sql("update agent set runtime_id = null")
    assert (await service.file(draft(tenant))).queueing is Queueing.AGENT_OFFLINE
    await tenant.sql("update agent set runtime_id = %(id)s", id=tenant.runtime_id)
    assert await tenant.service.claim(tenant.runtime, tenant.runtime_id) is not None


async def test_issue_of_a_silent_runtime_waits_for_it(tenant: Tenant, service: IssueService) -> None:
    await tenant.silence_runtime(151)
    assert (await service.file(draft(tenant))).queueing is Queueing.RUNTIME_SILENT
    assert await tenant.service.claim(tenant.runtime, tenant.runtime_id) is not None


async def test_issue_of_an_archived_agent_has_no_run(tenant: Tenant, service: IssueService) -> None:
    await tenant.sql("update agent set archived_at = now()")
    assert (await service.file(draft(tenant))).queueing is Queueing.AGENT_ARCHIVED
    assert await tenant.sql("select id from agent_task") == []


async def test_open_issue_of_the_same_title_is_returned_instead(tenant: Tenant, service: IssueService) -> None:
    first = await service.file(draft(tenant))
    again = await service.file(draft(tenant, "  fix\tTHE   login "))
    assert (again.duplicate, again.issue, again.identifier) == (True, first.issue, "ABC-1")
    assert len(await tenant.sql("select id from agent_task")) == 1
    assert (await service.file(draft(tenant, allow_duplicate=True))).identifier == "ABC-2"


@pytest.mark.parametrize("status", ["done", "cancelled"])
async def test_closed_issue_of_the_same_title_is_no_duplicate(
    tenant: Tenant, service: IssueService, status: str
) -> None:
    await service.file(draft(tenant))
    await tenant.sql("update issue set status = %(status)s", status=status)
    assert not (await service.file(draft(tenant))).duplicate


async def test_same_title_in_another_place_is_no_duplicate(tenant: Tenant, service: IssueService) -> None:
    project = await add_project(tenant)
    first = await service.file(draft(tenant))
    assert not (await service.file(draft(tenant, project_id=project))).duplicate
    assert not (await service.file(draft(tenant, parent_id=first.issue.id))).duplicate
    other = await Tenant(tenant.pool).create()
    assert (await service.file(draft(other))).identifier == "ABC-1"


async def test_identical_drafts_at_the_same_time_become_one_issue(tenant: Tenant, service: IssueService) -> None:
    filed: list[Filed] = []

    async def file() -> None:
        filed.append(await service.file(draft(tenant)))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(file)
    assert sorted(one.duplicate for one in filed) == [False] + [True] * 7
    assert len({one.issue.id for one in filed}) == len(await stored(tenant)) == 1


async def test_different_drafts_at_the_same_time_get_numbers_without_gaps(
    tenant: Tenant, service: IssueService
) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(service.file, draft(tenant, f"number {number}"))
    assert [row["number"] for row in await stored(tenant)] == list(range(1, 9))


async def add_project(tenant: Tenant) -> UUID:
    project = uuid4()
    await tenant.sql(
        "insert into project (id, workspace_id, name) values (%(id)s, %(workspace)s, 'P')",
        id=project, workspace=tenant.workspace_id,
    )  # fmt: skip
    return project


async def test_child_takes_the_project_of_its_parent(tenant: Tenant, service: IssueService) -> None:
    project = await add_project(tenant)
    parent = await service.file(draft(tenant, project_id=project))
    child = await service.file(draft(tenant, "child", parent_id=parent.issue.id))
    assert (child.issue.project_id, child.issue.parent_issue_id) == (project, parent.issue.id)


async def test_parent_and_project_of_another_workspace_are_refused(tenant: Tenant, service: IssueService) -> None:
    other = await Tenant(tenant.pool).create()
    parent, project = await service.file(draft(other)), await add_project(other)
    for changes in ({"parent_id": parent.issue.id}, {"project_id": project}):
        with pytest.raises(Invalid):
            await service.file(draft(tenant, **changes))
    assert len(await stored(tenant)) == 1


async def test_newest_issue_stands_on_top(tenant: Tenant, service: IssueService) -> None:
    for number in range(3):
        await service.file(draft(tenant, f"number {number}"))
    rows = await tenant.sql("select title from issue order by position")
    assert [row["title"] for row in rows] == ["number 2", "number 1", "number 0"]


def notice_of(tenant: Tenant, session_id: UUID) -> Any:
    key = notice_key(tenant.installation_id, "om_1")
    return lambda filed: Notice(
        tenant.workspace_id, tenant.installation_id, session_id, "oc_1", "", "om_1", key, filed.identifier
    )


async def test_message_gets_one_notice_and_every_issue_its_event(
    tenant: Tenant, service: IssueService, database: str
) -> None:
    session = await tenant.add_session()
    async with hearing_events(database) as events:
        for _ in range(2):
            await service.file(draft(tenant, allow_duplicate=True), notice=notice_of(tenant, session.id))
    ids = {str(row["id"]) for row in await stored(tenant)}
    assert [event["event"] for event in events] == ["issue:created", "task:queued"] * 2
    assert {event["issue_id"] for event in events} == ids
    assert {frozenset(event) for event in events[::2]} == {frozenset({"event", "workspace_id", "issue_id"})}
    rows = await tenant.sql("select kind, content, reply_to_message_id, recipient_id, status from outbound_message")
    assert [tuple(row.values()) for row in rows] == [("notice", "ABC-1", "om_1", "oc_1", "queued")]


async def test_failure_before_the_commit_leaves_neither_issue_nor_notice(tenant: Tenant, service: IssueService) -> None:
    session = await tenant.add_session()

    def fail(point: str) -> None:
        if point == "issue.filing":
            raise RuntimeError("the process fails here")

    watch_points(fail)
    try:
        with pytest.raises(RuntimeError):
            await service.file(draft(tenant), notice=notice_of(tenant, session.id))
    finally:
        watch_points(None)
    assert await stored(tenant) == []
    assert await tenant.sql("select id from outbound_message") == []
    assert (await service.file(draft(tenant))).identifier == "ABC-1"
