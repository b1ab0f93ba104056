"""The way from a bot's link to "bound", in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from playwright.sync_api import Page, expect

from gateway.core.introduction import Introduction
from gateway.http.server import serve_http
from gateway.postgres.pool import Pool
from support.chromium import browse
from support.people import PASSWORD, Introductions, Office, open_office, page_words

EMAIL = "bob@acme.example"


@asynccontextmanager
async def serving(office: Office) -> AsyncIterator[str]:
    stop = trio.Event()
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(
                partial(serve_http, office.app, "127.0.0.1:0", stop=stop, graceful_seconds=1, keep_alive_seconds=5)
            )
            stop.set()


def sign_in(page: Page, words: dict[str, str]) -> None:
    page.get_by_role("link", name=words["sign_in"]).click()
    page.get_by_label(words["email"]).fill(EMAIL)
    page.get_by_label(words["password"]).fill(PASSWORD)
    page.get_by_role("button", name=words["sign_in"]).click()


@pytest.mark.parametrize(("locale", "language"), [("en-GB", "en"), ("zh-CN", "zh-Hans")])
async def test_person_opens_the_link_signs_in_and_is_bound(pool: Pool, locale: str, language: str) -> None:
    office = await open_office(pool, introductions=Introductions(Introduction("Eve", "Ada in Lark")))
    person, token = await office.add_person(EMAIL), await office.link_token()
    words = page_words(language)
    seen: list[tuple[str, str]] = []  # every request's address and Referer
    problems: list[str] = []

    def visit(url: str, page: Page) -> None:
        page.on("request", lambda request: seen.append((request.url, request.headers.get("referer", ""))))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{url}/lark/bind?token={token}")
        sign_in(page, words)
        expect(page.locator("#person")).to_contain_text("Eve")
        expect(page.locator("#bot")).to_contain_text("Ada in Lark")
        expect(page.locator("#account")).to_contain_text(EMAIL)
        page.get_by_role("button", name=words["bind"]).dblclick()
        expect(page.get_by_role("status")).to_have_text(words["done"])
        assert all(address.startswith(url) for address, _ in seen)
        assert not [referrer for _, referrer in seen if token in referrer]
        page.goto(f"{url}/lark/bind?token={token}")
        expect(page.get_by_role("status")).to_have_text(words["over"])

    async with serving(office) as url:
        await browse(partial(visit, url), locale=locale)
    assert [text for text in problems if "410" not in text] == []  # the second visit's answer, which browsers note
    assert await office.sql("select user_id, channel_user_id from channel_user_binding") == [(person.id, "ou_eve")]


async def test_person_without_scripts_is_bound_by_the_button(pool: Pool) -> None:
    office = await open_office(pool)
    person, token = await office.add_person(EMAIL), await office.link_token()
    words = page_words("en")

    def visit(url: str, page: Page) -> None:
        page.goto(f"{url}/lark/bind?token={token}")
        sign_in(page, words)
        page.get_by_role("button", name=words["bind"]).click()
        expect(page.get_by_role("status")).to_have_text(words["done"])

    async with serving(office) as url:
        await browse(partial(visit, url), scripts=False)
    assert await office.sql("select user_id from channel_user_binding") == [(person.id,)]


async def test_stranger_with_the_link_is_refused_and_told_whom_to_ask(pool: Pool) -> None:
    office = await open_office(pool)
    await office.add_person(EMAIL, role=None)
    token, words = await office.link_token(), page_words("en")

    def visit(url: str, page: Page) -> None:
        page.goto(f"{url}/lark/bind?token={token}")
        sign_in(page, words)
        expect(page.get_by_role("status")).to_contain_text(words["not_member"])
        expect(page.get_by_role("status")).to_contain_text(words["admin_hint"])

    async with serving(office) as url:
        await browse(partial(visit, url))
    assert await office.sql("select consumed_at from channel_binding_token") == [(None,)]


async def test_link_that_a_stranger_sent_shows_their_name_and_binds_nothing_unless_pressed(pool: Pool) -> None:
    office = await open_office(pool, introductions=Introductions(Introduction("Mallory of Elsewhere")))
    await office.add_person(EMAIL)
    token, words = await office.link_token("ou_mallory"), page_words("en")

    def visit(url: str, page: Page) -> None:
        link = f"{url}/lark/bind?token={token}"
        page.goto(link)
        sign_in(page, words)
        for _ in range(2):
            expect(page.locator("#person")).to_contain_text("Mallory of Elsewhere")
            expect(page.locator("#person")).to_contain_text("…allory")
            expect(page.get_by_text(words["consequence"])).to_be_visible()
            page.reload()
        page.context.clear_cookies()  # the session ends while the page is open
        page.get_by_role("button", name=words["bind"]).click()
        expect(page.get_by_role("status")).to_contain_text(words["needs_auth"])
        page.set_content(f'<iframe src="{link}"></iframe>')
        expect(page.frame_locator("iframe").locator("body")).not_to_contain_text(words["needs_auth"])

    async with serving(office) as url:
        await browse(partial(visit, url))
    assert await office.sql("select * from channel_user_binding") == []
    assert await office.sql("select consumed_at from channel_binding_token") == [(None,)]
