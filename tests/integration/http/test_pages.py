"""The pages for people, as a browser without a script sees them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.core.introduction import Introduction, plain_name
from gateway.http.console import pages
from gateway.http.console.language import LANGUAGES
from gateway.postgres.pool import Pool
from support.people import PASSWORD, Browser, Introductions, Office, open_office, page_words

EN = page_words("en")


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool)


async def get(browser: Browser, path: str, **headers: str) -> tuple[Any, str]:
    response = await browser.send("GET", path, **headers)
    return response, unescape((await response.get_data()).decode())


async def post(browser: Browser, path: str, **fields: str) -> tuple[Any, str]:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await browser.send("POST", path, urlencode(fields).encode(), **form)
    return response, unescape((await response.get_data()).decode())


def state(text: str) -> str:
    return re.findall(r'role="status"[^>]*><div data-state="(\w+)"', text)[0]


def proof_of(text: str) -> str:
    return str(re.findall(r'name="proof" value="(\w+)"', text)[0])


async def test_bind_page_without_a_token_says_so(office: Office) -> None:
    for path in ("/lark/bind", "/lark/bind?token=", "/lark/bind?token=%20"):
        response, text = await get(office.browser(), path)
        assert (response.status_code, state(text)) == (400, "missing")
        assert EN["missing"] in text


async def test_bind_page_of_somebody_signed_out_links_to_sign_in_and_back(office: Office) -> None:
    response, text = await get(office.browser(), "/lark/bind?token=abc_-9")
    assert (response.status_code, state(text)) == (200, "needs_auth")
    assert 'href="/login?next=%2Flark%2Fbind%3Ftoken%3Dabc_-9"' in text
    assert "bind.js" not in text


async def test_person_signs_in_with_the_form_and_binds_with_the_button(office: Office) -> None:
    await office.add_person("bob@acme.example")
    browser, token = office.browser(), await office.link_token()
    bind = f"/lark/bind?token={token}"
    response, text = await get(browser, "/login?" + urlencode({"next": bind}))
    assert f'name="next" value="{bind}"' in text
    response, _ = await post(browser, "/login", next=bind, email="bob@acme.example", password=PASSWORD)
    assert (response.status_code, response.headers["Location"]) == (303, bind)
    response, text = await get(browser, bind)
    assert "bob@acme.example" in text
    assert "bind.js" in text
    assert await office.sql("select consumed_at from channel_binding_token") == [(None,)]
    proof = proof_of(text)
    for status, shown in ((200, "done"), (410, "over")):
        response, text = await post(browser, "/lark/bind", token=token, proof=proof)
        assert (response.status_code, state(text)) == (status, shown)


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example"])
async def test_form_of_another_site_cannot_bind(office: Office, origin: str | None) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token()
    _, text = await get(browser, f"/lark/bind?token={token}")
    browser.origin = origin
    response, text = await post(browser, "/lark/bind", token=token, proof=proof_of(text))
    assert (response.status_code, state(text)) == (403, "elsewhere")
    assert await office.sql("select * from channel_user_binding") == []


async def test_press_binds_nobody_but_the_account_that_the_page_named(office: Office) -> None:
    bob, token = await office.signed_in("bob@acme.example"), await office.link_token()
    carol = await office.signed_in("carol@acme.example")
    _, text = await get(bob, f"/lark/bind?token={token}")
    for proof in (proof_of(text), "", "0" * 64, "ü"):
        response, shown = await post(carol, "/lark/bind", token=token, proof=proof)
        assert response.status_code == 409
        assert EN["reader_changed"] in shown
        assert "carol@acme.example" in shown
    assert await office.sql("select * from channel_user_binding") == []
    response, text = await post(carol, "/lark/bind", token=token, proof=proof_of(shown))
    assert (response.status_code, state(text)) == (200, "done")


async def test_bind_page_names_the_lark_person_the_bot_and_the_reader(pool: Pool) -> None:
    hostile = "Eve <b>\u202eevE</b>\n" + "x" * 100
    office = await open_office(pool, introductions=Introductions(Introduction(plain_name(hostile), "Ada in Lark")))
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token("ou_0123456789eve")
    await office.sql(
        "update channel_binding_token set created_at = now() - interval '200 s', expires_at = now() + interval '9 min'"
    )
    response = await browser.send("GET", f"/lark/bind?token={token}")
    text = (await response.get_data()).decode()
    person, bot, account = (
        re.search(rf'(?s)<dd id="{part}">(.*?)</dd>', text) for part in ("person", "bot", "account")
    )
    assert person
    assert bot
    assert account
    assert "Eve &lt;b&gt;evE&lt;/b&gt; xxx" in person[1]
    assert "x" * 80 not in person[1]
    assert "…789eve" in person[1]
    assert EN["asked_minutes_ago"].format(minutes=3) in person[1]
    assert [word in bot[1] for word in ("Ada in Lark", "ada", "acme")] == [True] * 3
    assert "Somebody" in account[1]
    assert "bob@acme.example" in account[1]
    assert await office.sql("select consumed_at from channel_binding_token") == [(None,)]
    assert await office.sql("select * from channel_user_binding") == []


async def test_bind_page_without_a_name_from_the_platform_shows_id_and_age(office: Office) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token("ou_0123456789eve")
    _, text = await get(browser, f"/lark/bind?token={token}")
    assert EN["name_unknown"] in text
    assert "…789eve" in text
    assert EN["asked_just_now"] in text


async def test_bind_page_whose_session_or_link_ends_between_binds_nothing(office: Office) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token()
    _, text = await get(browser, f"/lark/bind?token={token}")
    proof = proof_of(text)
    await office.sql("update channel_binding_token set expires_at = now()")
    response, text = await post(browser, "/lark/bind", token=token, proof=proof)
    assert (response.status_code, state(text)) == (410, "over")
    await office.sql("delete from user_session")
    response, text = await post(browser, "/lark/bind", token=token, proof=proof)
    assert (response.status_code, state(text)) == (200, "needs_auth")
    assert f'href="/login?next=%2Flark%2Fbind%3Ftoken%3D{token}"' in text
    assert await office.sql("select * from channel_user_binding") == []


async def test_reader_signs_in_as_another_account_and_the_first_session_is_over(office: Office) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token()
    await office.add_person("carol@acme.example")
    bind = f"/lark/bind?token={token}"
    _, text = await get(browser, bind)
    switch = re.findall(r'href="(/login[^"]*)"', text)[0]
    response, text = await get(browser, switch)
    assert response.status_code == 200
    assert EN["signed_in_as"].format(email="bob@acme.example") in text
    assert f'name="next" value="{bind}"' in text
    response, _ = await post(browser, "/login", next=bind, email="carol@acme.example", password=PASSWORD)
    assert (response.status_code, response.headers["Location"]) == (303, bind)
    _, text = await get(browser, bind)
    assert "carol@acme.example" in text
    assert await office.sql("select count(*) from user_session") == [(1,)]


@pytest.mark.parametrize(
    ("role", "taken", "status", "shown"), [(None, False, 403, "not_member"), ("member", True, 409, "taken")]
)
async def test_bind_page_tells_refusals_apart_and_points_to_an_admin(
    pool: Pool, role: str | None, taken: bool, status: int, shown: str
) -> None:
    introductions = Introductions(Introduction("Eve", "Ada"))
    office = await open_office(pool, introductions=introductions)
    browser, token = await office.signed_in("bob@acme.example", role), await office.link_token()
    if taken:
        await office.people.bindings.bind(office.installation_id, "ou_eve", office.place.owner_email)
    response, text = await get(browser, f"/lark/bind?token={token}")
    assert (response.status_code, state(text)) == (status, shown)
    assert EN[shown] in text
    assert EN["admin_hint"] in text
    assert EN["sign_in_as_another"] in text
    assert "Eve" not in text
    assert "acme" not in text
    assert introductions.asked == []


async def test_member_who_is_removed_between_page_and_press_is_refused(office: Office) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token()
    _, text = await get(browser, f"/lark/bind?token={token}")
    await office.sql("delete from member where user_id <> %s", office.place.owner_id)
    response, text = await post(browser, "/lark/bind", token=token, proof=proof_of(text))
    assert (response.status_code, state(text)) == (403, "not_member")


async def test_bind_page_opened_again_and_again_is_throttled(office: Office) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token()
    for _ in range(31):
        response, text = await get(browser, f"/lark/bind?token={token}")
    assert (response.status_code, state(text)) == (429, "too_many")
    assert response.headers["Retry-After"] in EN["too_many"].format(seconds=response.headers["Retry-After"])


async def test_login_page_says_what_is_wrong_and_keeps_where_to_go(office: Office) -> None:
    browser = office.browser()
    response, text = await post(browser, "/login", next="/lark/bind?token=a", email="bob@x", password="wrong")
    assert response.status_code == 401
    assert EN["wrong_pair"] in text
    assert 'value="/lark/bind?token=a"' in text
    assert "wrong" not in re.sub(EN["wrong_pair"], "", text)
    for _ in range(10):
        response, text = await post(browser, "/login", email="bob@x", password="wrong")
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    browser.origin = "http://evil.example"
    response, text = await post(browser, "/login", email="bob@y", password="wrong")
    assert response.status_code == 403


async def test_signed_in_person_goes_on_and_only_within_this_server(office: Office) -> None:
    browser = await office.signed_in("bob@acme.example")
    response, _ = await get(browser, "/login?next=/lark/bind%3Ftoken%3Da")
    assert (response.status_code, response.headers["Location"]) == (303, "/lark/bind?token=a")
    response, text = await get(browser, "/login?next=https://evil.example")
    assert response.status_code == 200
    assert "bob@acme.example" in text
    response, _ = await post(browser, "/login", next="//evil.example", email="bob@acme.example", password=PASSWORD)
    assert response.headers["Location"] == "/login"


@pytest.mark.parametrize("path", ["/login?next=/x", "/lark/bind?token=abc", "/lark/bind"])
async def test_page_gives_nothing_away_and_loads_nothing_from_elsewhere(office: Office, path: str) -> None:
    response, text = await get(office.browser(), path)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Referrer-Policy"] == "strict-origin"
    assert response.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|https?://", text)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_page_speaks_the_language_of_its_reader(office: Office, language: str) -> None:
    for path, header in ((f"/login?lang={language}", "fr"), ("/login", f"{language},en;q=0.5")):
        response, text = await get(office.browser(), path, **{"Accept-Language": header})
        assert f'<html lang="{language}">' in text
        assert page_words(language)["sign_in_title"] in text
        assert response.headers["Content-Language"] == language


async def test_hostile_token_and_next_are_shown_as_text(office: Office) -> None:
    browser = await office.signed_in("bob@acme.example")
    hostile = '"><script>alert(1)</script>'
    for path in (f"/lark/bind?{urlencode({'token': hostile})}", f"/login?{urlencode({'next': '/' + hostile})}"):
        for one in (browser, office.browser()):
            data = await (await one.send("GET", path)).get_data()
            assert b"<script>alert" not in data


async def test_only_files_of_the_console_are_served(office: Office) -> None:
    response, _ = await get(office.browser(), "/static/bind.js")
    assert (response.status_code, response.mimetype) == (200, "text/javascript")
    for name in ("nothing.css", "..%2fpages.py", "%2e%2e/pages.py"):
        response, _ = await get(office.browser(), f"/static/{name}")
        assert response.status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"a&" * 8_193, 413), (b"a&" * 8_000, 400), (b"password=%FF", 400)],
    ids=["large", "many_fields", "not_text"],
)
async def test_form_that_the_page_never_sends_is_refused(office: Office, body: bytes, status: int) -> None:
    response = await office.browser().send(
        "POST", "/login", body, **{"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert response.status_code == status


async def test_form_is_not_read_from_elsewhere_or_beyond_the_limit(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "read_form", lambda: pytest.fail("the form was read"))
    response, _ = await post(office.browser(origin="https://evil.example"), "/login", email="a", password="b")
    assert response.status_code == 403
    monkeypatch.undo()
    for number in range(30):
        await post(office.browser(), "/login", email=f"nobody{number}@x", password="b")
    monkeypatch.setattr(pages, "read_form", lambda: pytest.fail("the form was read"))
    response, text = await post(office.browser(), "/login?next=/lark/bind?token=t", email="a", password="b")
    assert response.status_code == 429
    assert 'name="next" value="/lark/bind?token=t"' in text


async def test_login_form_keeps_where_to_go_in_its_address_too(office: Office) -> None:
    _, text = await get(office.browser(), "/login?next=/lark/bind%3Ftoken%3Da&lang=ja")
    assert 'action="/login?next=%2Flark%2Fbind%3Ftoken%3Da&lang=ja"' in text
