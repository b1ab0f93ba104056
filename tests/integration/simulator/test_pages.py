"""The pages for people, in a real browser: a picture in the chat, and the page behind a scanned code."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from gateway.simulator import Simulator, open_simulator
from gateway.simulator.resources import Attachment
from gateway.simulator.simulator import Utterance
from support.chromium import browse

# Three pixels wide, so that a picture that is shown differs from one that is not.
PICTURE = base64.b64decode("R0lGODlhAwABAIAAAP8AAAAAACwAAAAAAwABAAACAoRRADs=")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with open_simulator() as simulator:
        simulator.create_person("Ada")
        yield simulator


async def test_chat_shows_a_picture_and_links_a_file(simulator: Simulator) -> None:
    ada, app = simulator.platform.person("Ada"), simulator.create_app("Echo")
    simulator.say(ada, app, Utterance(attachments=[Attachment("image", "red.gif", "image/gif", PICTURE)]))
    simulator.say(ada, app, Utterance(attachments=[Attachment("file", "plan.pdf", data=b"plan")]))

    def visit(page: Page) -> None:
        page.goto(f"{simulator.base_url}/")
        expect(page.get_by_alt_text("red.gif")).to_have_js_property("naturalWidth", 3)
        with page.expect_download() as download:
            page.get_by_role("link", name="plan.pdf").click()
        assert download.value.suggested_filename == "plan.pdf"

    await browse(visit)


@pytest.mark.parametrize(("button", "state"), [("Authorise", "authorized"), ("Refuse", "denied")])
async def test_scanned_code_shows_what_is_asked_and_takes_the_decision(
    simulator: Simulator, button: str, state: str
) -> None:
    told = simulator.scans.begin("lark", simulator.base_urls["lark"], simulator.clock.now())
    url = told["verification_uri_complete"] + "&" + urlencode({"name": "Helper of {user}", "desc": "<b>helps</b>"})

    def visit(page: Page) -> None:
        page.goto(url)
        expect(page.get_by_text("<b>helps</b>")).to_be_visible()
        page.get_by_role("button", name=button).click()
        expect(page.get_by_role("heading", name=f"This code is {state}")).to_be_visible()
        expect(page.get_by_role("button", name=button)).to_be_disabled()

    await browse(visit)
    [scan] = simulator.scans.all()
    assert scan.state == state
    assert [(app.name, app.region) for app in simulator.platform.apps.values()] == (
        [("Helper of Ada", "lark")] if state == "authorized" else []
    )
