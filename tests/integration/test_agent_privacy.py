"""Secrets of `gateway agent run`, looked for by its programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.postgres.pool import Pool
from support.processes import GatewayProcess, open_gateway
from support.task_http import TOKEN, TaskServer, serving_tasks
from support.tenant import Tenant, open_tenant, ringing

# Everything that a process of the same user can read of itself, of those that started it up to the test, and of their
# children: the guard is one.
LOOK = """
import json, os, sys
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("latin-1")
    except OSError as error:
        return type(error).__name__
def links(pid):
    try:
        return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int)]
    except OSError as error:
        return [type(error).__name__]
def look(pid):
    return {name: read(f"/proc/{pid}/{name}") for name in ("environ", "cmdline")} | {"fds": links(pid)}
def parent(pid):
    return int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
opened = len(os.listdir("/proc/self/fd")) - 1
sys.stdin.read()
seen, pid = {}, os.getpid()
while pid not in (0, 1, int(sys.argv[1])):
    for each in [pid, *map(int, read(f"/proc/{pid}/task/{pid}/children").split())]:
        seen[each] = look(each)
    pid = parent(pid)
print(json.dumps({"seen": seen, "own": str(os.getpid()), "worker": str(os.getppid()), "opened": opened}))
"""
SECRET = "not-a-real-secret"
KEY = "not-a-real-model-key"


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
async def server(tenant: Tenant, database: str) -> AsyncIterator[TaskServer]:
    async with ringing(tenant, database), serving_tasks(tenant) as server:
        yield server


@asynccontextmanager
async def agent(
    server: TaskServer,
    folder: Path,
    *options: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    launcher: Sequence[str] = (),
) -> AsyncIterator[GatewayProcess]:
    arguments = ["agent", "run", "--server", server.url, *options, "--", *command]
    log = folder / "agent.log"
    async with open_gateway(arguments, environment=environment, log=log, launcher=launcher) as process:
        yield process
        assert TOKEN not in process.log


async def answered(tenant: Tenant) -> str:
    session = await tenant.add_session()
    await tenant.say(session, "hello")
    await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
    with trio.fail_after(30):
        while not (answers := await tenant.answers(session)):
            await trio.sleep(0.02)
    return answers[0]


def without_capabilities() -> list[str]:
    """As root, start something that may no more than another user: it reads what is its own, and nothing by force."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.mark.parametrize("given", ["variable", "flag"])
async def test_program_finds_no_secret_of_its_worker_anywhere(
    tenant: Tenant, server: TaskServer, tmp_path: Path, given: str
) -> None:
    options = [f"--token={TOKEN}"] if given == "flag" else []
    environment = {"MY_KEY": KEY, **({"AGENT_TOKEN": TOKEN} if given == "variable" else {})}
    options += ["--env", f"OTHER={SECRET}"]
    command = [sys.executable, "-c", LOOK, str(os.getpid())]
    async with agent(server, tmp_path, *options, command=command, environment=environment) as process:
        found = json.loads(await answered(tenant))
        assert found["worker"] == str(process.pid)
    assert found["opened"] == 3
    seen = found["seen"]
    (guard,) = seen.keys() - {found["worker"], found["own"]}
    assert TOKEN not in json.dumps(seen)
    assert SECRET not in json.dumps([each["cmdline"] for each in seen.values()])
    assert "--server" in seen[found["worker"]]["cmdline"]
    # As another user than root, the test is the one that cannot look.
    assert seen[guard]["fds"][:3] == ["/dev/null"] * 3 or seen[guard]["fds"] == ["PermissionError"]
    assert len(seen[guard]["fds"]) in {1, 4}


async def test_program_of_another_than_root_cannot_look_into_its_worker_at_all(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", LOOK, str(os.getpid())]
    environment = {"AGENT_TOKEN": TOKEN, "MY_KEY": KEY}
    async with agent(server, tmp_path, command=command, environment=environment, launcher=without_capabilities()):
        found = json.loads(await answered(tenant))
    assert len(found["seen"]) == 3
    for pid, each in found["seen"].items():
        closed = pid != found["own"]
        assert (each["environ"] == "PermissionError") is closed
        assert (each["fds"] == ["PermissionError"]) is closed
    assert KEY not in json.dumps(found)


async def test_worker_of_root_says_once_that_it_can_hide_nothing(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    async with agent(server, tmp_path, command=["true"], environment={"AGENT_TOKEN": TOKEN}) as process:
        lines = [line for line in process.log.splitlines() if "programs_can_read_the_token" in line]
    assert len(lines) == (1 if os.geteuid() == 0 else 0)
    assert all('"level": "warning"' in line for line in lines)


async def test_program_gets_what_was_named_for_it_and_otherwise_only_what_is_known_to_all(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    plain = {
        "LANG": "C.UTF-8", "LC_TIME": "C", "TZ": "UTC", "TMPDIR": str(tmp_path),
        "https_proxy": "http://proxy.invalid:1", "HTTPS_PROXY": "http://proxy.invalid:1", "NO_PROXY": "x.invalid",
        "SSL_CERT_DIR": str(tmp_path), "REQUESTS_CA_BUNDLE": "/x", "NODE_EXTRA_CA_CERTS": "/x", "CURL_CA_BUNDLE": "/x",
    }  # fmt: skip
    hidden = {"AGENT_TOKEN": TOKEN, "DATABASE_PASSWORD": SECRET, "GATEWAY_SECRET_KEY": SECRET, "PYTHONSAFEPATH": "1"}
    options = ["--env", "MY_KEY", "--env", "EMPTY", "--env", "OTHER=a=b", "--env", "TERM=vt100"]
    environment = {**plain, **hidden, "MY_KEY": KEY, "EMPTY": ""}
    async with agent(server, tmp_path, *options, command=["env"], environment=environment):
        lines = (await answered(tenant)).splitlines()
    own = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    named = {"MY_KEY": KEY, "EMPTY": "", "OTHER": "a=b", "TERM": "vt100"}
    seen = dict(line.split("=", 1) for line in lines)
    assert seen.pop("AGENT_RUN_MARK")
    assert seen == {**own, **plain, "NO_COLOR": "1", **named}


async def test_program_that_prints_its_key_as_its_last_words_tells_it_to_nobody(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    command = ["sh", "-c", 'echo "key $MY_KEY is wrong, see https://model.invalid/?k=$MY_KEY" >&2; exit 7']
    environment = {"AGENT_TOKEN": TOKEN, "MY_KEY": KEY}
    async with agent(server, tmp_path, "--env", "MY_KEY", command=command, environment=environment) as process:
        await tenant.say(await tenant.add_session(), "hello, secretly")
        await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
        with trio.fail_after(30):
            while (await tenant.tasks())[0]["status"] != "failed":
                await trio.sleep(0.02)
    (task,) = await tenant.tasks()
    assert task["stderr_tail"].startswith("key [hidden] is wrong")
    (line,) = logged(process, "program_failed")
    assert (line["level"], line["exit_status"], line["signal"]) == ("warning", 7, None)
    assert line["reason"] == "the program ended with exit status 7"
    assert line["stderr_tail"] == "key [hidden] is wrong, see https://model.invalid/?…"
    assert KEY not in process.log + repr(task)
    assert "secretly" not in process.log


@pytest.mark.parametrize(
    ("script", "event", "expected"),
    [
        ("echo why >&2; kill -SEGV $$", "program_failed", {"exit_status": None, "signal": "SIGSEGV"}),
        ("echo why >&2", "program_said_nothing", {"exit_status": 0, "signal": None, "reason": "nothing on stdout"}),
    ],
)
async def test_end_without_an_answer_is_logged_and_kept_with_its_task(
    tenant: Tenant, server: TaskServer, tmp_path: Path, script: str, event: str, expected: dict[str, Any]
) -> None:
    async with agent(server, tmp_path, command=["sh", "-c", script], environment={"AGENT_TOKEN": TOKEN}) as process:
        await tenant.say(await tenant.add_session(), "hello")
        await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
        with trio.fail_after(30):
            while (await tenant.tasks())[0]["status"] not in {"completed", "failed"}:
                await trio.sleep(0.02)
    assert (await tenant.tasks())[0]["stderr_tail"] == "why"
    (line,) = logged(process, event)
    assert expected.items() <= line.items()
    assert (line["stderr_tail"], line["attempt"]) == ("why", 1)


def logged(process: GatewayProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set here"),
        (["--env", "=value"], "is not the name of a variable"),
        (["--env", "AGENT_TOKEN"], "may not act in its name"),
        (["--env", f"BIG={'x' * 70_000}"], "more than"),
        (["--instance", " "], "--instance"),
        (["--server", "http://ada:secret@127.0.0.1:1"], "--server"),
        (["--secrets-fd", "77"], "--secrets-fd"),
    ],
)
async def test_wrong_usage_is_exit_2_with_its_reason(tmp_path: Path, options: list[str], complaint: str) -> None:
    arguments = ["agent", "run", "--server", "http://127.0.0.1:1", *options, "--", "true"]
    async with open_gateway(
        arguments, environment={"AGENT_TOKEN": TOKEN}, log=tmp_path / "log", wait_ready=False
    ) as process:
        assert await process.wait() == 2
    assert complaint in process.log
    assert "Traceback" not in process.log


async def test_token_is_still_needed(tmp_path: Path) -> None:
    arguments = ["agent", "run", "--server", "http://127.0.0.1:1", "--", "true"]
    async with open_gateway(arguments, environment={}, log=tmp_path / "log", wait_ready=False) as process:
        assert await process.wait() == 2
    assert "AGENT_TOKEN" in process.log
