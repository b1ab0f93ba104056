"""What `gateway agent run` lays out for a program: the files of its task, for as long as it runs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.cli.agent_files import file_name
from gateway.postgres.attachment_store import PostgresAttachmentStore
from gateway.postgres.pool import Pool
from gateway.work.tasks.attachments import Attachments
from gateway.work.tasks.file_cache import FileCache
from support.file_source import FakeFiles, File, gone, unavailable
from support.processes import GatewayProcess, open_gateway
from support.task_http import TOKEN, TaskServer, serving_tasks
from support.tenant import Session, Tenant, open_tenant, ringing

BODY = bytes(range(256)) * 8_000
LOOK = """
import hashlib, json, os, stat, sys
files = [file for message in json.load(sys.stdin)["messages"] for file in message["attachments"]]
for file in files:
    path = file["path"]
    file["sha256"] = path and hashlib.sha256(open(path, "rb").read()).hexdigest()
    file["private"] = path and stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
print(json.dumps(files))
"""
NOTE_AND_SLEEP = """
import json, sys, time
task = json.load(sys.stdin)
open({note!r}, "w").write(task["messages"][0]["attachments"][0]["path"])
time.sleep(600)
"""


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
def source() -> FakeFiles:
    return FakeFiles()


@pytest.fixture
async def server(
    tenant: Tenant, database: str, pool: Pool, source: FakeFiles, tmp_path: Path
) -> AsyncIterator[TaskServer]:
    cache = FileCache(tmp_path / "attachments", bytes_max=1 << 30, unused_seconds_max=3600)
    attachments = Attachments(PostgresAttachmentStore(pool), source, cache)
    async with ringing(tenant, database), serving_tasks(tenant, attachments=attachments) as server:
        yield server


@asynccontextmanager
async def agent(server: TaskServer, log: Path, code: str, temp: Path) -> AsyncIterator[GatewayProcess]:
    await trio.Path(temp).mkdir()
    arguments = ["agent", "run", "--server", server.url, "--drain-seconds", "0.2", "--", sys.executable, "-c", code]
    environment = {"AGENT_TOKEN": TOKEN, "TMPDIR": str(temp)}
    async with open_gateway(arguments, environment=environment, log=log / "agent.log") as process:
        yield process


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    with trio.fail_after(seconds):
        while not (value := await condition()):
            await trio.sleep(0.02)
    return value


async def said_with(tenant: Tenant, *keys: str, **how: Any) -> Session:
    session = await tenant.add_session()
    await tenant.say(session, "look")
    await tenant.attach(session, *keys, seconds=-1, **how)
    return session


async def test_program_finds_the_exact_bytes_where_its_task_says(
    tenant: Tenant, server: TaskServer, source: FakeFiles, tmp_path: Path
) -> None:
    source.files = {"a": File(BODY, "image/png"), "b": File(b"small", "image/png")}
    session = await said_with(tenant, "a", "b", kind="file", name="../../evil;rm -rf\n.PNG")
    async with agent(server, tmp_path, LOOK, tmp_path / "temp"):
        ((answer,),) = [await until(lambda: tenant.answers(session))]
    first, second = json.loads(answer)
    assert first["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert second["sha256"] == hashlib.sha256(b"small").hexdigest()
    assert Path(first["path"]).name == "1.png"
    assert Path(second["path"]).name == "2.png"
    assert first["private"]
    assert not list((tmp_path / "temp").iterdir())


async def test_file_that_cannot_be_had_leaves_no_path_and_the_run_goes_on(
    tenant: Tenant, server: TaskServer, source: FakeFiles, tmp_path: Path
) -> None:
    source.files = {
        "a": File(failures=[gone()]),
        "b": File(BODY, "image/png", failures=[unavailable()]),
    }
    session = await said_with(tenant, "a", "b")
    async with agent(server, tmp_path, LOOK, tmp_path / "temp"):
        ((answer,),) = [await until(lambda: tenant.answers(session))]
    first, second = json.loads(answer)
    assert (first["path"], first["sha256"]) == (None, None)
    assert second["sha256"] == hashlib.sha256(BODY).hexdigest()


async def test_files_go_when_the_program_has_to_stop(
    tenant: Tenant, server: TaskServer, source: FakeFiles, tmp_path: Path
) -> None:
    source.files["a"] = File(BODY, "image/png")
    note = tmp_path / "note"
    await said_with(tenant, "a")
    async with agent(server, tmp_path, NOTE_AND_SLEEP.format(note=str(note)), tmp_path / "temp") as process:

        async def noted() -> str:
            return note.read_text() if note.exists() else ""

        path = trio.Path(await until(noted))
        assert await path.read_bytes() == BODY
        assert await process.terminate() == 0
        assert not await path.parent.exists()
    assert not list((tmp_path / "temp").iterdir())


@pytest.mark.parametrize(
    ("name", "path"),
    [("a.PNG", "1.png"), ("a", "1"), ("a.tar.gz", "1.gz"), ("a.x/y", "1"), ("a.b\n", "1"), ("a." + "x" * 40, "1")],
)
def test_file_is_called_by_its_number_and_a_plain_extension(name: str, path: str) -> None:
    assert file_name(1, name) == path
