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


MARKDOWN = """## Report
**Done** with *care*, `code` and [the log](https://logs.example/1?a=(b)) or https://plain.example/x.
- one
- two

| key | value |
|---|---|
| a | <b>1</b> |

```py
print("<i>hi</i>")
```
[do not](javascript:alert(1)) <script>document.title = "taken"</script>"""
CARD = {
    "schema": "2.0",
    "header": {"title": {"tag": "plain_text", "content": "All is well"}},
    "body": {
        "elements": [
            {"tag": "markdown", "content": MARKDOWN},
            {"tag": "hr"},
            {"tag": "button", "text": {"tag": "plain_text", "content": "Open"}, "url": "https://open.example/"},
        ]
    },
}
POST = {"zh_cn": {"title": "Plan", "content": [[
    {"tag": "text", "text": "see ", "style": ["bold"]}, {"tag": "a", "text": "this", "href": "https://post.example/"},
    {"tag": "at", "user_id": "ou_x", "user_name": "Eve"},
]]}}  # fmt: skip


async def test_chat_draws_cards_markdown_and_links(simulator: Simulator) -> None:
    ada, app = simulator.platform.person("Ada"), simulator.create_app("Echo")
    simulator.say(ada, app, Utterance(message_type="interactive", content=CARD))
    simulator.say(ada, app, Utterance(message_type="post", content=POST))
    simulator.say(ada, app, Utterance("look at https://text.example/a?b=1, <b>please</b>"))

    def visit(page: Page) -> None:
        page.goto(f"{simulator.base_url}/")
        bubbles = page.locator("#messages > li")
        expect(bubbles).to_have_count(3)
        card, post, text = bubbles.all()
        expect(card.get_by_text("All is well")).to_be_visible()
        expect(card.locator("strong", has_text="Done")).to_be_visible()
        expect(card.locator(".said ul li")).to_have_text(["one", "two"])
        expect(card.locator("td")).to_have_text(["a", "<b>1</b>"])
        expect(card.locator("pre")).to_have_text('print("<i>hi</i>")')
        hrefs = [link.get_attribute("href") for link in card.locator("a").all()]
        assert hrefs == ["https://logs.example/1?a=(b)", "https://plain.example/x", "https://open.example/"]
        expect(post).to_contain_text("see this@Eve")
        expect(post.get_by_role("link", name="this")).to_have_attribute("href", "https://post.example/")
        expect(text.get_by_role("link")).to_have_attribute("href", "https://text.example/a?b=1")
        expect(text).to_contain_text("<b>please</b>")
        assert page.title() == "Ada - Simulated chat"

    await browse(visit)


async def test_address_says_who_one_is(simulator: Simulator) -> None:
    simulator.create_person("Eve")

    def visit(page: Page) -> None:
        page.goto(f"{simulator.base_url}/?as=Eve")
        expect(page.locator("#person option:checked")).to_have_text("Eve")
        page.locator("#person").select_option(label="Ada")
        page.wait_for_url("**/?as=Ada")
        page.reload()
        expect(page.locator("#person option:checked")).to_have_text("Ada")

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
