"""Redeeming a link, and the page that does it, by cases."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.lark.chat.channel import TITLES
from gateway.postgres.pool import Pool
from support.people import Browser, Office, open_office

CASES = json.loads((Path(__file__).parent / "cases" / "binding.json").read_text())
REDEEM = "/api/lark/binding/redeem"
SHOWN = {"needs-auth": "needs_auth", "missing_token": "missing"}
"""The state's name on the page, where a case calls it otherwise."""


def cases(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("given", "expected"),
        [pytest.param(case["input"], case["expected"], id=case["name"]) for case in CASES[group]],
    )


async def _redeeming(pool: Pool, situation: str) -> tuple[Office, Browser, str]:
    """The office, the browser and the token of a situation."""
    office = await open_office(pool, platforms=() if situation == "integration not configured" else (TITLES,))
    browser = await office.signed_in("bob@acme.example", None if situation == "redeemer not in workspace" else "member")
    token = await office.link_token()
    match situation:
        case "second valid token, open id already bound to same user":
            assert (await browser.ask("POST", REDEEM, {"token": await office.link_token()}))[0] == 200
        case "token already used":
            assert (await browser.ask("POST", REDEEM, {"token": token}))[0] == 200
        case "open id bound to a different user":
            await office.people.bindings.bind(office.installation_id, "ou_eve", office.place.owner_email)
        case "token expired":
            await office.sql("update channel_binding_token set expires_at = now()")
        case "token unknown":
            token = "A" * 43
        case "blank token":
            token = "  "
    return office, browser, token


@cases("binding_redeem")
async def test_redeem_in_this_situation_answers_as_expected(pool: Pool, given: str, expected: dict[str, Any]) -> None:
    office, browser, token = await _redeeming(pool, given)
    status, _ = await browser.ask("POST", REDEEM, {"token": token})
    assert status == expected["status"]
    if expected.get("token_still_usable"):
        assert await office.sql("select consumed_at from channel_binding_token") == [(None,)]
        await office.sql("delete from channel_user_binding")
        other = await office.signed_in("carol@acme.example")
        assert (await other.ask("POST", REDEEM, {"token": token}))[0] == 200


_SITUATION_OF = {
    200: "valid token",
    403: "redeemer not in workspace",
    409: "open id bound to a different user",
    410: "token already used",
    503: "integration not configured",
}


@cases("bind_page")
async def test_bind_page_in_this_situation_shows_what_is_expected(
    pool: Pool, given: dict[str, Any], expected: str
) -> None:
    _, browser, token = await _redeeming(pool, _SITUATION_OF[given.get("http", 200)])
    path = "/lark/bind" if "token" in given else f"/lark/bind?token={token}"
    if given.get("auth") != "user":
        browser.client.cookie_jar.clear()
    text = await _text(browser, "GET", path)
    proof = (re.findall(r'name="proof" value="(\w+)"', text) or [""])[0]
    # There is a button only for what its press would do; what it would not do is said at once.
    assert bool(proof) is (given.get("http") == 200)
    if proof:
        text = await _text(browser, "POST", "/lark/bind", token=token, proof=proof)
    if expected.startswith("/login"):
        assert f'href="/login?{urlencode({"next": path})}"' in text
    else:
        (state,) = re.findall(r'role="status"[^>]*><div data-state="(\w+)"', text)
        assert state == SHOWN.get(expected, expected)


async def _text(browser: Browser, method: str, path: str, **fields: str) -> str:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await browser.send(method, path, urlencode(fields).encode(), **form)
    return unescape((await response.get_data()).decode())
