"""Files of a task over HTTP: whose they are, their exact bytes, and headers that nothing from outside can break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gateway.postgres.attachment_store import PostgresAttachmentStore
from gateway.postgres.pool import Pool
from gateway.work.tasks.attachments import Attachments
from gateway.work.tasks.file_cache import FileCache
from support.file_source import FakeFiles, File, gone, unavailable
from support.task_http import TOKEN, USER_TOKEN, TaskServer, serving_tasks
from support.tenant import Tenant, open_tenant

BODY = bytes(range(256)) * 4_000


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
def source() -> FakeFiles:
    return FakeFiles()


@pytest.fixture
def attachments(pool: Pool, source: FakeFiles, tmp_path: Path) -> Attachments:
    cache = FileCache(tmp_path / "attachments", bytes_max=1 << 30, unused_seconds_max=3600)
    return Attachments(PostgresAttachmentStore(pool), source, cache, fetch_seconds=5)


@pytest.fixture
async def server(tenant: Tenant, attachments: Attachments) -> AsyncIterator[TaskServer]:
    async with serving_tasks(tenant, attachments=attachments) as server:
        yield server


@pytest.fixture
async def client(server: TaskServer) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


async def claimed(tenant: Tenant, client: httpx2.AsyncClient, *keys: str, **how: Any) -> dict[str, Any]:
    """A task whose message came with these files, which did not come in time."""
    session = await tenant.add_session()
    await tenant.say(session, "look")
    await tenant.attach(session, *keys, seconds=-1, **how)
    answer = await client.post(f"/api/runtimes/{tenant.runtime_id}/tasks/claim")
    task: dict[str, Any] = answer.json()["task"]
    return task


async def get(client: httpx2.AsyncClient, task: dict[str, Any], n: object = 1, **how: Any) -> httpx2.Response:
    return await client.get(f"/api/tasks/{task['id']}/attachments/{n}", **how)


async def test_file_arrives_byte_by_byte_with_headers_that_say_what_it_is(
    tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles
) -> None:
    source.files["f"] = File(BODY, "application/pdf", announced=len(BODY))
    task = await claimed(tenant, client, "f", kind="file", name="Übersicht 报告.pdf")
    (listed,) = task["messages"][0]["attachments"]
    name = "Übersicht 报告.pdf"
    assert listed == {"n": 1, "kind": "file", "name": name, "mime_type": "application/octet-stream", "bytes": None}
    for _ in range(2):
        answer = await get(client, task)
        assert answer.status_code == 200
        assert answer.content == BODY
        assert answer.headers["Content-Type"] == "application/pdf"
        assert answer.headers["Content-Length"] == str(len(BODY))
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"] == (
            "attachment; filename=\"_bersicht __.pdf\"; filename*=UTF-8''%C3%9Cbersicht%20%E6%8A%A5%E5%91%8A.pdf"
        )
    assert source.downloads["f"] == 1


async def test_hostile_name_and_type_become_harmless_headers(
    tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles
) -> None:
    source.files["f"] = File(
        b"<script>", "text/html\r\nSet-Cookie: a=b", 'attachment; filename="x\r\nX-Evil: 1/../../\u202e\\"q.html"'
    )
    task = await claimed(tenant, client, "f", kind="file")
    answer = await get(client, task)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert {name.lower() for name in answer.headers} <= {
        "content-type", "content-length", "content-disposition", "x-content-type-options", "cache-control",
        "date", "server",
    }  # fmt: skip


async def test_head_tells_of_a_file_without_its_body(
    tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles
) -> None:
    source.files["f"] = File(BODY, "image/png")
    task = await claimed(tenant, client, "f")
    answer = await client.head(f"/api/tasks/{task['id']}/attachments/1")
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, str(len(BODY)), b"")
    assert (await get(client, task)).content == BODY


async def test_file_is_kept_from_an_attempt_that_is_over(
    tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles
) -> None:
    source.files["f"] = File(BODY, "image/png")
    task = await claimed(tenant, client, "f")
    await tenant.sql("update agent_task set attempt = 2")
    for number, status, code in (
        ("2", 200, None), ("1", 409, "attempt_over"),
        ("3", 409, "attempt_unknown"), (str(2**31 - 1), 409, "attempt_unknown"),
        *((wrong, 400, "invalid_parameter") for wrong in ("", "0", "-1", "x", "1.0", "\u0661", str(2**31), "9" * 11)),
    ):  # fmt: skip
        answer = await get(client, task, params={"attempt": number})
        assert (answer.status_code, None if status == 200 else answer.json()["code"]) == (status, code), number


async def test_empty_file_is_a_whole_answer(tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles) -> None:
    source.files["f"] = File(b"", "text/plain")
    answer = await get(client, await claimed(tenant, client, "f", kind="file"))
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")


async def test_file_of_a_task_belongs_to_its_runtime(
    tenant: Tenant, server: TaskServer, client: httpx2.AsyncClient, pool: Pool, source: FakeFiles
) -> None:
    source.files["f"] = File(BODY)
    task = await claimed(tenant, client, "f")
    assert (await get(client, task, headers={"Authorization": ""})).status_code == 401
    assert (await get(client, task, headers={"Authorization": f"Bearer {USER_TOKEN}"})).status_code == 403
    stranger = await open_tenant(pool)
    server.tenant = stranger
    answer = await get(client, task)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert not source.downloads


@pytest.mark.parametrize("n", ["0", "2", "-1", "x", "1.0", "٣", "99999999999999999999", "..%2f1"])
async def test_file_of_no_such_number_is_not_found(
    tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles, n: str
) -> None:
    source.files["f"] = File(BODY)
    answer = await get(client, await claimed(tenant, client, "f"), n)
    assert answer.status_code == 404


async def test_file_that_cannot_be_had_says_why(tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles) -> None:
    source.files["f"] = File(BODY, failures=[unavailable(retry_after=7), gone()])
    task = await claimed(tenant, client, "f")
    answer = await get(client, task)
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "unavailable", "7")
    for _ in range(2):
        answer = await get(client, task)
        assert (answer.status_code, answer.json()["code"]) == (410, "not_available")
    assert source.downloads["f"] == 2


async def test_file_that_takes_too_long_says_so(tenant: Tenant, pool: Pool, tmp_path: Path) -> None:
    source = FakeFiles({"f": File(BODY, gate=trio.Event())})
    cache = FileCache(tmp_path, bytes_max=1 << 30, unused_seconds_max=3600)
    slow = Attachments(PostgresAttachmentStore(pool), source, cache, fetch_seconds=0.2)
    async with serving_tasks(tenant, attachments=slow) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
            answer = await get(client, await claimed(tenant, client, "f"))
    assert (answer.status_code, answer.json()["code"]) == (504, "timed_out")


async def test_client_that_leaves_in_the_middle_disturbs_nobody(
    tenant: Tenant, client: httpx2.AsyncClient, source: FakeFiles
) -> None:
    source.files["f"] = File(BODY * 20, "image/png")
    task = await claimed(tenant, client, "f")
    url = httpx2.URL(f"{client.base_url}/api/tasks/{task['id']}/attachments/1")
    stream = await trio.open_tcp_stream(url.host, url.port or 80)
    head = f"GET {url.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with stream:
        await stream.send_all(head.encode())
        assert await stream.receive_some(1024)
    assert (await get(client, task)).content == BODY * 20


async def test_server_without_platforms_has_no_files(tenant: Tenant) -> None:
    async with serving_tasks(tenant) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
            assert (await get(client, await claimed(tenant, client, "f"))).status_code == 404
