"""The server at `https://gateway.example/gw`, behind a proxy that passes the path on or removes it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.postgres.pool import Pool
from support.people import PASSWORD, Browser, Office, open_office

PUBLIC_URL = "https://gateway.example/gw"
ORIGIN = "https://gateway.example"


class Visitor:
    """A browser that keeps one cookie, asks for paths below /gw only, and reaches the server through a proxy."""

    def __init__(self, office: Office, *, keeps_prefix: bool) -> None:
        self._office = office
        self._keeps_prefix = keeps_prefix
        self.cookie = ""
        self.cookie_attributes = ""

    async def ask(self, method: str, path: str, fields: dict[str, str] | None = None) -> tuple[Any, str]:
        assert path.startswith("/gw/"), path
        browser: Browser = self._office.browser(origin=ORIGIN)
        body = None if fields is None else urlencode(fields).encode()
        headers = {} if fields is None else {"Content-Type": "application/x-www-form-urlencoded"}
        if self.cookie:
            headers["Cookie"] = self.cookie
        passed = path if self._keeps_prefix else path.removeprefix("/gw")
        response = await browser.send(method, passed, body, **headers)
        if set_cookie := response.headers.get("Set-Cookie"):
            self.cookie, _, self.cookie_attributes = set_cookie.partition("; ")
        return response, unescape((await response.get_data()).decode())


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool, public_url=PUBLIC_URL)


@pytest.fixture(params=["kept", "removed"])
def visitor(office: Office, request: pytest.FixtureRequest) -> Visitor:
    return Visitor(office, keeps_prefix=request.param == "kept")


def addresses(text: str) -> list[str]:
    found = re.findall(r'(?:href|src|action)="([^"]*)"', text)
    assert found
    return found


async def test_person_binds_an_account_without_leaving_the_path(office: Office, visitor: Visitor) -> None:
    await office.add_person("bob@acme.example")
    token = await office.link_token()
    _, text = await visitor.ask("GET", f"/gw/lark/bind?token={token}")
    assert {address.startswith("/gw/") for address in addresses(text)} == {True}
    for stylesheet in re.findall(r'href="([^"]*\.css)"', text):
        answer, _ = await visitor.ask("GET", stylesheet)
        assert answer.status_code == 200
    (sign_in,) = re.findall(r'class="button" href="([^"]*)"', text)
    _, text = await visitor.ask("GET", sign_in)
    assert {address.startswith("/gw/") for address in addresses(text)} == {True}
    (action,), (target,) = re.findall(r'action="([^"]*)"', text), re.findall(r'name="next" value="([^"]*)"', text)
    fields = {"next": target, "email": "bob@acme.example", "password": PASSWORD}
    answer, _ = await visitor.ask("POST", action, fields)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/gw/lark/bind?token={token}")
    assert "Path=/gw" in visitor.cookie_attributes.split("; ")
    _, text = await visitor.ask("GET", answer.headers["Location"])
    assert {address.startswith("/gw/") for address in addresses(text)} == {True}
    (action,), (proof,) = re.findall(r'action="([^"]*)"', text), re.findall(r'name="proof" value="(\w+)"', text)
    _, text = await visitor.ask("POST", action, {"token": token, "proof": proof})
    assert 'data-state="done"' in text


async def test_redirects_stay_below_the_path(office: Office, visitor: Visitor) -> None:
    answer, _ = await visitor.ask("GET", "/gw/issues/ACM-1")
    assert answer.headers["Location"] == "/gw/login?next=%2Fgw%2Fissues%2FACM-1"
    await office.add_person("bob@acme.example")
    fields = {"email": "bob@acme.example", "password": PASSWORD}
    answer, _ = await visitor.ask("POST", "/gw/login", fields)
    assert answer.headers["Location"] == "/gw/login"
    # The address of a page as it would be without the proxy leads below the path too.
    answer, _ = await visitor.ask("POST", "/gw/login", fields | {"next": "/issues/ACM-1"})
    assert answer.headers["Location"] == "/gw/issues/ACM-1"
    workspace = office.place.workspace_id
    ((prefix, slug),) = await office.sql("select issue_prefix, slug from workspace where id = %s", workspace)
    await office.sql(
        "insert into issue (id, workspace_id, number, title) values (gen_random_uuid(), %s, 7, 'x') returning id",
        workspace,
    )
    answer, _ = await visitor.ask("GET", f"/gw/issues/{prefix}-7")
    assert answer.headers["Location"] == f"/gw/{slug}/issues/{prefix}-7"
    answer, text = await visitor.ask("GET", answer.headers["Location"])
    assert answer.status_code == 200
    assert {address.startswith("/gw/") for address in addresses(text)} == {True}


async def test_path_that_only_begins_like_the_mount_is_another_one(office: Office) -> None:
    for path in ("/gwen/healthz", "/gw", "/gw/gw/healthz"):
        response = await office.browser().send("GET", path)
        assert response.status_code == 404, path
    for path in ("/gw/healthz", "/healthz"):
        response = await office.browser().send("GET", path)
        assert response.status_code == 200, path


async def test_origin_is_compared_as_browsers_write_it(pool: Pool) -> None:
    office = await open_office(pool, public_url="https://Gateway.Example:443/gw")
    await office.add_person("bob@acme.example")
    for origin, status in ((ORIGIN, 200), ("https://gateway.example:444", 403), ("http://gateway.example:443", 403)):
        browser = office.browser(origin=origin)
        assert await browser.sign_in("bob@acme.example") == status, origin
