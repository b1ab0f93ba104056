"""Where the link of a reply leads: the issue's page, for members of its workspace."""

from __future__ import annotations

from uuid import uuid4

import pytest

from gateway.http.console.issues import in_pieces
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.pool import Pool
from gateway.work.issues.issues import IssueDraft, IssueService
from gateway.work.issues.pages import parse_key
from support.people import Office, open_office

PICTURE = "/api/attachments/0190a1b2-0000-7000-8000-000000000001/download"


@pytest.fixture
async def office(pool: Pool) -> Office:
    office = await open_office(pool)
    place = office.place
    await IssueService(PostgresIssueStore(pool)).file(
        IssueDraft(
            place.workspace_id,
            "<b>Kettle</b> leaks",
            f"Since <i>Monday</i>\n![]({PICTURE})\n![](https://elsewhere.example/x.png)",
            assignee_type="agent",
            assignee_id=place.agent_id,
        )
    )
    return office


async def _key(office: Office) -> tuple[str, str]:
    (row,) = await office.sql("select slug, issue_prefix || '-1' from workspace")
    return row[0], row[1]


async def test_link_of_a_reply_leads_a_member_to_the_page(office: Office) -> None:
    slug, key = await _key(office)
    eve = await office.signed_in("eve@acme.example", "guest")
    moved = await eve.send("GET", f"/issues/{key.lower()}")
    assert (moved.status_code, moved.headers["Location"]) == (303, f"/{slug}/issues/{key}")
    page = await eve.send("GET", moved.headers["Location"])
    text = await page.get_data(as_text=True)
    assert page.status_code == 200
    assert f"{key}: &lt;b&gt;Kettle&lt;/b&gt; leaks" in text
    assert "Since &lt;i&gt;Monday&lt;/i&gt;" in text
    assert f'<img src="{PICTURE}"' in text
    assert "elsewhere.example" in text
    assert '<img src="https' not in text
    assert "img-src 'self'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("language", "status"), [("en", "To do"), ("zh-Hans", "待办"), ("ja", "未着手"), ("ko", "할 일")]
)
async def test_page_speaks_the_readers_language(office: Office, language: str, status: str) -> None:
    slug, key = await _key(office)
    eve = await office.signed_in("eve@acme.example")
    page = await eve.send("GET", f"/{slug}/issues/{key}?lang={language}")
    assert status in await page.get_data(as_text=True)


async def test_page_shows_comments_in_their_order(office: Office) -> None:
    slug, key = await _key(office)
    for author_type, body in (("agent", "I <looked>"), ("system", "it failed")):
        await office.sql(
            "insert into issue_comment (id, workspace_id, issue_id, author_type, author_id, body)"
            " select %s, workspace_id, id, %s, case when %s = 'agent' then assignee_id"
            " else '00000000-0000-0000-0000-000000000000' end, %s from issue",
            uuid4(),
            author_type,
            author_type,
            body,
        )
    eve = await office.signed_in("eve@acme.example")
    text = await (await eve.send("GET", f"/{slug}/issues/{key}")).get_data(as_text=True)
    assert 0 < text.index("I &lt;looked&gt;") < text.index("it failed")
    assert "The gateway" in text


async def test_somebody_signed_out_is_sent_to_sign_in_and_back(office: Office) -> None:
    slug, key = await _key(office)
    stranger = office.browser()
    for path in (f"/issues/{key}", f"/{slug}/issues/{key}", "/issues/XYZ-9"):
        moved = await stranger.send("GET", path)
        assert (moved.status_code, moved.headers["Location"]) == (303, f"/login?next={path.replace('/', '%2F')}")


async def test_issue_of_another_workspace_is_not_there(office: Office) -> None:
    slug, key = await _key(office)
    stranger = await office.signed_in("eve@other.example", role=None)
    eve = await office.signed_in("eve@acme.example")
    for browser, path in (
        (stranger, f"/issues/{key}"),
        (stranger, f"/{slug}/issues/{key}"),
        (eve, f"/elsewhere/issues/{key}"),
        (eve, f"/{slug}/issues/{key}9"),
        (eve, f"/{slug}/issues/nonsense"),
        (eve, f"/api/issues/{key}"),
    ):
        assert (await browser.send("GET", path)).status_code == 404


@pytest.mark.parametrize(
    "text", ["", "ABC", "ABC-", "ABC-0", "ABC-01", "-1", "1-1", "ABC-1x", "ABC-9999999999", "ABC 1"]
)
def test_what_is_no_key_is_none(text: str) -> None:
    assert parse_key(text) is None


def test_only_pictures_of_ours_are_pictures() -> None:
    assert in_pieces(f"a![]({PICTURE})b") == [("text", "a"), ("picture", PICTURE), ("text", "b")]
    assert in_pieces("![](/api/me)") == [("text", "![](/api/me)")]
    assert in_pieces("") == []
