"""Connecting, listing and disconnecting bots over the routes: who may, and what is answered to whom."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.keyring import KeyRing
from gateway.lark.api.client import open_http_client
from gateway.lark.install.scan import ScanService, ask_over
from gateway.lark.install.service import InstallationService, identify_over
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from support.device_flow import APP_ID, PATH, DeviceFlow, granted
from support.lark_directory import add_agent, add_place
from support.lark_rest import Reply, serving_platform
from support.people import Browser, Office, open_office

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "cases" / "lark_http_roles.json").read_text(encoding="utf-8")
)["lark_http_roles"]
RING = KeyRing([b"\x07" * 32])


class InstallRoutes:
    """An office whose bots are connected at a platform of our own."""

    def __init__(self, office: Office, flow: DeviceFlow, scans: ScanService | None) -> None:
        self.office = office
        self.flow = flow
        self.scans = scans
        self.base = f"/api/workspaces/{office.place.workspace_id}/lark"
        self.bot = f"{self.base}/installations/{office.installation_id}"

    async def person(self, actor: str) -> Browser:
        role = {"workspace_owner": "owner", "admin": "admin", "initiator": "admin", "stranger": None}.get(
            actor, "member"
        )
        browser = await self.office.signed_in(f"{actor}@acme.example", role)
        if actor == "agent_owner":
            await self.office.sql(
                "update agent set owner_id = (select id from app_user where email = 'agent_owner@acme.example')"
            )
        return browser

    async def begin(self, browser: Browser, **changes: Any) -> tuple[int, Any]:
        body = {"agent_id": str(self.office.place.agent_id), "replace": True} | changes
        return await browser.ask("POST", f"{self.base}/install/begin", body)

    async def started(self) -> str:
        """The path of a session that an admin began."""
        status, begun = await self.begin(await self.person("initiator"))
        assert status == 200, begun
        return f"{self.base}/install/{begun['session_id']}/status"


@pytest.fixture
async def routes(pool: Pool) -> AsyncIterator[InstallRoutes]:
    async with serving_platform() as platform, open_http_client() as http:
        bots = InstallationService(PostgresInstallationStore(pool), RING, identify_over(http, platform.base_url))
        scans = ScanService(
            PostgresInstallStore(pool), bots, RING, ask_over(http), accounts_base_override=platform.base_url
        )
        office = await open_office(pool, installs=scans)
        await office.sql('update channel_installation set config = config || \'{"region": "lark"}\'')
        yield InstallRoutes(office, DeviceFlow(platform), scans)


async def off(pool: Pool, **settings: Any) -> InstallRoutes:
    return InstallRoutes(await open_office(pool, **settings), None, None)  # type: ignore[arg-type]


def by(**wanted: Any) -> list[dict[str, Any]]:
    return [case for case in CASES if all(case["input"].get(key) == value for key, value in wanted.items())]


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "status"),
    [
        *((case["input"]["actor"], case["expected"]) for case in by(op="begin") if "actor" in case["input"]),
        ("admin", 200),
        ("agent_owner", 200),
        ("stranger", 404),
    ],
)
async def test_begin_is_for_admins_and_the_agents_owner(routes: InstallRoutes, actor: str, status: int) -> None:
    answered, begun = await routes.begin(await routes.person(actor))
    assert answered == status
    if status == 200:
        assert (begun["expires_in_seconds"], begun["poll_interval_seconds"]) == (60, 1)
        assert set(begun) == {"session_id", "qr_code_url", "expires_in_seconds", "poll_interval_seconds"}
    else:
        assert routes.flow.begun == 0


@pytest.mark.parametrize(
    ("actor", "status"),
    [
        *((c["input"]["actor"], c["expected"]) for c in by(op="status") if c["input"].get("actor") != "initiator"),
        ("admin", 200),
        ("agent_owner", 404),
        ("stranger", 404),
    ],
)
async def test_status_is_for_admins_and_who_began(routes: InstallRoutes, actor: str, status: int) -> None:
    path = await routes.started()
    assert (await (await routes.person(actor)).ask("GET", path))[0] == status


async def test_status_is_for_an_initiator_who_is_no_admin(routes: InstallRoutes) -> None:
    browser = await routes.person("agent_owner")
    _, begun = await routes.begin(browser)
    path = f"{routes.base}/install/{begun['session_id']}/status"
    assert await browser.ask("GET", path) == (200, {"status": "pending"})


@pytest.mark.parametrize(
    ("actor", "status"),
    [
        *((case["input"]["actor"], case["expected"]) for case in by(op="revoke") if "actor" in case["input"]),
        ("agent_owner", 204),
        ("stranger", 404),
    ],
)
async def test_revoke_is_for_admins_and_the_agents_owner(routes: InstallRoutes, actor: str, status: int) -> None:
    browser = await routes.person(actor)
    assert (await browser.ask("DELETE", routes.bot))[0] == status
    ((stored,),) = await routes.office.sql("select status from channel_installation")
    assert (stored == "revoked") is (status == 204)
    if status == 204:
        assert (await browser.ask("DELETE", routes.bot))[0] == 204


@pytest.mark.parametrize(
    ("actor", "status"),
    [*((case["input"]["actor"], case["expected"]) for case in by(op="revoke_orphan")), ("workspace_owner", 204)],
)
async def test_revoke_of_a_bot_whose_agent_is_gone_is_for_admins(
    routes: InstallRoutes, actor: str, status: int
) -> None:
    browser = await routes.person(actor)
    await routes.office.sql("delete from agent")
    _, listed = await browser.ask("GET", f"{routes.base}/installations")
    assert [bot["id"] for bot in listed["installations"]] == [str(routes.office.installation_id)]
    assert (await browser.ask("DELETE", routes.bot))[0] == status


async def test_audit_is_for_admins_and_the_agents_owner(routes: InstallRoutes) -> None:
    for actor, status in (("admin", 200), ("agent_owner", 200), ("member", 403), ("stranger", 404)):
        assert (await (await routes.person(actor)).ask("GET", f"{routes.bot}/audit"))[0] == status
    assert (await routes.office.browser().ask("GET", f"{routes.bot}/audit"))[0] == 401


# --- switched off -----------------------------------------------------------------------------------------------------


async def test_everything_but_the_list_is_503_without_a_key(pool: Pool) -> None:
    routes = await off(pool, lark_on=False, platforms=())
    browser = await routes.person("workspace_owner")
    assert {case["expected"] for case in by(configured=False) if case["input"]["op"] != "list"} == {503}
    for method, path in (
        ("POST", f"{routes.base}/install/begin"),
        ("GET", f"{routes.base}/install/{uuid4()}/status"),
        ("DELETE", routes.bot),
        ("GET", f"{routes.bot}/audit"),
        ("POST", "/api/lark/binding/redeem"),
    ):
        status, answer = await browser.ask(method, path, {} if method == "POST" else None)
        assert (status, answer["code"]) == (503, "lark_off")


@pytest.mark.parametrize(("settings", "configured"), [({"lark_on": False}, False), ({"installs": None}, True)])
async def test_list_says_what_is_off(pool: Pool, settings: dict[str, Any], configured: bool) -> None:
    routes = await off(pool, **settings)
    expected = by(op="list", configured=configured)[0]["expected"]
    status, answer = await (await routes.person("member")).ask("GET", f"{routes.base}/installations")
    assert {"status": status, **answer}.items() >= expected.items()
    assert (await routes.office.browser().ask("GET", f"{routes.base}/installations"))[0] == 401


# --- what is answered -------------------------------------------------------------------------------------------------


async def test_list_shows_the_bot_its_link_and_its_console_and_no_secret(routes: InstallRoutes) -> None:
    await routes.office.sql(
        "update channel_installation set config = config || "
        '\'{"app_secret_encrypted": "marker", "bot_union_id": "marker", "bot_open_id": "ou_bot"}\', '
        "ws_lease_token = 'marker', ws_lease_expires_at = now() + interval '1 minute'"
    )
    await routes.office.sql(
        "insert into channel_connection (installation_id, state, node, pong_ms) values (%s, 'live', 'n', 1.5)",
        routes.office.installation_id,
    )
    status, answer = await (await routes.person("member")).ask("GET", f"{routes.base}/installations")
    assert (status, answer["configured"], answer["install_supported"]) == (200, True, True)
    (bot,) = answer["installations"]
    assert bot["console_url"] == f"https://open.larksuite.com/app/{bot['app_id']}"
    assert (bot["region"], bot["status"], bot["bot_open_id"]) == ("lark", "active", "ou_bot")
    assert (bot["connection"]["state"], bot["connection"]["pong_ms"]) == ("live", 1.5)
    assert {"detail", "last_frame_at", "last_event_at"} <= set(bot["connection"])
    assert "events_url" not in bot
    assert "marker" not in json.dumps(answer)


async def test_list_shows_where_events_are_posted_to(routes: InstallRoutes) -> None:
    await routes.office.sql('update channel_installation set config = config || \'{"event_mode": "http"}\'')
    _, answer = await (await routes.person("member")).ask("GET", f"{routes.base}/installations")
    assert [bot["events_url"] for bot in answer["installations"]] == [None]  # nobody said where we can be reached


async def test_scan_is_told_until_it_is_a_bot(routes: InstallRoutes) -> None:
    browser = await routes.person("workspace_owner")
    await browser.ask("DELETE", routes.bot)
    _, begun = await routes.begin(browser, region="lark")
    path = f"{routes.base}/install/{begun['session_id']}/status"
    routes.flow.polls = [granted(brand="lark")]
    await routes.office.sql("update lark_install_session set next_poll_at = now()")
    assert routes.scans is not None
    scan = await routes.scans.take()
    assert scan is not None
    await routes.scans.advance(scan)
    status, told = await browser.ask("GET", path)
    assert (status, told) == (200, {"status": "success", "installation_id": str(routes.office.installation_id)})
    _, answer = await browser.ask("GET", f"{routes.base}/installations")
    assert [(bot["app_id"], bot["region"]) for bot in answer["installations"]] == [(APP_ID, "lark")]


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"agent_id": "no id"}, 400, "agent_id"),
        ({"agent_id": None}, 400, "agent_id"),
        ({"region": "mars"}, 400, "region"),
        ({"agent_id": str(uuid4())}, 404, "agent_id"),
    ],
)
async def test_begin_names_the_field_at_fault(
    routes: InstallRoutes, changes: dict[str, Any], status: int, field: str
) -> None:
    answered, error = await routes.begin(await routes.person("workspace_owner"), **changes)
    assert (answered, error["field"]) == (status, field)


async def test_begin_without_an_agent_is_400(routes: InstallRoutes) -> None:
    browser = await routes.person("workspace_owner")
    status, error = await browser.ask("POST", f"{routes.base}/install/begin", {})
    assert (status, error["field"]) == (400, "agent_id")


async def test_begin_for_an_agent_with_a_live_bot_is_409_that_names_it_unless_it_replaces(
    routes: InstallRoutes,
) -> None:
    browser = await routes.person("workspace_owner")
    status, error = await routes.begin(browser, replace="yes")
    assert (status, error["field"]) == (400, "replace")
    for unsaid in (False, None):
        status, error = await routes.begin(browser, replace=unsaid)
        assert (status, error["code"]) == (409, "agent_has_bot")
        assert (error["app_id"], error["installation_id"]) == (
            "cli_0123456789abcdef",
            str(routes.office.installation_id),
        )
        assert "linked again" in error["error"]
    assert routes.flow.begun == 0
    assert (await routes.begin(browser))[0] == 200
    assert (await browser.ask("DELETE", routes.bot))[0] == 204
    assert (await routes.begin(browser, replace=False))[0] == 200


async def test_agents_owner_who_became_a_guest_manages_its_bot_no_more(routes: InstallRoutes) -> None:
    browser = await routes.person("agent_owner")
    _, begun = await routes.begin(browser)
    await routes.office.sql("update member set role = 'guest' where user_id = (select owner_id from agent)")
    assert (await routes.begin(browser))[0] == 403
    assert (await browser.ask("GET", f"{routes.bot}/audit"))[0] == 403
    assert (await browser.ask("DELETE", routes.bot))[0] == 403
    routes.flow.polls = [granted()]
    await routes.office.sql("update lark_install_session set next_poll_at = now()")
    assert routes.scans is not None
    scan = await routes.scans.take()
    assert scan is not None
    await routes.scans.advance(scan)
    status, told = await browser.ask("GET", f"{routes.base}/install/{begun['session_id']}/status")
    assert (status, told["status"], told["error_reason"]) == (200, "error", "forbidden")
    ((app_id,),) = await routes.office.sql("select config ->> 'app_id' from channel_installation")
    assert app_id == "cli_0123456789abcdef"


async def test_begin_for_an_archived_agent_is_409(routes: InstallRoutes) -> None:
    await routes.office.sql("update agent set archived_at = now()")
    assert (await routes.begin(await routes.person("workspace_owner")))[0] == 409


async def test_begin_that_the_platform_refuses_is_502(routes: InstallRoutes) -> None:
    routes.flow.platform.script(PATH, Reply(raw=b"", status=500))
    status, error = await routes.begin(await routes.person("workspace_owner"))
    assert (status, error["code"], error["reason"]) == (502, "lark_begin_failed", "http_500")


async def test_rows_of_another_workspace_are_not_there(routes: InstallRoutes, pool: Pool) -> None:
    browser = await routes.person("workspace_owner")
    other = await add_place(pool, "elsewhere")
    foreign = str(await add_agent(pool, other.workspace_id, "foreign"))
    assert (await routes.begin(browser, agent_id=foreign))[0] == 404
    await routes.office.sql("update channel_installation set workspace_id = %s", other.workspace_id)
    assert (await browser.ask("DELETE", routes.bot))[0] == 404
    assert (await browser.ask("GET", f"{routes.bot}/audit"))[0] == 404
    path = await routes.started()
    await routes.office.sql("update lark_install_session set workspace_id = %s", other.workspace_id)
    assert (await browser.ask("GET", path))[0] == 404


@pytest.mark.parametrize(
    "session", ["no-id", "6a53180b-f19b-4e3b-9f8c-532d28697928", "00000000-0000-0000-0000-000000000000"]
)
async def test_status_of_an_unknown_session_is_404(routes: InstallRoutes, session: str) -> None:
    browser = await routes.person("workspace_owner")
    status, error = await browser.ask("GET", f"{routes.base}/install/{session}/status")
    assert (status, error["code"]) == (404, "session_not_found")


async def test_audit_comes_in_pages_newest_first_and_without_content(routes: InstallRoutes) -> None:
    await routes.office.sql(
        "insert into channel_inbound_audit "
        "(installation_id, channel_type, channel_message_id, drop_reason, received_at) "
        "select %s, 'feishu', 'om_' || n, 'unbound_user', now() - make_interval(secs => n) "
        "from generate_series(1, 25) n",
        routes.office.installation_id,
    )
    browser = await routes.person("admin")
    _, first = await browser.ask("GET", f"{routes.bot}/audit")
    assert (len(first["audit"]), first["limit"], first["offset"]) == (20, 20, 0)
    assert first["audit"][0]["message_id"] == "om_1"
    assert set(first["audit"][0]) == {
        "id",
        "event_type",
        "drop_reason",
        "chat_id",
        "event_id",
        "message_id",
        "received_at",
    }
    _, last = await browser.ask("GET", f"{routes.bot}/audit?limit=10&offset=20")
    assert [drop["message_id"] for drop in last["audit"]] == [f"om_{n}" for n in range(21, 26)]
    for query, field in (("limit=0", "limit"), ("limit=101", "limit"), ("offset=-1", "offset"), ("offset=x", "offset")):
        status, error = await browser.ask("GET", f"{routes.bot}/audit?{query}")
        assert (status, error["field"]) == (400, field)
