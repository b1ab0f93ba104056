"""Conversations over the routes, on a real Postgres: who sees what, what they read, and what deleting leaves."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from gateway.postgres.pool import Pool
from support.lark_directory import add_agent, add_member, add_place
from support.people import Browser, Office, open_office


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool)


async def _add_chat(
    office: Office,
    *,
    creator: UUID | None = None,
    agent: UUID | None = None,
    minutes_ago: int = 0,
    workspace: UUID | None = None,
) -> str:
    chat_id = uuid4()
    await office.sql(
        "insert into chat_session (id, workspace_id, agent_id, creator_id, title, updated_at)"
        " values (%s, %s, %s, %s, 'Direct chat', now() - make_interval(mins => %s))",
        chat_id,
        workspace or office.place.workspace_id,
        agent or office.place.agent_id,
        creator,
        minutes_ago,
    )
    return str(chat_id)


async def _say(office: Office, chat: str, role: str, text: str, author: UUID | None = None) -> None:
    await office.sql(
        "insert into chat_message (id, chat_session_id, role, content, author_user_id)"
        " values (gen_random_uuid(), %s, %s, %s, %s)",
        chat,
        role,
        text,
        author,
    )


async def _member(office: Office, email: str = "bob@acme.example", role: str = "member") -> tuple[Browser, UUID]:
    browser = await office.signed_in(email, role)
    _, me = await browser.ask("GET", "/api/me")
    return browser, UUID(me["id"])


async def _listed(browser: Browser, query: str = "") -> tuple[list[str], int]:
    status, answer = await browser.ask("GET", f"/api/workspaces/acme/chats{query}")
    assert status == 200
    return [chat["id"] for chat in answer["chats"]], answer["total"]


async def test_chats_are_listed_latest_first_in_pages_with_their_real_number(office: Office) -> None:
    browser, _ = await _member(office)
    chats = [await _add_chat(office, minutes_ago=age) for age in range(5)]
    assert await _listed(browser) == (chats, 5)
    assert await _listed(browser, "?limit=2&offset=1") == (chats[1:3], 5)
    assert await _listed(browser, "?limit=2&offset=99") == ([], 5)


async def test_chat_says_where_it_leads(office: Office) -> None:
    browser, bob = await _member(office)
    chat = await _add_chat(office, creator=bob)
    await office.sql(
        "insert into channel_chat_session_binding (id, workspace_id, chat_session_id, installation_id, channel_type,"
        " channel_chat_id, chat_type) values (gen_random_uuid(), %s, %s, %s, 'feishu', 'oc_1', 'p2p')",
        office.place.workspace_id,
        chat,
        office.installation_id,
    )
    status, found = await browser.ask("GET", f"/api/chats/{chat}")
    assert status == 200
    assert (found["agent_name"], found["creator_id"], found["title"]) == ("ada", str(bob), "Direct chat")
    assert (found["channel_type"], found["chat_type"]) == ("feishu", "p2p")
    assert (found["installation_id"], found["deletable"]) == (str(office.installation_id), True)


async def test_messages_come_oldest_first_with_the_agents_answers(office: Office) -> None:
    browser, bob = await _member(office)
    chat = await _add_chat(office)
    await _say(office, chat, "user", "what is up?", bob)
    await _say(office, chat, "assistant", "not much")
    await _say(office, chat, "user", "thanks", bob)
    status, answer = await browser.ask("GET", f"/api/chats/{chat}/messages?limit=2")
    assert (status, answer["total"], answer["limit"], answer["offset"]) == (200, 3, 2, 0)
    assert [(row["role"], row["content"], row["author_name"]) for row in answer["messages"]] == [
        ("user", "what is up?", "Somebody"),
        ("assistant", "not much", None),
    ]
    _, answer = await browser.ask("GET", f"/api/chats/{chat}/messages?offset=2")
    assert [row["content"] for row in answer["messages"]] == ["thanks"]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=", "offset=-1", "offset=1e3"])
async def test_page_that_makes_no_sense_is_400_and_named(office: Office, query: str) -> None:
    browser, _ = await _member(office)
    status, answer = await browser.ask("GET", f"/api/workspaces/acme/chats?{query}")
    assert (status, answer["field"]) == (400, query.partition("=")[0])


async def test_chat_of_another_workspace_is_absent_for_everybody_here(office: Office) -> None:
    browser, _ = await _member(office, role="owner")
    other = await add_place(office.pool, "other")
    chat = await _add_chat(office, workspace=other.workspace_id, agent=other.agent_id)
    for method, path in (
        ("GET", f"/api/chats/{chat}"),
        ("GET", f"/api/chats/{chat}/messages"),
        ("DELETE", f"/api/chats/{chat}"),
        ("GET", "/api/workspaces/other/chats"),
        ("GET", f"/api/chats/{uuid4()}"),
    ):
        assert (await browser.ask(method, path))[0] == 404, path
    assert await office.sql("select count(*) from chat_session") == [(1,)]
    assert (await browser.ask("GET", "/api/chats/nonsense"))[0] == 400


async def test_chats_need_a_person_of_the_workspace(office: Office) -> None:
    chat = await _add_chat(office)
    assert (await office.browser().ask("GET", f"/api/chats/{chat}"))[0] == 401
    stranger = await office.signed_in("eve@acme.example", None)
    assert (await stranger.ask("GET", f"/api/chats/{chat}"))[0] == 404
    assert (await stranger.ask("DELETE", f"/api/chats/{chat}"))[0] == 404
    assert (await stranger.ask("GET", "/api/workspaces/acme/chats"))[0] == 404


@pytest.mark.parametrize(
    ("who", "sees"),
    [("member", False), ("guest", False), ("creator", True), ("agent's owner", True), ("owner", True), ("admin", True)],
)
async def test_chat_with_a_private_agent_is_hidden_from_other_members(office: Office, who: str, sees: bool) -> None:
    role = who if who in {"guest", "owner", "admin"} else "member"
    browser, person = await _member(office, role=role)
    agent = await add_agent(office.pool, office.place.workspace_id, "secretive")
    owner = person if who == "agent's owner" else office.place.owner_id
    await office.sql("update agent set visibility = 'private', owner_id = %s where id = %s", owner, agent)
    chat = await _add_chat(office, agent=agent, creator=person if who == "creator" else None)
    assert await _listed(browser) == (([chat], 1) if sees else ([], 0))
    expected = 200 if sees else 404
    assert (await browser.ask("GET", f"/api/chats/{chat}"))[0] == expected
    assert (await browser.ask("GET", f"/api/chats/{chat}/messages"))[0] == expected
    assert (await browser.ask("DELETE", f"/api/chats/{chat}"))[0] == (204 if sees else 404)


@pytest.mark.parametrize(
    ("role", "creator", "expected"),
    [
        ("member", False, 403),
        ("guest", False, 403),
        ("member", True, 204),
        ("owner", False, 204),
        ("admin", False, 204),
    ],
)
async def test_chat_is_deleted_by_whom_it_belongs_to_or_who_runs_the_workspace(
    office: Office, role: str, creator: bool, expected: int
) -> None:
    browser, person = await _member(office, role=role)
    chat = await _add_chat(office, creator=person if creator else office.place.owner_id)
    assert (await browser.ask("DELETE", f"/api/chats/{chat}"))[0] == expected
    left = await office.sql("select count(*) from chat_session")
    assert left == [(0 if expected == 204 else 1,)]
    if expected == 204:
        assert (await browser.ask("DELETE", f"/api/chats/{chat}"))[0] == 404


async def test_guest_sees_what_they_said_themselves_and_no_more_of_an_agent_that_was_theirs(office: Office) -> None:
    browser, gus = await _member(office, role="guest")
    agent = await add_agent(office.pool, office.place.workspace_id, "secretive")
    await office.sql("update agent set visibility = 'private', owner_id = %s where id = %s", gus, agent)
    own = await _add_chat(office, agent=agent, creator=gus)
    foreign = await _add_chat(office, agent=agent, creator=office.place.owner_id)
    assert await _listed(browser) == ([own], 1)
    assert (await browser.ask("GET", f"/api/chats/{foreign}/messages"))[0] == 404
    assert (await browser.ask("DELETE", f"/api/chats/{foreign}"))[0] == 404
    status, shown = await browser.ask("GET", f"/api/chats/{own}")
    assert (status, shown["deletable"]) == (200, False)
    assert (await browser.ask("DELETE", f"/api/chats/{own}"))[0] == 403


async def test_chat_of_a_member_who_left_is_theirs_no_more(office: Office) -> None:
    browser, bob = await _member(office)
    chat = await _add_chat(office, creator=bob)
    await office.sql("delete from member where user_id = %s", bob)
    assert (await browser.ask("GET", f"/api/chats/{chat}"))[0] == 404
    await add_member(office.pool, office.place.workspace_id, bob)
    assert (await browser.ask("GET", f"/api/chats/{chat}"))[0] == 200
