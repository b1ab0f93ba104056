"""Autopilots over the routes, on a real Postgres: who may do what, what is refused and how it is said."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from gateway.postgres.pool import Pool
from support.people import Browser, Office, open_office

LIST = "/api/workspaces/acme/autopilots"
ROLES = ("owner", "admin", "member", "guest")


@pytest.fixture
async def office(pool: Pool) -> Office:
    office = await open_office(pool)
    runtime = uuid4()
    await office.sql(
        "insert into agent_runtime (id, workspace_id, name, last_heartbeat_at) values (%s, %s, 'machine', now())",
        runtime,
        office.place.workspace_id,
    )
    await office.sql("update agent set runtime_id = %s", runtime)
    return office


def body(office: Office, **changes: Any) -> dict[str, Any]:
    return {"title": "Look after it", "assignee_id": str(office.place.agent_id), **changes}


async def created(office: Office, browser: Browser, **changes: Any) -> dict[str, Any]:
    status, answer = await browser.ask("POST", LIST, body(office, **changes))
    assert status == 201, answer
    return dict(answer)


async def make_private(office: Office, owner: UUID) -> None:
    await office.sql("update agent set visibility = 'private', owner_id = %s", owner)


# --- setting up -------------------------------------------------------------------------------------------------------


async def test_autopilot_is_made_shown_listed_and_changed(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    made = await created(
        office, mia, description="Do it.", issue_title_template="probe {{ date }}", execution_mode="run_only"
    )
    assert (made["status"], made["priority"], made["assignee_type"]) == ("active", "medium", "agent")
    assert (made["execution_mode"], made["concurrency_policy"], made["last_run_at"]) == ("run_only", "skip", None)
    assert set(made).isdisjoint({"role", "assigned_by_id"})
    path = f"/api/autopilots/{made['id']}"
    assert await mia.ask("GET", path) == (200, {**made, "triggers": []})
    status, changed = await mia.ask("PATCH", path, {"title": " New  name ", "issue_title_template": None})
    assert (status, changed["title"], changed["issue_title_template"]) == (200, "New name", "")
    assert changed["description"] == "Do it."
    status, listed = await mia.ask("GET", LIST)
    assert (status, listed["total"], [one["id"] for one in listed["autopilots"]]) == (200, 1, [made["id"]])


async def test_list_is_paged_with_its_real_total(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    for number in range(3):
        await created(office, mia, title=f"No {number}")
    _, page = await mia.ask("GET", f"{LIST}?limit=2&offset=2")
    assert (page["total"], [one["title"] for one in page["autopilots"]]) == (3, ["No 0"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"title": "  "}, "title"),
        ({"title": "x" * 501}, "title"),
        ({"assignee_id": str(uuid4())}, "assignee_id"),
        ({"assignee_type": "squad"}, "assignee_id"),
        ({"assignee_type": "member"}, "assignee_type"),
        ({"assignee_id": "nonsense"}, "assignee_id"),
        ({"project_id": str(uuid4())}, "project_id"),
        ({"priority": "soon"}, "priority"),
        ({"status": "gone"}, "status"),
        ({"execution_mode": "cron"}, "execution_mode"),
        ({"issue_title_template": "probe {{ trigger_id }}"}, "issue_title_template"),
    ],
)
async def test_bad_value_is_400_that_names_the_field(office: Office, changes: dict[str, Any], field: str) -> None:
    mia = await office.signed_in("mia@acme.example")
    status, answer = await mia.ask("POST", LIST, body(office, **changes))
    assert (status, answer["field"]) == (400, field)
    made = await created(office, mia)
    status, answer = await mia.ask("PATCH", f"/api/autopilots/{made['id']}", changes)
    assert (status, answer["field"]) == (400, field)


async def test_unknown_placeholder_is_named(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    _, answer = await mia.ask("POST", LIST, body(office, issue_title_template="{{datetime}}"))
    assert "{{datetime}}" in answer["error"]


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_members_look_and_creators_and_leaders_change(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    made = await created(office, mia)
    path = f"/api/autopilots/{made['id']}"
    for role in ROLES:
        browser = await office.signed_in(f"{role}2@acme.example", role)
        assert (await browser.ask("GET", path))[0] == 200
        assert (await browser.ask("GET", f"{path}/runs"))[0] == 200
        assert (await browser.ask("GET", LIST))[0] == 200
        expected = 200 if role in {"owner", "admin"} else 403
        assert (await browser.ask("PATCH", path, {"priority": "low"}))[0] == expected
        assert (await browser.ask("POST", f"{path}/trigger"))[0] == expected
        assert (await browser.ask("POST", LIST, body(office)))[0] == (403 if role == "guest" else 201)
    assert (await mia.ask("PATCH", path, {"priority": "low"}))[0] == 200
    assert (await mia.ask("POST", f"{path}/trigger"))[0] == 200


async def test_creator_who_became_a_guest_changes_nothing_any_more(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    made = await created(office, mia)
    await office.sql("update member set role = 'guest' where role = 'member'")
    assert (await mia.ask("PATCH", f"/api/autopilots/{made['id']}", {"priority": "low"}))[0] == 403


async def test_stranger_finds_nothing(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    made = await created(office, mia)
    run = (await mia.ask("POST", f"/api/autopilots/{made['id']}/trigger"))[1]
    eve = await office.signed_in("eve@other.example", None)
    path = f"/api/autopilots/{made['id']}"
    asked = [
        ("GET", LIST), ("POST", LIST), ("GET", path), ("PATCH", path), ("POST", f"{path}/trigger"),
        ("GET", f"{path}/runs"), ("GET", f"{path}/runs/{run['id']}"), ("GET", f"/api/autopilots/{uuid4()}"),
    ]  # fmt: skip
    for method, where in asked:
        given = None if method == "GET" or where.endswith("/trigger") else body(office)
        assert (await eve.ask(method, where, given))[0] == 404, where
    assert (await mia.ask("GET", "/api/autopilots/nonsense"))[0] == 400
    status, answer = await mia.ask("POST", f"{path}/trigger", {"prompt": "with these words"})
    assert (status, answer["field"]) == (400, "prompt")


# --- private agents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squad", [False, True])
async def test_private_assignee_is_for_its_owner_and_leaders_to_give(office: Office, squad: bool) -> None:
    mia, ada = await office.signed_in("mia@acme.example"), await office.signed_in("ada@acme.example", "admin")
    olga = await office.add_person("olga@acme.example")
    browser = office.browser()
    assert await browser.sign_in("olga@acme.example") == 200
    public = await created(office, mia)
    await office.sql(
        "insert into agent (id, workspace_id, name, owner_id, visibility) values (%s, %s, 'secret', %s, 'private')",
        secret := uuid4(),
        office.place.workspace_id,
        olga.id,
    )
    given: dict[str, Any] = {"assignee_id": str(secret)}
    if squad:
        _, made = await ada.ask("POST", "/api/workspaces/acme/squads", {"name": "crew", "leader_agent_id": str(secret)})
        given = {"assignee_type": "squad", "assignee_id": made["id"]}
    status, answer = await mia.ask("POST", LIST, body(office, **given))
    assert (status, answer["code"]) == (403, "private_agent")
    assert (await mia.ask("PATCH", f"/api/autopilots/{public['id']}", given))[0] == 403
    assert (await browser.ask("POST", LIST, body(office, **given)))[0] == 201
    assert (await ada.ask("POST", LIST, body(office, **given)))[0] == 201


async def test_autopilot_whose_agent_became_private_can_be_switched_off_but_not_rewritten(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    path = f"/api/autopilots/{(await created(office, mia))['id']}"
    await make_private(office, office.place.owner_id)
    assert (await mia.ask("PATCH", path, {"description": "Tell me its secrets."}))[0] == 403
    assert (await mia.ask("PATCH", path, {"status": "paused"}))[0] == 200
    assert (await mia.ask("PATCH", path, {"status": "active"}))[0] == 403
    assert (await mia.ask("PATCH", path, {"status": "archived"}))[0] == 200


async def test_leader_who_gives_an_autopilot_a_private_agent_answers_for_it(office: Office) -> None:
    mia, ada = await office.signed_in("mia@acme.example"), await office.signed_in("ada@acme.example", "admin")
    made = await created(office, mia)
    path = f"/api/autopilots/{made['id']}"
    await make_private(office, office.place.owner_id)
    assert (await mia.ask("POST", f"{path}/trigger"))[1]["status"] == "skipped"
    squad = (
        await ada.ask("POST", "/api/workspaces/acme/squads", {"name": "s", "leader_agent_id": made["assignee_id"]})
    )[1]
    assert (await ada.ask("PATCH", path, {"assignee_type": "squad", "assignee_id": squad["id"]}))[0] == 200
    assert (await ada.ask("POST", f"{path}/trigger"))[1]["status"] == "issue_created"
    status, answer = await mia.ask("POST", f"{path}/trigger")
    assert (status, answer["code"]) == (403, "private_agent")


# --- starting by hand and runs ----------------------------------------------------------------------------------------


async def test_start_by_hand_answers_the_run_and_the_same_key_the_same_run(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    made = await created(office, mia, execution_mode="run_only")
    path = f"/api/autopilots/{made['id']}"
    status, run = await mia.ask("POST", f"{path}/trigger", **{"Idempotency-Key": "k"})
    assert (status, run["status"], run["source"], run["autopilot_id"]) == (200, "running", "manual", made["id"])
    assert set(run) == {
        "id", "autopilot_id", "trigger_id", "source", "status", "issue_id", "task_id", "triggered_at", "completed_at",
        "failure_reason", "reason_code", "trigger_payload", "result", "created_at",
    }  # fmt: skip
    assert (await mia.ask("POST", f"{path}/trigger", **{"Idempotency-Key": " k "}))[1] == run
    other = (await mia.ask("POST", f"{path}/trigger", **{"Idempotency-Key": "x" * 255}))[1]
    third = (await mia.ask("POST", f"{path}/trigger"))[1]
    assert len({run["id"], other["id"], third["id"]}) == 3
    status, answer = await mia.ask("POST", f"{path}/trigger", **{"Idempotency-Key": "x" * 256})
    assert (status, answer["field"]) == (400, "Idempotency-Key")
    _, listed = await mia.ask("GET", f"{path}/runs?limit=2")
    assert (listed["total"], [one["id"] for one in listed["runs"]]) == (3, [third["id"], other["id"]])
    assert await mia.ask("GET", f"{path}/runs/{run['id']}") == (200, run)
    assert (await mia.ask("GET", f"{path}/runs/{uuid4()}"))[0] == 404
    assert (await mia.ask("GET", path))[1]["last_run_at"] == third["triggered_at"]


async def test_many_clicks_with_one_key_are_one_run(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    path = f"/api/autopilots/{(await created(office, mia))['id']}/trigger"
    answers: list[tuple[int, Any]] = []

    async def click() -> None:
        answers.append(await mia.ask("POST", path, **{"Idempotency-Key": "k"}))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(click)
    assert {status for status, _ in answers} == {200}
    assert len({run["id"] for _, run in answers}) == 1
    assert await office.sql("select count(*) from issue") == [(1,)]


@pytest.mark.parametrize("state", ["paused", "archived"])
async def test_autopilot_that_is_off_is_not_started_by_hand(office: Office, state: str) -> None:
    mia = await office.signed_in("mia@acme.example")
    path = f"/api/autopilots/{(await created(office, mia))['id']}"
    assert (await mia.ask("PATCH", path, {"status": state}))[0] == 200
    status, answer = await mia.ask("POST", f"{path}/trigger")
    assert (status, answer["code"]) == (409, f"autopilot_{state}")
    assert await office.sql("select * from autopilot_run") == []


async def test_run_of_another_autopilot_is_none(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    one, other = await created(office, mia), await created(office, mia, title="Other")
    run = (await mia.ask("POST", f"/api/autopilots/{one['id']}/trigger"))[1]
    assert (await mia.ask("GET", f"/api/autopilots/{other['id']}/runs/{run['id']}"))[0] == 404


async def test_runs_are_counted_when_they_begin_and_end(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    path = f"/api/autopilots/{(await created(office, mia))['id']}/trigger"
    await mia.ask("POST", path)
    await mia.ask("POST", path)
    await office.sql("update issue set status = 'blocked'")
    workplace = office.people.workplace
    assert workplace is not None
    assert [await workplace.autopilots.count_ended() for _ in range(2)] == [1, 0]
    text = office.metrics.render().decode()
    for line in (
        'gateway_autopilot_run_started_total{cadence="manual",trigger_kind="manual"} 1.0',
        'gateway_autopilot_run_skipped_total{cadence="manual",reason="duplicate_issue"} 1.0',
        'gateway_autopilot_run_terminal_total{cadence="manual",terminal_status="failed",trigger_kind="manual"} 1.0',
        'gateway_autopilot_run_failed_total{error_type="issue_terminal",trigger_kind="manual"} 1.0',
    ):
        assert line in text
