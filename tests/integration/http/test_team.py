"""Agents, squads and projects over the routes, on a real Postgres."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.postgres.pool import Pool
from support.people import Browser, Office, open_office

WORKSPACE = "/api/workspaces/acme"


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool)


async def runtime_of(office: Office, workspace_id: UUID) -> str:
    runtime_id = uuid4()
    await office.sql(
        "insert into agent_runtime (id, workspace_id, name) values (%s, %s, %s)", runtime_id, workspace_id, "machine"
    )
    return str(runtime_id)


async def names(browser: Browser, kind: str) -> list[str]:
    status, answer = await browser.ask("GET", f"{WORKSPACE}/{kind}")
    assert (status, answer["total"]) == (200, len(answer[kind]))
    return [one["name"] for one in answer[kind]]


async def test_member_makes_an_agent_that_is_theirs_and_changes_it(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    me = (await mia.ask("GET", "/api/me"))[1]["id"]
    runtime_id = await runtime_of(office, office.place.workspace_id)
    status, agent = await mia.ask("POST", f"{WORKSPACE}/agents", {"name": " Scout  1 ", "runtime_id": runtime_id})
    assert (status, agent["name"], agent["owner_id"], agent["runtime_id"]) == (201, "Scout 1", me, runtime_id)
    assert (agent["visibility"], agent["archived_at"]) == ("workspace", None)
    path = f"/api/agents/{agent['id']}"
    status, changed = await mia.ask("PATCH", path, {"archived": True})
    assert (status, changed["archived_at"] is None, changed["runtime_id"]) == (200, False, runtime_id)
    status, changed = await mia.ask("PATCH", path, {"runtime_id": None, "name": "Scout", "archived": False})
    assert (status, changed["runtime_id"], changed["name"], changed["archived_at"]) == (200, None, "Scout", None)
    assert await names(mia, "agents") == ["ada", "Scout"]


@pytest.mark.parametrize(
    ("sent", "field"),
    [({"name": " "}, "name"), ({"name": "x" * 201}, "name"), ({"runtime_id": str(uuid4())}, "runtime_id")],
)
async def test_bad_agent_is_400_that_names_the_field(office: Office, sent: dict[str, Any], field: str) -> None:
    ann = await office.signed_in("ann@acme.example", "owner")
    for method, path in (("POST", f"{WORKSPACE}/agents"), ("PATCH", f"/api/agents/{office.place.agent_id}")):
        status, answer = await ann.ask(method, path, {"name": "Scout", **sent})
        assert (status, answer["field"]) == (400, field)


async def test_runtime_of_another_workspace_is_none(office: Office) -> None:
    ann = await office.signed_in("ann@acme.example", "owner")
    other = uuid4()
    await office.sql("insert into workspace (id, name, slug, issue_prefix) values (%s, 'other', 'other', 'OTH')", other)
    sent = {"name": "Scout", "runtime_id": await runtime_of(office, other)}
    assert (await ann.ask("POST", f"{WORKSPACE}/agents", sent))[0] == 400


async def test_name_is_given_once(office: Office) -> None:
    ann = await office.signed_in("ann@acme.example", "owner")
    assert (await ann.ask("POST", f"{WORKSPACE}/agents", {"name": "ada"}))[0] == 409
    _, scout = await ann.ask("POST", f"{WORKSPACE}/agents", {"name": "Scout"})
    assert (await ann.ask("PATCH", f"/api/agents/{scout['id']}", {"name": "ada"}))[0] == 409
    assert (await ann.ask("POST", f"{WORKSPACE}/squads", {"name": "crew"}))[0] == 201
    assert (await ann.ask("POST", f"{WORKSPACE}/squads", {"name": "crew"}))[0] == 409


async def test_private_agent_is_there_for_its_owner_and_leaders_only(office: Office) -> None:
    olga, mia = await office.signed_in("olga@acme.example"), await office.signed_in("mia@acme.example")
    ada = await office.signed_in("adm@acme.example", "admin")
    _, agent = await olga.ask("POST", f"{WORKSPACE}/agents", {"name": "secret", "visibility": "private"})
    assert await names(olga, "agents") == ["ada", "secret"]
    assert await names(ada, "agents") == ["ada", "secret"]
    assert await names(mia, "agents") == ["ada"]
    path = f"/api/agents/{agent['id']}"
    assert (await mia.ask("PATCH", path, {"name": "mine"}))[0] == 404
    assert (await ada.ask("PATCH", path, {"name": "theirs"}))[0] == 200
    assert (await mia.ask("PATCH", f"/api/agents/{office.place.agent_id}", {"name": "mine"}))[0] == 403


async def test_private_agent_of_somebody_who_became_a_guest_is_theirs_no_more(office: Office) -> None:
    olga = await office.signed_in("olga@acme.example")
    _, agent = await olga.ask("POST", f"{WORKSPACE}/agents", {"name": "secret", "visibility": "private"})
    _, common = await olga.ask("POST", f"{WORKSPACE}/agents", {"name": "common"})
    await office.sql("update member set role = 'guest' where role = 'member'")
    assert await names(olga, "agents") == ["ada", "common"]
    assert (await olga.ask("PATCH", f"/api/agents/{agent['id']}", {"name": "mine"}))[0] == 404
    assert (await olga.ask("PATCH", f"/api/agents/{common['id']}", {"name": "mine"}))[0] == 403


async def test_private_agent_of_another_leads_no_squad_of_mine_and_is_told_as_none(office: Office) -> None:
    olga, mia = await office.signed_in("olga@acme.example"), await office.signed_in("mia@acme.example")
    _, agent = await olga.ask("POST", f"{WORKSPACE}/agents", {"name": "secret", "visibility": "private"})
    hidden = await mia.ask("POST", f"{WORKSPACE}/squads", {"name": "crew", "leader_agent_id": agent["id"]})
    nothing = str(uuid4())
    unknown = await mia.ask("POST", f"{WORKSPACE}/squads", {"name": "crew", "leader_agent_id": nothing})
    assert hidden == (400, unknown[1] | {"error": unknown[1]["error"].replace(nothing, agent["id"])})
    assert (await olga.ask("POST", f"{WORKSPACE}/squads", {"name": "crew", "leader_agent_id": agent["id"]}))[0] == 201


async def test_squads_and_projects_are_made_and_listed(office: Office) -> None:
    mia = await office.signed_in("mia@acme.example")
    leader = str(office.place.agent_id)
    status, squad = await mia.ask("POST", f"{WORKSPACE}/squads", {"name": "crew", "leader_agent_id": leader})
    assert (status, squad["leader_agent_id"]) == (201, leader)
    assert (await mia.ask("POST", f"{WORKSPACE}/squads", {"name": "headless"}))[1]["leader_agent_id"] is None
    status, answer = await mia.ask("POST", f"{WORKSPACE}/squads", {"name": "x", "leader_agent_id": str(uuid4())})
    assert (status, answer["field"]) == (400, "leader_agent_id")
    assert (await mia.ask("POST", f"{WORKSPACE}/projects", {"name": "Rockets"}))[0] == 201
    assert await names(mia, "squads") == ["crew", "headless"]
    assert await names(mia, "projects") == ["Rockets"]


@pytest.mark.parametrize("kind", ["agents", "squads", "projects"])
async def test_guests_look_and_strangers_find_nothing(office: Office, kind: str) -> None:
    gus, eve = await office.signed_in("gus@acme.example", "guest"), await office.signed_in("eve@other.example", None)
    assert (await gus.ask("GET", f"{WORKSPACE}/{kind}"))[0] == 200
    assert (await gus.ask("POST", f"{WORKSPACE}/{kind}", {"name": "x"}))[0] == 403
    assert (await eve.ask("GET", f"{WORKSPACE}/{kind}"))[0] == 404
    assert (await eve.ask("POST", f"{WORKSPACE}/{kind}", {"name": "x"}))[0] == 404
    assert (await eve.ask("PATCH", f"/api/agents/{office.place.agent_id}", {"name": "x"}))[0] == 404
