"""The pages for people, as a browser without a script sees them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.http.console import pages
from gateway.http.console.language import LANGUAGES
from gateway.postgres.pool import Pool
from support.people import PASSWORD, Browser, Office, open_office, page_words

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
    proof = re.findall(r'name="proof" value="(\w+)"', text)[0]
    browser.origin = "null"  # what browsers send from a page without a Referer
    response, text = await post(browser, "/lark/bind", token=token, proof=proof)
    assert (response.status_code, state(text)) == (200, "done")
    response, text = await post(browser, "/lark/bind", token=token, proof=proof)
    assert (response.status_code, state(text)) == (410, "over")


async def test_form_of_another_site_cannot_bind(office: Office) -> None:
    browser, token = await office.signed_in("bob@acme.example"), await office.link_token()
    for proof in ("", "0" * 64, "ü"):
        response, text = await post(browser, "/lark/bind", token=token, proof=proof)
        assert (response.status_code, state(text)) == (400, "other")
    assert await office.sql("select * from channel_user_binding") == []


@pytest.mark.parametrize(
    ("role", "taken", "status", "shown"), [(None, False, 403, "not_member"), ("member", True, 409, "taken")]
)
async def test_bind_page_tells_refusals_apart_and_points_to_an_admin(
    office: Office, role: str | None, taken: bool, status: int, shown: str
) -> None:
    browser, token = await office.signed_in("bob@acme.example", role), await office.link_token()
    if taken:
        await office.people.bindings.bind(office.installation_id, "ou_eve", office.place.owner_email)
    _, text = await get(browser, f"/lark/bind?token={token}")
    proof = re.findall(r'name="proof" value="(\w+)"', text)[0]
    response, text = await post(browser, "/lark/bind", token=token, proof=proof)
    assert (response.status_code, state(text)) == (status, shown)
    assert EN[shown] in text
    assert EN["admin_hint"] in text


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
    assert response.headers["Referrer-Policy"] == ("same-origin" if path.startswith("/login") else "no-referrer")
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
