"""`gateway agent run` when its server goes away, is replaced, or gives its task to another worker meanwhile."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.postgres.pool import Pool
from gateway.work.tasks.ports import LossLimits
from support.gate import Gate, open_gate
from support.processes import GatewayProcess, free_address, open_gateway
from support.task_http import TOKEN, TaskServer, serving_tasks
from support.tenant import Tenant, open_tenant, ringing

# The first attempt takes a moment to end when it is told to; the second answers. Each says when it begins and ends.
TWO_ATTEMPTS = """
import json, os, pathlib, signal, sys, time
task, place = json.load(sys.stdin), pathlib.Path(sys.argv[1])
def say(what):
    with open(place / "said", "a") as file:
        file.write(f"{what} {task['attempt']}\\n")
def stop(*_):
    time.sleep(0.3)
    say("end")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
say("begin")
wanted = place / f"go{task['attempt']}"
while not wanted.exists():
    time.sleep(0.01)
say("end")
print("answer of", task["attempt"])
"""


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    tenant = await open_tenant(pool)
    tenant.limits = replace(LossLimits(), silent_seconds=0.3)
    return tenant


@pytest.fixture
async def server(tenant: Tenant, database: str) -> AsyncIterator[TaskServer]:
    async with ringing(tenant, database), serving_tasks(tenant) as server:
        yield server


@pytest.fixture
async def gate(server: TaskServer) -> AsyncIterator[Gate]:
    async with open_gate(server.url) as gate:
        yield gate


@asynccontextmanager
async def agent(
    urls: Sequence[str], folder: Path, *options: str, name: str = "agent", code: str = TWO_ATTEMPTS
) -> AsyncIterator[GatewayProcess]:
    servers = [part for url in urls for part in ("--server", url)]
    arguments = ["agent", "run", *servers, *options, "--", sys.executable, "-c", code, str(folder)]
    log = folder / f"{name}.log"
    async with open_gateway(arguments, environment={"AGENT_TOKEN": TOKEN}, log=log) as process:
        yield process
        assert "Traceback" not in process.log


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    with trio.fail_after(seconds):
        while not (value := await condition()):
            await trio.sleep(0.02)
    return value


async def until_said(folder: Path, *lines: str) -> None:
    said = folder / "said"

    async def found() -> bool:
        return said.exists() and [*lines] == said.read_text().splitlines()

    await until(found)


async def say(tenant: Tenant, text: str = "hello") -> Any:
    session = await tenant.add_session()
    await tenant.say(session, text)
    await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
    return session


async def given_back(tenant: Tenant) -> bool:
    return await tenant.service.return_lost() == 1


async def test_attempt_that_was_given_away_ends_before_the_next_one_begins(
    tenant: Tenant, gate: Gate, tmp_path: Path
) -> None:
    async with agent([gate.url], tmp_path, "--concurrency", "2") as process:
        session = await say(tenant)
        await until_said(tmp_path, "begin 1")
        gate.shut_out()
        await until(lambda: given_back(tenant))
        (tmp_path / "go2").touch()
        gate.shut = False
        await until(lambda: tenant.answers(session))
        await until_said(tmp_path, "begin 1", "end 1", "begin 2", "end 2")
        assert await process.terminate() == 0
    assert await tenant.answers(session) == ["answer of 2"]
    assert len(await tenant.outbox()) == 1


async def test_answer_that_comes_after_the_silence_is_given_up_and_the_work_goes_on(
    tenant: Tenant, gate: Gate, tmp_path: Path
) -> None:
    async with agent([gate.url], tmp_path) as process:
        session = await say(tenant)
        await until_said(tmp_path, "begin 1")
        gate.shut_out()
        await until(lambda: given_back(tenant))
        for number in (1, 2):
            (tmp_path / f"go{number}").touch()
        await until_said(tmp_path, "begin 1", "end 1")
        gate.shut = False
        await until(lambda: tenant.answers(session))
        assert await process.terminate() == 0
    assert await tenant.answers(session) == ["answer of 2"]
    assert "attempt 1 of this task is over" in process.log


async def test_late_failure_of_one_worker_leaves_the_run_of_another_alone(
    tenant: Tenant, server: TaskServer, gate: Gate, tmp_path: Path
) -> None:
    async with agent([gate.url], tmp_path, "--drain-seconds", "0", name="late") as late:
        session = await say(tenant)
        await until_said(tmp_path, "begin 1")
        gate.shut_out()
        await until(lambda: given_back(tenant))
        async with agent([server.url], tmp_path, name="other"):
            await until_said(tmp_path, "begin 1", "begin 2")
            gate.shut = False
            assert await late.terminate() == 0
            assert "task_not_handed_back" in late.log
            (task,) = await tenant.tasks()
            assert (task["status"], task["attempt"]) == ("running", 2)
            (tmp_path / "go2").touch()
            await until(lambda: tenant.answers(session))
    assert await tenant.answers(session) == ["answer of 2"]


async def test_worker_that_was_killed_gets_back_at_once_what_it_had_and_nothing_else(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    async def instances() -> dict[str, int] | None:
        rows = await tenant.sql("select instance, attempt from agent_task where status = 'running'")
        return {row["instance"]: row["attempt"] for row in rows} if len(rows) == 2 else None

    async with (
        agent([server.url], tmp_path, name="first") as first,
        agent([server.url], tmp_path, name="second") as second,
    ):
        mine, others = first.ready["instance"], second.ready["instance"]
        assert mine != others
        for _ in range(2):
            await say(tenant)
        assert await until(instances) == {mine: 1, others: 1}
        await first.kill()
        async with agent([server.url], tmp_path, name="again") as again:
            assert again.ready["instance"] == mine
            # No sweep runs here: what returns does so because its worker is back.
            await until(lambda: _is(instances, {mine: 2, others: 1}))
        rows = await tenant.sql("select failure_reason from agent_task where attempt = 2")
        assert [row["failure_reason"] for row in rows] == ["runtime_recovery"]


async def _is(look: Callable[[], Awaitable[Any]], wanted: object) -> bool:
    return await look() == wanted


async def test_second_worker_of_a_given_name_is_refused_on_one_machine(server: TaskServer, tmp_path: Path) -> None:
    async with agent([server.url], tmp_path, "--instance", "blue", name="first") as first:
        assert first.ready["instance"] == "blue"
        arguments = ["agent", "run", "--server", server.url, "--instance", "blue", "--", "true"]
        async with open_gateway(
            arguments, environment={"AGENT_TOKEN": TOKEN}, log=tmp_path / "second.log", wait_ready=False
        ) as second:
            assert await second.wait() == 1
    assert "another worker called 'blue' runs on this machine" in second.log


async def test_run_survives_the_address_that_it_was_claimed_at(
    tenant: Tenant, server: TaskServer, gate: Gate, tmp_path: Path
) -> None:
    nowhere = f"http://{free_address()}"
    async with agent([nowhere, gate.url, server.url], tmp_path) as process:
        session = await say(tenant)
        await until_said(tmp_path, "begin 1")
        gate.shut_out()
        (tmp_path / "go1").touch()
        await until(lambda: tenant.answers(session))
        assert await process.terminate() == 0
    assert await tenant.answers(session) == ["answer of 1"]
    assert (await tenant.tasks())[0]["attempt"] == 1


@pytest.mark.parametrize(
    "stranger",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"220 mail.example ESMTP\r\n",
    ],
    ids=["page", "mail"],
)
async def test_worker_outlives_whatever_answers_in_its_servers_place(
    tenant: Tenant, gate: Gate, tmp_path: Path, stranger: bytes
) -> None:
    async with agent([gate.url], tmp_path) as process:
        (tmp_path / "go1").touch()
        gate.replace_by(stranger)

        async def turned_away() -> bool:
            return gate.turned_away >= 2

        await until(turned_away)
        gate.replace_by(None)
        session = await say(tenant)
        await until(lambda: tenant.answers(session))
        assert await process.terminate() == 0
