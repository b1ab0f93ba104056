"""What people do with webhooks over the routes: triggers, secrets, the log, replays one by one and by a plan."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import trio

from gateway.errors import StoreUnavailable
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.pool import Pool
from gateway.webhooks.replay import run_replays
from support.people import Browser
from support.purging import purge
from support.webhooks import SECRET, HookOffice, open_hook_office, signed

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parents[2] / "unit" / "webhooks" / "cases" / "webhooks.json").read_bytes()
)
BODY = b'{"action":"opened","order":"ord4711","title":"Kaffeemaschine"}'


@pytest.fixture
async def hooks(pool: Pool) -> HookOffice:
    return await open_hook_office(pool, ring=KeyRing.parse(generate_key()))


@pytest.fixture
async def mia(hooks: HookOffice) -> Browser:
    return await hooks.office.signed_in("mia@acme.example")


class Pilot:
    """One person's autopilot with a webhook."""

    def __init__(self, hooks: HookOffice, browser: Browser, autopilot: str, trigger: dict[str, Any]) -> None:
        self.hooks, self.browser, self.id, self.trigger = hooks, browser, autopilot, trigger
        self.base = f"/api/autopilots/{autopilot}"
        self.of_trigger = f"{self.base}/triggers/{trigger['id']}"

    async def send(self, body: bytes = BODY, **headers: str) -> tuple[int, dict[str, Any]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client = self.hooks.office.app.test_client()
        response = await client.post(self.trigger["webhook_path"], data=body, headers=named)
        return response.status_code, msgspec.json.decode(await response.get_data())

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.browser.ask(method, f"{self.base}{path}", body, **named)

    async def refresh(self) -> dict[str, Any]:
        _, answer = await self.ask("GET", "/triggers")
        self.trigger = next(one for one in answer["triggers"] if one["id"] == self.trigger["id"])
        return self.trigger


async def autopilot(hooks: HookOffice, browser: Browser) -> str:
    body = {"title": "T", "assignee_id": str(hooks.office.place.agent_id), "execution_mode": "run_only"}
    status, made = await browser.ask("POST", "/api/workspaces/acme/autopilots", body)
    assert status == 201
    return str(made["id"])


async def pilot(hooks: HookOffice, browser: Browser, **trigger: Any) -> Pilot:
    autopilot_id = await autopilot(hooks, browser)
    body = {"kind": "webhook", "provider": "github", **trigger}
    status, made = await browser.ask("POST", f"/api/autopilots/{autopilot_id}/triggers", body)
    assert status == 201, made
    return Pilot(hooks, browser, autopilot_id, made)


# --- triggers ---------------------------------------------------------------------------------------------------------


async def test_trigger_is_made_with_an_address_and_shown_with_its_autopilot(pool: Pool) -> None:
    hooks = await open_hook_office(pool, ring=None, public_url="http://gateway.example/")
    mia = await hooks.office.signed_in("mia@acme.example")
    one = await pilot(hooks, mia, label="CI", event_filters=[{"event": "push"}])
    made = one.trigger
    assert re.fullmatch(r"awt_[A-Za-z0-9_-]{43}", made["webhook_token"])
    assert made["webhook_path"] == f"/api/webhooks/autopilots/{made['webhook_token']}"
    assert made["webhook_url"] == f"http://gateway.example{made['webhook_path']}"
    assert (made["kind"], made["provider"], made["label"], made["enabled"]) == ("webhook", "github", "CI", True)
    assert made["event_filters"] == [{"event": "push"}]
    assert (made["has_signing_secret"], made["signing_secret_hint"], made["signing_secrets"]) == (False, None, [])
    assert (await one.ask("GET", ""))[1]["triggers"] == [made]


async def test_url_needs_a_public_url(hooks: HookOffice, mia: Browser) -> None:
    assert (await pilot(hooks, mia)).trigger["webhook_url"] is None


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["trigger_provider"]])
async def test_provider_is_taken_as_expected(hooks: HookOffice, mia: Browser, case: dict[str, Any]) -> None:
    path = f"/api/autopilots/{await autopilot(hooks, mia)}/triggers"
    status, _ = await mia.ask("POST", path, {"kind": "webhook", "provider": case["input"]})
    assert status == case["expected"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "api"}, "kind"),
        ({"kind": "schedule"}, "kind"),
        ({"kind": "webhook", "cron_expression": "* * * * *"}, "cron_expression"),
        ({"kind": "webhook", "timezone": "UTC"}, "timezone"),
        ({"kind": "webhook", "event_filters": [{"event": " "}]}, "event_filters"),
        ({"kind": "webhook", "event_filters": [{"event": "push", "actions": [""]}]}, "event_filters"),
        ({"kind": "webhook", "event_filters": [{}]}, None),
        ({"kind": "webhook", "label": "x" * 201}, "label"),
        ({}, "kind"),
    ],
)
async def test_trigger_that_makes_no_sense_is_refused(
    hooks: HookOffice, mia: Browser, body: dict[str, Any], field: str | None
) -> None:
    status, answer = await mia.ask("POST", f"/api/autopilots/{await autopilot(hooks, mia)}/triggers", body)
    assert status == 400
    assert field is None or answer["field"] == field


async def test_trigger_changes_keep_what_is_left_out(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia, label="CI", event_filters=[{"event": "push"}])
    status, changed = await mia.ask("PATCH", one.of_trigger, {"enabled": False})
    assert (status, changed["enabled"], changed["label"]) == (200, False, "CI")
    assert changed["event_filters"] == [{"event": "push"}]
    assert (await one.send(X_GitHub_Event="push"))[1]["reason"] == "trigger_disabled"
    _, changed = await mia.ask("PATCH", one.of_trigger, {"enabled": True, "label": "", "event_filters": []})
    assert (changed["enabled"], changed["label"], changed["event_filters"]) == (True, "", None)
    assert (await one.send(X_GitHub_Event="issues"))[1]["status"] == "accepted"
    assert (await mia.ask("PATCH", one.of_trigger, {"event_filters": [{"event": ""}]}))[0] == 400


async def test_provider_is_changed_only_while_no_secret_is_of_the_old_one(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    status, refused = await mia.ask("PATCH", one.of_trigger, {"provider": "acme"})
    assert (status, refused["field"]) == (400, "provider")
    status, changed = await mia.ask("PATCH", one.of_trigger, {"provider": "gitlab"})
    assert (status, changed["provider"]) == (200, "gitlab")
    await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": SECRET})
    assert (await one.send(X_Gitlab_Token=SECRET))[0] == 200
    status, refused = await mia.ask("PATCH", one.of_trigger, {"provider": "none"})
    assert (status, refused["code"]) == (409, "provider_has_secrets")
    assert (await mia.ask("PATCH", one.of_trigger, {"provider": "gitlab", "label": "x"}))[0] == 200
    assert (await one.send())[0] == 401
    await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": ""})
    assert (await mia.ask("PATCH", one.of_trigger, {"provider": "none"}))[1]["provider"] == "none"
    assert (await one.send())[0] == 200


async def test_rotated_address_is_the_only_one(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    assert (await one.send())[0] == 200
    status, rotated = await mia.ask("POST", f"{one.of_trigger}/rotate-token")
    assert status == 200
    assert rotated["webhook_token"] != one.trigger["webhook_token"]
    assert (await one.send())[0] == 404
    one.trigger = rotated
    assert (await one.send())[0] == 200


async def test_deleted_trigger_leaves_its_deliveries_and_they_cannot_be_replayed(
    hooks: HookOffice, mia: Browser
) -> None:
    one = await pilot(hooks, mia)
    _, sent = await one.send()
    assert (await mia.ask("DELETE", one.of_trigger))[0] == 204
    assert (await one.send())[0] == 404
    assert (await mia.ask("DELETE", one.of_trigger))[0] == 404
    assert (await one.ask("GET", f"/deliveries/{sent['delivery_id']}"))[0] == 200
    assert (await one.ask("POST", f"/deliveries/{sent['delivery_id']}/replay"))[0] == 404


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["signing_secret"]])
async def test_secret_is_taken_as_expected(hooks: HookOffice, mia: Browser, case: dict[str, Any]) -> None:
    one = await pilot(hooks, mia)
    secret = "s" * int(case["input"].split()[0])
    status, _ = await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": secret})
    assert status == case["expected"]["http"]


async def test_secret_goes_in_and_never_comes_out(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    status, shown = await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": f" {SECRET} "})
    assert (status, shown["has_signing_secret"], shown["signing_secret_hint"]) == (200, True, SECRET[-4:])
    assert SECRET not in str(shown) + str(await one.ask("GET", ""))
    ((sealed,),) = await hooks.office.sql("select secret_encrypted from webhook_signing_secret")
    assert SECRET not in sealed
    assert (await one.send())[0] == 401
    assert (await one.send(**signed(BODY)))[0] == 200
    status, shown = await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": ""})
    assert (status, shown["has_signing_secret"]) == (200, False)
    assert (await one.send())[0] == 200


@pytest.mark.parametrize(
    ("provider", "is_warned"),
    [("github", True), ("gitlab", True), ("stripe", True), ("generic", False), ("svix", False), ("none", False)],
)
async def test_trigger_without_a_secret_is_warned_about(
    hooks: HookOffice, mia: Browser, provider: str, is_warned: bool
) -> None:
    one = await pilot(hooks, mia, provider=provider)
    assert any("without a signing secret" in text for text in one.trigger["warnings"]) is is_warned
    if is_warned:
        _, shown = await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": SECRET})
        assert shown["warnings"] == (await one.refresh())["warnings"] == []


async def test_short_key_is_taken_with_a_warning(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia, provider="standard_webhooks")
    short = "whsec_" + base64.b64encode(b"8 bytes!").decode()
    status, shown = await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": short})
    assert (status, len(shown["warnings"])) == (200, 1)
    assert "8 bytes" in shown["warnings"][0]
    status, added = await mia.ask("POST", f"{one.of_trigger}/signing-secrets", {"signing_secret": short})
    assert (status, added["warnings"]) == (201, shown["warnings"])
    good = "whsec_" + base64.b64encode(b"x" * 24).decode()
    assert (await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": good}))[1]["warnings"] == []


async def test_several_secrets_are_added_and_taken_away(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    path = f"{one.of_trigger}/signing-secrets"
    end = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    status, first = await mia.ask("POST", path, {"signing_secret": SECRET, "expires_at": end})
    assert (status, first["signing_secret_hint"]) == (201, SECRET[-4:])
    _, second = await mia.ask("POST", path, {"signing_secret": "not-a-real-secret-2"})
    assert [secret["id"] for secret in (await one.refresh())["signing_secrets"]] == [first["id"], second["id"]]
    assert (await one.send(**signed(BODY)))[0] == 200
    assert (await one.send(**signed(BODY, "not-a-real-secret-2")))[0] == 200
    assert (await mia.ask("DELETE", f"{path}/{first['id']}"))[0] == 204
    assert (await mia.ask("DELETE", f"{path}/{first['id']}"))[0] == 404
    assert (await one.send(**signed(BODY)))[0] == 401
    assert (await mia.ask("POST", path, {"signing_secret": SECRET, "expires_at": "2020-01-01T00:00:00Z"}))[0] == 400
    for _ in range(4):
        assert (await mia.ask("POST", path, {"signing_secret": SECRET}))[0] == 201
    assert (await mia.ask("POST", path, {"signing_secret": SECRET}))[1]["code"] == "too_many_secrets"


async def test_secret_without_a_key_to_seal_it_is_503(pool: Pool) -> None:
    hooks = await open_hook_office(pool, ring=None)
    mia = await hooks.office.signed_in("mia@acme.example")
    one = await pilot(hooks, mia)
    for method, path in (("PUT", "signing-secret"), ("POST", "signing-secrets")):
        status, answer = await mia.ask(method, f"{one.of_trigger}/{path}", {"signing_secret": SECRET})
        assert (status, answer["code"]) == (503, "secret_key_missing")
    assert (await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": ""}))[0] == 200


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "role", "reads", "writes"),
    [
        ("ada@acme.example", "admin", 200, True),
        ("max@acme.example", "member", 200, False),
        ("gus@acme.example", "guest", 200, False),
        ("eve@else.example", None, 404, False),
    ],
)
async def test_members_look_and_only_makers_and_leaders_change(
    hooks: HookOffice, mia: Browser, email: str, role: str | None, reads: int, writes: bool
) -> None:
    one = await pilot(hooks, mia)
    _, sent = await one.send()
    somebody = await hooks.office.signed_in(email, role)
    delivery = f"{one.base}/deliveries/{sent['delivery_id']}"
    for path in (f"{one.base}/deliveries", delivery, f"{one.base}/triggers", "/api/workspaces/acme/deliveries"):
        assert (await somebody.ask("GET", path))[0] == reads
    refused = 403 if reads == 200 else 404
    for method, path, body, fine in (
        ("POST", f"{delivery}/replay", None, 201),
        ("POST", f"{one.base}/deliveries/replays", {"all": True, "budget": 1}, 200),
        ("PATCH", one.of_trigger, {"label": "x"}, 200),
        ("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": SECRET}, 200),
        ("POST", f"{one.of_trigger}/rotate-token", None, 200),
        ("POST", f"{one.base}/triggers", {"kind": "webhook"}, 201),
        ("DELETE", one.of_trigger, None, 204),
    ):
        assert (await somebody.ask(method, path, body))[0] == (fine if writes else refused), path


SHOWN_TO_WRITERS = ("webhook_token", "webhook_path", "webhook_url", "signing_secret_hint")


@pytest.mark.parametrize(
    ("email", "role", "sees"),
    [
        ("ada@acme.example", "admin", True),
        ("max@acme.example", "member", False),
        ("gus@acme.example", "guest", False),
    ],
)
async def test_address_is_shown_to_those_who_may_change_the_trigger(
    pool: Pool, email: str, role: str, sees: bool
) -> None:
    hooks = await open_hook_office(pool, ring=KeyRing.parse(generate_key()), public_url="http://gateway.example")
    one = await pilot(hooks, await hooks.office.signed_in("mia@acme.example"))
    await one.ask("PUT", f"/triggers/{one.trigger['id']}/signing-secret", {"signing_secret": SECRET})
    _, sent = await one.send(Authorization="Bearer not-a-real-token", Cookie="c=not-a-real-cookie", **signed(BODY))
    somebody = await hooks.office.signed_in(email, role)
    (listed,) = (await somebody.ask("GET", f"{one.base}/triggers"))[1]["triggers"]
    (shown,) = (await somebody.ask("GET", one.base))[1]["triggers"]
    assert listed == shown
    assert (shown["has_webhook_url"], shown["has_signing_secret"]) == (True, True)
    assert [shown[name] is not None for name in SHOWN_TO_WRITERS] == [sees] * 4
    assert [secret["signing_secret_hint"] for secret in shown["signing_secrets"]] == [SECRET[-4:] if sees else None]
    if sees:
        assert shown["webhook_url"].endswith(one.trigger["webhook_path"])
        return
    paths = ("", "/triggers", "/runs", "/deliveries", f"/deliveries/{sent['delivery_id']}")
    answers = [await somebody.ask("GET", f"{one.base}{path}") for path in paths]
    answers += [await somebody.ask("GET", f"/api/workspaces/acme/{name}") for name in ("autopilots", "deliveries")]
    assert {status for status, _ in answers} == {200}
    for hidden in (one.trigger["webhook_token"], SECRET, SECRET[-4:] + '"', "not-a-real-token", "not-a-real-cookie"):
        assert hidden not in msgspec.json.encode(answers).decode()


async def test_maker_who_became_a_guest_sees_the_address_no_more(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    assert (await one.refresh())["webhook_token"] == one.trigger["webhook_token"]
    await hooks.office.sql(
        "update member set role = 'guest' where user_id = (select id from app_user where email = 'mia@acme.example')"
    )
    shown = await one.refresh()
    assert (shown["has_webhook_url"], shown["webhook_token"], shown["webhook_path"]) == (True, None, None)
    assert (await one.ask("POST", f"/triggers/{shown['id']}/rotate-token"))[0] == 403


async def test_rows_of_another_autopilot_are_not_found(hooks: HookOffice, mia: Browser) -> None:
    one, other = await pilot(hooks, mia), await pilot(hooks, mia)
    _, sent = await one.send()
    assert (await other.ask("GET", f"/deliveries/{sent['delivery_id']}"))[0] == 404
    assert (await other.ask("POST", f"/deliveries/{sent['delivery_id']}/replay"))[0] == 404
    assert (await other.ask("PATCH", f"/triggers/{one.trigger['id']}", {"label": "x"}))[0] == 404
    assert (await one.ask("GET", "/deliveries/nonsense"))[0] == 400


# --- the log ----------------------------------------------------------------------------------------------------------


async def test_log_is_slim_newest_first_and_has_its_real_total(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    sent = [(await one.send(X_GitHub_Event="push"))[1]["delivery_id"] for _ in range(25)]
    _, page = await one.ask("GET", "/deliveries")
    assert (page["total"], page["limit"], page["offset"], len(page["deliveries"])) == (25, 20, 0, 20)
    assert [row["id"] for row in page["deliveries"]] == sent[::-1][:20]
    assert set(page["deliveries"][0]).isdisjoint({"raw_body", "selected_headers", "response_body", "search"})
    await hooks.store.fold_tally()
    _, page = await one.ask("GET", "/deliveries?limit=5&offset=20")
    assert (page["total"], [row["id"] for row in page["deliveries"]]) == (25, sent[::-1][20:])


@pytest.mark.parametrize(("query", "limit", "offset"), [("", 20, 0), ("limit=101", 100, 0), ("limit=5&offset=3", 5, 3)])
async def test_page_larger_than_the_largest_is_the_largest(
    hooks: HookOffice, mia: Browser, query: str, limit: int, offset: int
) -> None:
    one = await pilot(hooks, mia)
    status, page = await one.ask("GET", f"/deliveries?{query}")
    assert (status, page["limit"], page["offset"]) == (200, limit, offset)


async def test_absurd_or_unknown_parameter_is_400_with_its_name(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    for query, field in (
        ("limit=x", "limit"), ("limit=-1", "limit"), ("limit=1000000000", "limit"), ("limit=5&limit=6", "limit"),
        ("offset=99999999999999999999", "offset"), ("status=nonsense", "status"), ("q=%00", "q"), ("q=%FF", "q"),
        ("q=" + "x" * 201, "q"), ("state=failed", "state"),
    ):  # fmt: skip
        status, answer = await one.ask("GET", f"/deliveries?{query}")
        assert (status, answer["field"]) == (400, field), query


async def test_unknown_member_of_a_filter_is_400_with_its_name(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    status, answer = await one.ask("POST", "/deliveries/replays", {"filter": {"state": "failed"}, "dry_run": True})
    assert (status, answer["field"]) == (400, "filter.state")
    filters = [{"event": "push", "action": "opened"}]
    status, answer = await mia.ask("PATCH", one.of_trigger, {"event_filters": filters})
    assert (status, answer["field"]) == (400, "event_filters[0].action")


async def test_run_shows_the_numbers_of_its_payload_as_they_were_sent(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia, provider="generic")
    body = b'{"n":1e400,"m":0.12345678901234567890123}'
    _, answer = await one.send(body)
    for path in ("runs", f"runs/{answer['run_id']}"):
        response = await mia.send("GET", f"{one.base}/{path}")
        assert b'"eventPayload":' + body in await response.get_data()


@pytest.mark.parametrize(
    "body",
    [
        rb'{"name":"M\u00fcller","sha":"12e45678"}',
        b'["M\xc3\xbcller",' + b",".join([b"1e99999"] * 20_000) + rb',"\u0041"]',
    ],
)
async def test_words_are_found_beside_what_looks_like_numbers(hooks: HookOffice, mia: Browser, body: bytes) -> None:
    one = await pilot(hooks, mia, provider="generic")
    with trio.fail_after(5):
        assert (await one.send(body))[0] == 200
    assert (await one.ask("GET", "/deliveries?q=m%C3%BCller"))[1]["total"] == 1


async def test_log_is_filtered_and_searched(hooks: HookOffice, mia: Browser) -> None:
    one, other = await pilot(hooks, mia), await pilot(hooks, mia)
    await one.send(b'{"order":"ord4711","mail":"kim@example.org","t":"\\u4f60\\u597d"}', X_GitHub_Event="push")
    await one.send(b'{"order":"ord4712","n":12345}', X_GitHub_Event="issues")
    await one.send(b"payload=%7B%22order%22%3A%22form+word%22%7D", Content_Type="application/x-www-form-urlencoded")
    await one.send(b"not json ord9999")
    await one.send(b"\xff\xfe binary ord8888")
    await other.send(b'{"order":"ord4711"}')

    async def total(query: str, path: str = one.base) -> int:
        status, page = await mia.ask("GET", f"{path}/deliveries?{query}")
        assert status == 200
        assert len(page["deliveries"]) == page["total"]
        return int(page["total"])

    assert await total("q=ord4711") == 1
    assert await total("q=ord47") == 2
    assert await total("q=ORD4711") == 1
    assert await total("q=kim@example.org") == 1
    assert await total("q=1234") == 1
    assert await total("q=%E4%BD%A0%E5%A5%BD") == 1
    assert await total("q=form+wor") == 1
    assert await total("q=ord9999") == 1
    assert await total("q=ord47&status=rejected") == 0
    assert await total("q=ord47&event=github.push") == 1
    assert await total("q=nothing") == 0
    assert await total("q=%22%27%29%28%3A%2A%26") == 0
    assert await total("q=+") == 5
    assert await total("status=rejected") == 2
    assert await total("status=") == 5
    assert await total("event=github.issues") == 1
    assert await total("q=ord4711", "/api/workspaces/acme") == 2
    assert await total("status=dispatched", "/api/workspaces/acme") == 4
    assert await total("event=github.push&q=ord", "/api/workspaces/acme") == 1


async def test_delivery_of_a_github_app_is_in_the_workspaces_log(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    await one.send()
    await hooks.office.sql(
        "insert into webhook_delivery (id, source, workspace_id, provider, event, status)"
        " values (%s, 'github_app', %s, 'github', 'github.push', 'dispatched')",
        uuid4(),
        hooks.office.place.workspace_id,
    )
    _, page = await mia.ask("GET", "/api/workspaces/acme/deliveries")
    assert (page["total"], [row["source"] for row in page["deliveries"]]) == (2, ["github_app", "autopilot"])
    assert (await one.ask("GET", "/deliveries"))[1]["total"] == 1


async def test_delivery_is_shown_whole(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    _, sent = await one.send(X_GitHub_Event="push", Content_Type="application/json")
    _, whole = await one.ask("GET", f"/deliveries/{sent['delivery_id']}")
    assert (whole["raw_body"], whole["raw_body_encoding"]) == (BODY.decode(), "utf-8")
    assert whole["selected_headers"]["x-github-event"] == "push"
    assert msgspec.json.decode(whole["response_body"]) == sent
    _, refused = await one.send(b"\xff\x00")
    _, whole = await one.ask("GET", f"/deliveries/{refused['delivery_id']}")
    assert (whole["raw_body"], whole["raw_body_encoding"]) == ("/wA=", "base64")


async def test_old_deliveries_go_in_bounded_batches_and_leave_the_total_right(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    for _ in range(6):
        await one.send()
    await hooks.office.sql(
        "update webhook_delivery set created_at = now() - interval '91 days'"
        " where id in (select id from webhook_delivery limit 5)"
    )
    assert await purge(hooks.office.pool, "deliveries", rows_max=2) == 5
    assert (await one.ask("GET", "/deliveries"))[1]["total"] == 1


# --- replays ----------------------------------------------------------------------------------------------------------


async def test_replay_is_a_delivery_of_its_own_and_begins_a_run(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    await mia.ask("PUT", f"{one.of_trigger}/signing-secret", {"signing_secret": SECRET})
    _, sent = await one.send(X_GitHub_Delivery="d1", X_GitHub_Event="push", **signed(BODY))
    status, row = await one.ask("POST", f"/deliveries/{sent['delivery_id']}/replay")
    assert status == 201
    assert (row["replayed_from_delivery_id"], row["dedupe_key"]) == (sent["delivery_id"], None)
    assert (row["status"], row["signature_status"], row["event"]) == (
        "dispatched",
        "not_required",
        "github.push.opened",
    )
    assert row["autopilot_run_id"] not in (None, sent["run_id"])
    assert row["raw_body"] == BODY.decode()
    payloads = await hooks.office.sql("select trigger_payload::jsonb - 'request' from autopilot_run")
    assert payloads[0] == payloads[1]


async def test_same_key_gets_the_same_replay_also_at_once(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    _, sent = await one.send()
    _, other = await one.send()
    answers: list[tuple[int, Any]] = []

    async def replay() -> None:
        answers.append(await one.ask("POST", f"/deliveries/{sent['delivery_id']}/replay", Idempotency_Key="k"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(replay)
    assert {status for status, _ in answers} == {201}
    assert len({row["id"] for _, row in answers}) == 1
    assert await hooks.office.sql("select count(*) from autopilot_run") == [(3,)]
    _, row = await one.ask("POST", f"/deliveries/{other['delivery_id']}/replay", Idempotency_Key="k")
    assert row["id"] != answers[0][1]["id"]
    status, _ = await one.ask("POST", f"/deliveries/{sent['delivery_id']}/replay", Idempotency_Key="k" * 256)
    assert status == 400


REPLAYS: dict[str, str] = {
    "inactive": "update autopilot set status = 'paused'",
    "trigger disabled": "update autopilot_trigger set enabled = false",
    "trigger gone": "delete from autopilot_trigger",
    "rejected": "update webhook_delivery set status = 'rejected'",
    "invalid": "update webhook_delivery set signature_status = 'invalid'",
    "queued": "update webhook_delivery set status = 'queued'",
    "no body": "update webhook_delivery set raw_body = null",
    "unparsable": "update webhook_delivery set raw_body = 'x'",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(case["name"], case["expected"]["http"]) for case in CASES["replay"]],
        *[(name, 400) for name in ("rejected", "invalid", "queued", "no body", "unparsable")],
    ],
)
async def test_replay_that_cannot_be_is_refused(hooks: HookOffice, mia: Browser, name: str, expected: int) -> None:
    one = await pilot(hooks, mia)
    _, sent = await one.send()
    await hooks.office.sql(REPLAYS[name])
    assert (await one.ask("POST", f"/deliveries/{sent['delivery_id']}/replay"))[0] == expected
    assert await hooks.office.sql("select count(*) from webhook_delivery") == [(1,)]


# --- bulk replays -----------------------------------------------------------------------------------------------------


EVERYTHING = {"all": True, "budget": 10, "dry_run": False}


async def wait_for(one: Pilot, replay_id: str, status: str) -> dict[str, Any]:
    with trio.fail_after(20):
        while True:
            _, replay = await one.ask("GET", f"/deliveries/replays/{replay_id}")
            if replay["status"] == status:
                return dict(replay)
            await trio.sleep(0.02)


async def test_plan_says_how_many_and_starts_nothing(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    for event in ("push", "push", "issues"):
        await one.send(X_GitHub_Event=event)
    await one.send(b"not json", X_GitHub_Event="push")
    body = {"filter": {"event": "github.push.opened"}, "budget": 1}
    status, plan = await one.ask("POST", "/deliveries/replays", body)
    assert status == 200
    assert (plan["dry_run"], plan["matched"], plan["planned"], plan["count"]) == (True, 2, 1, 1)
    assert await hooks.office.sql("select count(*) from webhook_replay") == [(0,)]
    late = {"filter": {"since": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}, "budget": 9}
    assert (await one.ask("POST", "/deliveries/replays", late))[1]["matched"] == 0
    assert (await one.ask("POST", "/deliveries/replays", {"all": True}))[1]["matched"] == 3
    for budget in (0, -1, 10_001):
        assert (await one.ask("POST", "/deliveries/replays", {"all": True, "budget": budget}))[0] == 400


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "filter_missing"),
        ({"filter": {"status": "zzz"}}, "invalid_body"),
        ({"dry_run": False}, "filter_missing"),
        ({"filter": {}, "dry_run": False}, "filter_missing"),
        ({"filter": None, "all": False, "dry_run": False}, "filter_missing"),
        ({"filter": {"q": "  ", "status": None}, "dry_run": False}, "filter_missing"),
        ({"filter": {"event": "github.push"}, "all": True, "dry_run": False}, "filter_and_all"),
    ],
)
async def test_bulk_replay_that_does_not_say_which_ones_is_refused(
    hooks: HookOffice, mia: Browser, body: dict[str, Any], code: str
) -> None:
    one = await pilot(hooks, mia)
    await one.send()
    status, answer = await one.ask("POST", "/deliveries/replays", {"budget": 9, **body})
    field = "filter.status" if code == "invalid_body" else "filter"
    assert (status, answer["code"], answer["field"]) == (400, code, field)
    assert ("status must be one of" if code == "invalid_body" else "all: true") in answer["error"]
    assert await hooks.office.sql("select count(*) from webhook_replay") == [(0,)]


async def test_bulk_replay_goes_through_its_plan_once(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    sent = [(await one.send(X_GitHub_Event="push"))[1]["delivery_id"] for _ in range(5)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_replays, hooks.store, hooks.replayer, hooks.wake)
        wanted = {"filter": {"q": "ord4711"}, "budget": 4, "dry_run": False}
        status, started = await one.ask("POST", "/deliveries/replays", wanted)
        assert (status, started["status"], started["planned"], started["matched"]) == (201, "running", 4, 5)
        assert started["filter"] == {"status": None, "event": None, "q": "ord4711", "since": None, "until": None}
        ended = await wait_for(one, started["id"], "completed")
        nursery.cancel_scope.cancel()
    assert (ended["accepted"], ended["skipped"], ended["failed"], ended["done"]) == (4, 0, 0, 4)
    replayed = await hooks.office.sql(
        "select replayed_from_delivery_id::text from webhook_delivery where replayed_from_delivery_id is not null"
        " order by created_at"
    )
    assert [row[0] for row in replayed] == sent[:4]


async def test_cancelled_bulk_replay_stops_where_it_is(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    await one.send()
    _, started = await one.ask("POST", "/deliveries/replays", EVERYTHING)
    status, ended = await one.ask("DELETE", f"/deliveries/replays/{started['id']}")
    assert (status, ended["status"]) == (200, "cancelled")
    assert await hooks.store.claim_bulk(uuid4(), 10) is None
    assert (await one.ask("DELETE", f"/deliveries/replays/{uuid4()}"))[0] == 404


async def test_bulk_replay_is_continued_by_another_process_without_repeating(hooks: HookOffice, mia: Browser) -> None:
    """The first one dies after a replay was made and before its progress was stored."""
    one = await pilot(hooks, mia)
    for _ in range(4):
        await one.send()
    _, started = await one.ask("POST", "/deliveries/replays", EVERYTHING)

    class Dying:
        def __init__(self) -> None:
            self.left = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(hooks.store, name)

        async def advance_bulk(self, *args: Any) -> bool:
            self.left -= 1
            if self.left == 0:
                raise ZeroDivisionError("the process dies here")
            return await hooks.store.advance_bulk(*args)

    with pytest.raises(ZeroDivisionError):
        await run_replays(Dying(), hooks.replayer, hooks.wake)  # type: ignore[arg-type]
    await hooks.office.sql("update webhook_replay set leased_until = now()")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(run_replays, hooks.store, hooks.replayer, hooks.wake)
            hooks.wake = type(hooks.wake)()
        ended = await wait_for(one, started["id"], "completed")
        nursery.cancel_scope.cancel()
    assert (ended["accepted"], ended["failed"]) == (4, 0)
    assert await hooks.office.sql("select count(*) from autopilot_run") == [(8,)]


async def test_bulk_replay_waits_for_a_database_that_is_away(hooks: HookOffice, mia: Browser) -> None:
    one = await pilot(hooks, mia)
    await one.send()
    _, started = await one.ask("POST", "/deliveries/replays", EVERYTHING)

    class Away:
        def __init__(self) -> None:
            self.left = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(hooks.store, name)

        async def claim_bulk(self, *args: Any) -> Any:
            self.left -= 1
            if self.left > 0:
                raise StoreUnavailable("away")
            return await hooks.store.claim_bulk(*args)

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await run_replays(Away(), hooks.replayer, hooks.wake, poll_seconds=0.01)  # type: ignore[arg-type]

        nursery.start_soon(run)
        await wait_for(one, started["id"], "completed")
        nursery.cancel_scope.cancel()
