"""Files that people sent, downloaded by people: who may, and what a browser is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from gateway.postgres.attachment_store import PostgresAttachmentStore
from gateway.postgres.pool import Pool
from gateway.work.tasks.attachments import Attachments
from gateway.work.tasks.file_cache import FileCache
from support.file_source import FakeFiles, File, gone
from support.people import Browser, Office, open_office

PAGE = b"<script>alert(1)</script>"


@dataclass
class Album:
    """A conversation with a private agent, and a file in it."""

    office: Office
    source: FakeFiles
    directory: Path
    attachment_id: UUID = field(default_factory=uuid4)
    chat_id: UUID = field(default_factory=uuid4)

    @property
    def path(self) -> str:
        return f"/api/attachments/{self.attachment_id}/download"

    async def fill(self) -> None:
        place, sql = self.office.place, self.office.sql
        await sql("update agent set visibility = 'private' where id = %s", place.agent_id)
        await sql(
            "insert into chat_session (id, workspace_id, agent_id) values (%s, %s, %s)",
            self.chat_id, place.workspace_id, place.agent_id,
        )  # fmt: skip
        message_id = uuid4()
        await sql(
            "insert into chat_message (id, chat_session_id, role, content) values (%s, %s, 'user', '[Image]')",
            message_id, self.chat_id,
        )  # fmt: skip
        await sql(
            "insert into chat_attachment (id, workspace_id, installation_id, chat_session_id, chat_message_id, n, kind,"
            " channel_message_id, channel_key) values (%s, %s, %s, %s, %s, 1, 'image', 'om_1', 'img_1')",
            self.attachment_id, place.workspace_id, self.office.installation_id, self.chat_id, message_id,
        )  # fmt: skip

    async def give_to_an_issue(self) -> None:
        issue_id = uuid4()
        await self.office.sql(
            "insert into issue (id, workspace_id, number, title, creator_type) values (%s, %s, 1, 'x', 'member')",
            issue_id, self.office.place.workspace_id,
        )  # fmt: skip
        await self.office.sql("update chat_attachment set issue_id = %s", issue_id)

    async def status(self, browser: Browser) -> int:
        return int((await browser.send("GET", self.path)).status_code)


@pytest.fixture
async def album(pool: Pool, tmp_path: Path) -> Album:
    source = FakeFiles({"img_1": File(PAGE, "text/html")})
    cache = FileCache(tmp_path / "files", bytes_max=1 << 20, unused_seconds_max=3600)
    office = await open_office(pool, attachments=Attachments(PostgresAttachmentStore(pool), source, cache))
    album = Album(office, source, tmp_path / "files")
    await album.fill()
    return album


async def test_file_is_told_to_the_browser_as_a_download_in_a_sandbox(album: Album) -> None:
    browser = await album.office.signed_in("admin@acme.example", "admin")
    answer = await browser.send("GET", album.path)
    assert (answer.status_code, await answer.get_data()) == (200, PAGE)
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Length"] == str(len(PAGE))
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["Cache-Control"] == "private"


async def test_file_that_is_not_here_is_fetched_again(album: Album) -> None:
    browser = await album.office.signed_in("admin@acme.example", "admin")
    for _ in range(2):
        assert await album.status(browser) == 200
    assert album.source.downloads["img_1"] == 1
    for file in [path for path in album.directory.rglob("*") if path.is_file()]:
        file.unlink()
    assert await album.status(browser) == 200
    assert album.source.downloads["img_1"] == 2


async def test_file_that_is_gone_says_so(album: Album) -> None:
    album.source.files["img_1"] = File(failures=[gone()])
    browser = await album.office.signed_in("admin@acme.example", "admin")
    status, body = await browser.ask("GET", album.path)
    assert (status, body["code"]) == (410, "not_available")


async def test_file_of_a_conversation_is_for_those_who_may_see_that(album: Album) -> None:
    admin = await album.office.signed_in("admin@acme.example", "admin")
    member = await album.office.signed_in("member@acme.example")
    stranger = await album.office.signed_in("stranger@acme.example", None)
    assert [await album.status(browser) for browser in (admin, member, stranger)] == [200, 404, 404]
    await album.office.sql("update agent set visibility = 'workspace'")
    assert [await album.status(browser) for browser in (admin, member, stranger)] == [200, 200, 404]
    assert await album.status(album.office.browser()) == 401


async def test_file_of_an_issue_is_for_every_member(album: Album) -> None:
    member = await album.office.signed_in("member@acme.example")
    stranger = await album.office.signed_in("stranger@acme.example", None)
    await album.give_to_an_issue()
    assert [await album.status(browser) for browser in (member, stranger)] == [200, 404]


async def test_refusal_does_not_tell_whether_there_is_such_a_file(album: Album) -> None:
    stranger = await album.office.signed_in("stranger@acme.example", None)
    missing = await stranger.ask("GET", f"/api/attachments/{uuid4()}/download")
    hidden = await stranger.ask("GET", album.path)
    await album.give_to_an_issue()
    assert missing == hidden == await stranger.ask("GET", album.path)
    assert not album.source.downloads


async def test_persons_token_opens_a_file_and_a_runtimes_does_not(album: Album) -> None:
    directory = album.office.people.directory
    _, personal = await directory.add_user_token(await album.office.add_person("admin@acme.example", "admin"))
    workspace = await directory.workspace(str(album.office.place.workspace_id))
    _, machine = await directory.add_runtime(workspace, "machine")
    for secret, status in ((personal, 200), (machine, 403)):
        bearer = album.office.browser(headers={"Authorization": f"Bearer {secret}"})
        assert await album.status(bearer) == status


async def test_office_without_platforms_has_no_files(pool: Pool) -> None:
    office = await open_office(pool)
    browser = await office.signed_in("admin@acme.example", "admin")
    assert (await browser.ask("GET", f"/api/attachments/{uuid4()}/download"))[0] == 404
    assert (await browser.ask("GET", "/api/attachments/x/download"))[0] == 400
