"""Signing in, redeeming links and looking after bindings, over the routes, on a real Postgres."""

from __future__ import annotations

import hashlib
from datetime import datetime
from ipaddress import ip_network
from uuid import uuid4

import pytest
import trio
from argon2 import PasswordHasher
from structlog.testing import capture_logs

from gateway.core.introduction import Introduction
from gateway.postgres.pool import Pool
from support.people import PASSWORD, QUICK, Browser, Introductions, Office, open_office

PREVIEW = "/api/lark/binding/preview"
REDEEM = "/api/lark/binding/redeem"


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool)


# --- signing in -------------------------------------------------------------------------------------------------------


async def test_sign_in_opens_a_session_that_me_and_logout_know(office: Office) -> None:
    person = await office.add_person("bob@acme.example")
    browser = office.browser()
    assert (await browser.ask("GET", "/api/me"))[0] == 401
    assert await browser.sign_in(" Bob@ACME.example ") == 200
    status, me = await browser.ask("GET", "/api/me")
    assert (status, me["id"], me["email"]) == (200, str(person.id), "bob@acme.example")
    workspace = str(office.place.workspace_id)
    assert me["workspaces"] == [{"id": workspace, "name": "acme", "slug": "acme", "role": "member"}]
    assert (await browser.ask("POST", "/api/auth/logout"))[0] == 204
    assert (await browser.ask("GET", "/api/me"))[0] == 401
    assert await office.sql("select * from user_session") == []


async def test_session_cookie_is_out_of_reach_and_only_its_hash_is_stored(office: Office) -> None:
    await office.add_person("bob@acme.example")
    response = await office.browser().send(
        "POST", "/api/auth/login", {"email": "bob@acme.example", "password": PASSWORD}
    )
    cookie = response.headers["Set-Cookie"]
    secret = cookie.split(";")[0].partition("=")[2]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    rows = await office.sql(
        "select token_hash, expires_at - created_at = '14 days', to_jsonb(s)::text from user_session s"
    )
    assert rows[0][:2] == (hashlib.sha256(secret.encode()).hexdigest(), True)
    assert secret not in rows[0][2]


async def test_session_cookie_of_an_https_address_is_secure(pool: Pool) -> None:
    office = await open_office(pool, public_url="https://gateway.example")
    await office.add_person("bob@acme.example")
    browser = office.browser(origin="https://gateway.example")
    response = await browser.send("POST", "/api/auth/login", {"email": "bob@acme.example", "password": PASSWORD})
    assert "Secure" in response.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("bob@acme.example", "wrong"),
        ("nobody@acme.example", PASSWORD),
        ("owner@acme.example", PASSWORD),  # has no password
        ("bob@acme.example", PASSWORD + "x" * 2000),
        ("bob@acme.example\0", PASSWORD),
        ("x" * 300 + "@acme.example", PASSWORD),
        ("", ""),
    ],
)
async def test_wrong_pair_is_401_in_the_same_words(office: Office, email: str, password: str) -> None:
    await office.add_person("bob@acme.example")
    status, answer = await office.browser().ask("POST", "/api/auth/login", {"email": email, "password": password})
    assert (status, answer["code"]) == (401, "invalid_credentials")
    assert await office.sql("select * from user_session") == []


async def test_unknown_address_is_checked_as_long_as_a_known_one(office: Office) -> None:
    await office.add_person("bob@acme.example")
    office.people.accounts._passwords = passwords = Recording()
    for email in ("bob@acme.example", "nobody@acme.example"):
        assert await office.browser().sign_in(email, "wrong") == 401
    known, unknown = (stored.rsplit("$", 2)[0] for stored in passwords.checked)
    assert known == unknown  # the same algorithm with the same costs


class Recording(PasswordHasher):
    """Notes against what passwords are checked."""

    def __init__(self) -> None:
        super().__init__(time_cost=QUICK.time_cost, memory_cost=QUICK.memory_cost, parallelism=QUICK.parallelism)
        self.checked: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:
        self.checked.append(str(hash))
        return bool(super().verify(hash, password))


async def test_session_is_over_by_the_clock_of_the_database(office: Office) -> None:
    browser = await office.signed_in("bob@acme.example")
    await office.sql("update user_session set expires_at = now()")
    assert (await browser.ask("GET", "/api/me"))[0] == 401


@pytest.mark.parametrize("body", [b"", b"{", b'{"email": 1, "password": "x"}', b'{"email": "a@b"}', b'{"a":"\\ud800"}'])
async def test_login_with_a_bad_body_is_400(office: Office, body: bytes) -> None:
    assert (await office.browser().ask("POST", "/api/auth/login", body))[0] == 400


def _from(office: Office, address: str) -> Browser:
    return office.browser(peer=address)


async def test_sign_in_is_locked_for_the_address_that_failed_and_not_for_the_owner(office: Office) -> None:
    await office.add_person("bob@acme.example")
    owner, thief = _from(office, "198.51.100.1"), _from(office, "203.0.113.66")
    answers = [await thief.sign_in("bob@acme.example", "wrong") for _ in range(11)]
    assert answers == [401] * 10 + [429]
    response = await thief.send("POST", "/api/auth/login", {"email": "BOB@acme.example", "password": PASSWORD})
    assert response.status_code == 429
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert await thief.sign_in("eve@acme.example", "wrong") == 401
    for number in range(3):
        assert await _from(office, f"192.0.2.{number}").sign_in("bob@acme.example", "wrong") == 401
    assert await owner.sign_in("bob@acme.example") == 200


async def test_sign_in_counts_no_success(office: Office) -> None:
    browser = await office.signed_in("bob@acme.example")
    assert {await browser.sign_in("bob@acme.example") for _ in range(12)} == {200}


async def test_flood_of_attempts_is_refused_while_a_familiar_owner_gets_in(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.add_person("bob@acme.example")
    owner = _from(office, "198.51.100.1")
    assert await owner.sign_in("bob@acme.example") == 200
    accounts = office.people.accounts
    await accounts._room.acquire_on_behalf_of("one")
    await accounts._room.acquire_on_behalf_of("other")
    monkeypatch.setattr("gateway.work.people.accounts.VERIFICATIONS_WAITING_MAX", 3)
    answers: list[int] = []

    async def attack(number: int) -> None:
        answers.append(await _from(office, f"192.0.2.{number}").sign_in("bob@acme.example", "wrong"))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(attack, number)
            while len(answers) < 5:
                await trio.lowlevel.checkpoint()
            assert answers == [429] * 5
            assert await owner.sign_in("bob@acme.example") == 200
            accounts._room.release_on_behalf_of("one")
            accounts._room.release_on_behalf_of("other")
    assert sorted(answers) == [401] * 3 + [429] * 5


async def test_sign_in_is_throttled_per_address_that_only_a_trusted_proxy_may_name(pool: Pool) -> None:
    office = await open_office(pool, trusted_proxies=(ip_network("10.0.0.0/8"),))
    attempts = iter(range(1000))

    async def attempt(peer: str, forwarded: str) -> int:
        browser = office.browser(headers={"X-Forwarded-For": forwarded, "Remote-Addr": peer})
        client = office.app.test_client()
        body = {"email": f"p{next(attempts)}@acme.example", "password": "wrong"}
        response = await client.post(
            "/api/auth/login", json=body, headers=browser.headers, scope_base={"client": (peer, 1)}
        )
        return int(response.status_code)

    for number in range(30):
        assert await attempt("192.0.2.1", f"198.51.100.{number}") == 401
    assert await attempt("192.0.2.1", "203.0.113.9") == 429
    assert await attempt("10.1.1.1", "203.0.113.9, 10.2.2.2") == 401
    for number in range(29):
        assert await attempt("10.1.1.1", f"198.51.100.{number}, 203.0.113.9") == 401
    assert await attempt("10.1.1.1", "203.0.113.9") == 429
    assert await attempt("10.1.1.1", "203.0.113.10") == 401


# --- who may use a cookie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", [None, "null", "https://gateway.example", "http://evil.example", "http://gateway.example:81"]
)
async def test_change_with_a_cookie_from_elsewhere_is_403(office: Office, origin: str | None) -> None:
    browser = await office.signed_in("bob@acme.example")
    token = await office.link_token()
    browser.origin = origin
    for path, body in ((PREVIEW, {"token": token}), (REDEEM, {"token": token}), ("/api/auth/logout", None)):
        status, answer = await browser.ask("POST", path, body)
        assert (status, answer["code"]) == (403, "foreign_origin")
    assert (await browser.ask("GET", "/api/me"))[0] == 200
    browser.origin = "http://gateway.example"
    assert (await browser.ask("POST", REDEEM, {"token": token}))[0] == 200


async def test_other_sites_cannot_sign_somebody_in(office: Office) -> None:
    await office.add_person("eve@acme.example")
    assert await office.browser(origin="http://evil.example").sign_in("eve@acme.example") == 403
    assert await office.browser(origin=None).sign_in("eve@acme.example") == 200


async def test_configured_address_is_an_origin_of_ours(pool: Pool) -> None:
    office = await open_office(pool, public_url="https://bots.example/gateway")
    browser = office.browser(origin="https://bots.example")
    await office.add_person("bob@acme.example")
    assert await browser.sign_in("bob@acme.example") == 200


async def test_bearer_token_needs_no_origin(office: Office) -> None:
    person = await office.add_person("bob@acme.example")
    _, secret = await office.people.directory.add_user_token(person)
    browser = office.browser(origin=None, headers={"Authorization": f"Bearer {secret}"})
    assert (await browser.ask("GET", "/api/me"))[1]["email"] == "bob@acme.example"
    assert (await browser.ask("POST", REDEEM, {"token": await office.link_token()}))[0] == 200


async def test_garbage_cookie_is_nobody(office: Office) -> None:
    for value in ("x", "gws_" + "A" * 43, "gws_" + "x" * 5000, "gwr_" + "A" * 43):
        browser = office.browser(headers={"Cookie": f"gateway_session={value}"})
        assert (await browser.ask("GET", "/api/me"))[0] == 401


# --- redeeming --------------------------------------------------------------------------------------------------------


async def test_redeem_answers_who_was_bound_where(office: Office) -> None:
    browser = await office.signed_in("bob@acme.example")
    answer = await browser.ask("POST", REDEEM, {"token": await office.link_token()})
    assert answer == (
        200,
        {
            "workspace_id": str(office.place.workspace_id),
            "installation_id": str(office.installation_id),
            "lark_open_id": "ou_eve",
        },
    )


async def test_redeem_answers_every_case_by_its_status(office: Office) -> None:
    bob = await office.signed_in("bob@acme.example")
    stranger = await office.signed_in("thief@else.example", role=None)
    carol = await office.signed_in("carol@acme.example")
    token, second, third = [await office.link_token() for _ in range(3)]
    assert (await office.browser().ask("POST", REDEEM, {"token": token}))[0] == 401
    for bad in (b"{", b'{"token": ""}', b'{"token": "  "}', b'{"token": 7}', b"{}"):
        assert (await bob.ask("POST", REDEEM, bad))[0] == 400
    assert (await stranger.ask("POST", REDEEM, {"token": token}))[0] == 403
    assert (await bob.ask("POST", REDEEM, {"token": token}))[0] == 200
    assert (await bob.ask("POST", REDEEM, {"token": token}))[0] == 410
    assert (await bob.ask("POST", REDEEM, {"token": second}))[0] == 200
    assert (await carol.ask("POST", REDEEM, {"token": third}))[0] == 409
    assert (await bob.ask("POST", REDEEM, {"token": "A" * 43}))[0] == 410


async def test_preview_names_who_would_be_bound_to_what_and_burns_nothing(pool: Pool) -> None:
    introductions = Introductions(Introduction("Eve", "Ada in Lark"))
    office = await open_office(pool, introductions=introductions)
    bob, token = await office.signed_in("bob@acme.example"), await office.link_token()
    person = await office.people.directory.user("bob@acme.example")
    for _ in range(2):
        status, told = await bob.ask("POST", PREVIEW, {"token": token})
        assert status == 200
        ((asked_at,),) = await office.sql("select created_at from channel_binding_token")
        assert datetime.fromisoformat(told["person"].pop("asked_at")) == asked_at
        assert told == {
            "workspace": {"id": str(office.place.workspace_id), "name": "acme", "slug": "acme"},
            "bot": {
                "installation_id": str(office.installation_id),
                "name": "Ada in Lark",
                "agent": {"id": str(office.place.agent_id), "name": "ada"},
            },
            "person": {"name": "Eve", "lark_open_id": "ou_eve"},
            "account": {"id": str(person.id), "email": "bob@acme.example", "name": "Somebody"},
        }
    introductions.told = Introduction()
    _, told = await bob.ask("POST", PREVIEW, {"token": token})
    assert (told["person"]["name"], told["bot"]["name"]) == (None, "ada")
    await office.sql("delete from agent")
    _, told = await bob.ask("POST", PREVIEW, {"token": token})
    assert (told["bot"]["name"], told["bot"]["agent"]) == ("cli_0123456789abcdef", None)
    assert introductions.asked == [("feishu", office.installation_id, "ou_eve")] * 4
    assert await office.sql("select consumed_at from channel_binding_token") == [(None,)]
    assert (await bob.ask("POST", REDEEM, {"token": token}))[0] == 200


async def test_preview_answers_every_case_as_redeem_would_and_strangers_learn_nothing(pool: Pool) -> None:
    introductions = Introductions(Introduction("Eve", "Ada in Lark"))
    office = await open_office(pool, introductions=introductions)
    bob, carol = await office.signed_in("bob@acme.example"), await office.signed_in("carol@acme.example")
    stranger = await office.signed_in("thief@else.example", role=None)
    used, free, other = await office.link_token(), await office.link_token(), await office.link_token("ou_other")
    assert (await bob.ask("POST", REDEEM, {"token": used}))[0] == 200
    assert (await office.browser().ask("POST", PREVIEW, {"token": free}))[0] == 401
    strangers = [await stranger.ask("POST", PREVIEW, {"token": token}) for token in (free, other)]
    assert strangers[0] == strangers[1]  # whether the account is bound by now is no business of theirs
    for browser, token in (
        (stranger, free), (bob, used), (bob, "A" * 43), (bob, "short"), (bob, "  "), (carol, free), (bob, free)
    ):  # fmt: skip
        status, told = await browser.ask("POST", PREVIEW, {"token": token})
        again = await browser.ask("POST", REDEEM, {"token": token})
        assert status == again[0]
        assert status == 200 or told == again[1]
    assert [asked[2] for asked in introductions.asked] == ["ou_eve"]  # only for the one who may go on
    for bad in (b"{", b'{"token": 7}', b"{}"):
        assert (await bob.ask("POST", PREVIEW, bad))[0] == 400
    late = await office.link_token("ou_late")
    await office.sql("update channel_binding_token set expires_at = now()")
    assert (await bob.ask("POST", PREVIEW, {"token": late}))[0] == 410


async def test_links_are_read_and_redeemed_so_often_a_minute_and_person(office: Office) -> None:
    bob, carol = await office.signed_in("bob@acme.example"), await office.signed_in("carol@acme.example")
    answers = [(await bob.ask("POST", (PREVIEW, REDEEM)[n % 2], {"token": "A" * 43}))[0] for n in range(31)]
    assert answers == [410] * 30 + [429]
    assert (await carol.ask("POST", PREVIEW, {"token": "A" * 43}))[0] == 410


async def test_redeem_of_one_token_twice_at_once_is_one_200_and_one_410(office: Office) -> None:
    browsers = [await office.signed_in(f"p{number}@acme.example") for number in range(2)]
    token = await office.link_token()
    answers: list[int] = []

    async def redeem(number: int) -> None:
        answers.append((await browsers[number].ask("POST", REDEEM, {"token": token}))[0])

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(redeem, number)
    assert sorted(answers) == [200, 410]


async def test_redeem_where_lark_is_off_is_503(pool: Pool) -> None:
    office = await open_office(pool, platforms=())
    browser = await office.signed_in("bob@acme.example")
    assert (await browser.ask("POST", REDEEM, {"token": "A" * 43}))[0] == 503
    assert (await office.browser().ask("POST", REDEEM, {"token": "A" * 43}))[0] == 401


async def test_tokens_passwords_and_sessions_reach_neither_logs_nor_metrics(office: Office) -> None:
    token = await office.link_token()
    with capture_logs() as logs:
        browser = await office.signed_in("bob@acme.example")
        for _ in range(2):
            await browser.ask("POST", f"{REDEEM}?token={token}", {"token": token})
    text = str(logs) + office.metrics.render().decode()
    assert token not in text
    assert PASSWORD not in text
    assert "gws_" not in text


# --- looking after bindings -------------------------------------------------------------------------------------------


async def test_bindings_are_read_by_members_and_deleted_by_admins(office: Office) -> None:
    bob, admin = await office.signed_in("bob@acme.example"), await office.signed_in("admin@acme.example", "admin")
    await bob.ask("POST", REDEEM, {"token": await office.link_token()})
    path = f"/api/workspaces/acme/lark/installations/{office.installation_id}/bindings"
    status, listed = await bob.ask("GET", path)
    (binding,) = listed["bindings"]
    assert (status, binding["lark_open_id"], binding["email"]) == (200, "ou_eve", "bob@acme.example")
    assert (await bob.ask("DELETE", f"{path}/{binding['id']}"))[0] == 403
    assert (await admin.ask("DELETE", f"{path}/{uuid4()}"))[0] == 404
    assert (await admin.ask("DELETE", f"{path}/not-an-id"))[0] == 400
    assert (await admin.ask("DELETE", f"{path}/{binding['id']}"))[0] == 204
    assert await bob.ask("GET", path) == (200, {"bindings": []})


async def test_bindings_are_not_there_for_strangers_and_other_workspaces(office: Office) -> None:
    bob = await office.signed_in("bob@acme.example", "owner")
    stranger = await office.signed_in("thief@else.example", role=None)
    thief = await office.people.directory.user("thief@else.example")
    await office.people.directory.add_workspace("Elsewhere", "ELS", thief)
    await bob.ask("POST", REDEEM, {"token": await office.link_token()})
    (row,) = await office.sql("select id from channel_user_binding")
    own = f"/api/workspaces/{office.place.workspace_id}/lark/installations/{office.installation_id}/bindings"
    crossed = f"/api/workspaces/elsewhere/lark/installations/{office.installation_id}/bindings"
    for path in (own, crossed, "/api/workspaces/%00/lark/installations/x/bindings"):
        assert (await stranger.ask("GET", path))[0] == 404
        assert (await stranger.ask("DELETE", f"{path}/{row[0]}"))[0] == 404
    assert (await office.browser().ask("GET", own))[0] == 401
    assert len((await bob.ask("GET", own))[1]["bindings"]) == 1
