"""`gateway agent run` as a process, against a real server."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.postgres.pool import Pool
from support.processes import GatewayProcess, open_gateway
from support.task_http import TOKEN, TaskServer, serving_tasks
from support.tenant import Tenant, open_tenant, ringing

ECHO = "import json,sys; print('you said: ' + json.load(sys.stdin)['prompt'])"
SLEEP = "import sys,time; sys.stdin.read(); time.sleep(600)"


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return await open_tenant(pool)


@pytest.fixture
async def server(tenant: Tenant, database: str) -> AsyncIterator[TaskServer]:
    async with ringing(tenant, database), serving_tasks(tenant) as server:
        yield server


@asynccontextmanager
async def agent(
    server: TaskServer, log: Path, code: str, *options: str, token: str = TOKEN, **how: Any
) -> AsyncIterator[GatewayProcess]:
    arguments = ["agent", "run", "--server", server.url, *options, "--", sys.executable, "-c", code]
    async with open_gateway(arguments, environment={"AGENT_TOKEN": token}, log=log / "agent.log", **how) as process:
        yield process


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    with trio.fail_after(seconds):
        while not (value := await condition()):
            await trio.sleep(0.02)
    return value


async def say(tenant: Tenant, text: str) -> Any:
    session = await tenant.add_session()
    await tenant.say(session, text)
    await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
    return session


async def ended(tenant: Tenant) -> list[dict[str, Any]] | None:
    tasks = await tenant.tasks()
    return tasks if all(task["status"] in {"completed", "failed"} for task in tasks) else None


async def running(tenant: Tenant) -> bool:
    return bool(await tenant.sql("select id from agent_task where status = 'running'"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_agent_answers_with_what_the_program_prints(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    async with agent(server, tmp_path, ECHO) as process:
        assert process.ready["runtime_id"] == str(tenant.runtime_id)
        session = await say(tenant, "grüß dich")
        await until(lambda: ended(tenant))
        assert await tenant.answers(session) == ["you said: grüß dich"]
        assert await process.terminate() == 0


async def test_agent_program_learns_which_generation_of_the_conversation_it_is_in(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    code = "import json,sys; print('generation', json.load(sys.stdin)['context_generation'])"
    session = await tenant.add_session()
    await tenant.sql("update chat_session set context_generation = 3")
    async with agent(server, tmp_path, code):
        await tenant.say(session, "afresh", generation=3)
        await tenant.sql("select pg_notify('gateway_task', %(id)s)", id=str(tenant.runtime_id))
        await until(lambda: ended(tenant))
    assert await tenant.answers(session) == ["generation 3"]


async def test_agent_runs_as_many_programs_as_it_may(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    code = "import sys,time; sys.stdin.read(); print(time.monotonic()); time.sleep(1); print(time.monotonic())"
    sessions = [await say(tenant, str(number)) for number in range(4)]
    async with agent(server, tmp_path, code, "--concurrency", "2"):
        await until(lambda: ended(tenant))
    spans = []
    for session in sessions:
        begin, end = (await tenant.answers(session))[0].split()
        spans += [(float(begin), 1), (float(end), -1)]
    level = peak = 0
    for _, step in sorted(spans):
        level += step
        peak = max(peak, level)
    assert peak == 2


async def test_agent_program_that_fails_fails_the_task_with_the_end_of_stderr(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    code = r"import sys; sys.stderr.write('x' * 100_000 + '\0the last words'); print('half an answer'); sys.exit(3)"
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, code):
        (task,) = await until(lambda: ended(tenant))
    assert task["failure_reason"] == "agent_error.process_failure"
    assert task["error"].startswith("the program ended with exit status 3")
    assert task["error"].endswith("xthe last words")
    assert len(task["error"]) < 5000
    assert await tenant.answers(session) == []
    assert [row["kind"] for row in await tenant.outbox()] == ["error"]


async def test_agent_program_that_writes_without_end_is_stopped(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    code = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    await say(tenant, "hello")
    async with agent(server, tmp_path, code):
        (task,) = await until(lambda: ended(tenant))
    assert task["failure_reason"] == "agent_error.empty_or_unparseable_output"


async def test_agent_program_that_does_not_read_its_task_still_answers(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    session = await say(tenant, "x" * 500_000)
    async with agent(server, tmp_path, "print('done')"):
        await until(lambda: ended(tenant))
    assert await tenant.answers(session) == ["done"]


async def test_agent_program_that_leaves_a_child_behind_is_not_waited_for(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, code):
        await until(lambda: ended(tenant), 10)
        child = int((await tenant.answers(session))[0])
        assert not alive(child)


async def test_agent_program_leaves_no_child_behind_that_began_a_session_of_its_own(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    # A daemon: its own session, its parent gone, and its pipes closed.
    daemon = "import os, sys, time; os.fork() and sys.exit(); os.setsid(); print(os.getpid(), flush=True); "
    daemon += "[os.dup2(os.open(os.devnull, os.O_RDWR), fd) for fd in (0, 1, 2)]; time.sleep(600)"
    command = f"[sys.executable, '-c', {daemon!r}]"
    code = f"import subprocess, sys; sys.stdout.write(subprocess.check_output({command}, text=True))"
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, code):
        await until(lambda: ended(tenant), 10)
        assert not alive(int((await tenant.answers(session))[0]))


async def test_agent_program_does_not_get_the_token(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, "import os; print(sorted(k for k in os.environ if 'TOKEN' in k))"):
        await until(lambda: ended(tenant))
    assert await tenant.answers(session) == ["[]"]


async def test_agent_task_taken_away_stops_its_program(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    code = f"import os,time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    await say(tenant, "one")
    async with agent(server, tmp_path, code, "--concurrency", "2"):
        await until(lambda: trio.Path(marker).exists())
        await tenant.sql("update agent_task set status = 'cancelled'")
        # The next heartbeat tells; a second task brings one at once.
        await say(tenant, "two")
        pid = int(marker.read_text())

        async def is_gone() -> bool:
            return not alive(pid)

        await until(is_gone)


async def test_agent_past_its_deadline_stops_and_says_so(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    server.service._limits = type(server.service._limits)(running_seconds=2)
    await say(tenant, "hello")
    await tenant.sql("update agent_task set attempt = 3")
    async with agent(server, tmp_path, f"import sys; print('stuck', file=sys.stderr, flush=True); {SLEEP}") as process:
        (task,) = await until(lambda: ended(tenant))
    assert (task["failure_reason"], task["stderr_tail"]) == ("timeout", "stuck")
    assert '"stderr_tail": "stuck"' in process.log


async def test_agent_told_to_end_lets_a_running_program_finish(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, "import time; time.sleep(1.5); print('finished')") as process:
        await until(lambda: running(tenant))
        assert await process.terminate() == 0
    assert await tenant.answers(session) == ["finished"]


async def test_agent_told_to_end_hands_back_what_does_not_finish_in_time(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    await say(tenant, "hello")
    async with agent(server, tmp_path, SLEEP, "--drain-seconds", "0.2") as process:
        await until(lambda: running(tenant))
        assert await process.terminate(15) == 0
    (task,) = await tenant.tasks()
    assert (task["status"], task["attempt"], task["failure_reason"]) == ("queued", 2, "runtime_recovery")


async def test_agent_interrupted_twice_ends_at_once(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    await say(tenant, "hello")
    async with agent(server, tmp_path, SLEEP) as process:
        await until(lambda: running(tenant))
        os.kill(process.pid, signal.SIGINT)
        await trio.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        assert await process.wait(10) == 0


async def test_agent_waits_for_a_server_that_is_away(tenant: Tenant, tmp_path: Path, database: str) -> None:
    async with ringing(tenant, database):
        async with serving_tasks(tenant) as server:
            url = server.url
            async with agent(server, tmp_path, ECHO) as process:
                server.service.drain()
                server.stop.set()
                await trio.sleep(1)
                async with serving_tasks(tenant, url.removeprefix("http://")):
                    session = await say(tenant, "hello")
                    await until(lambda: ended(tenant))
                    assert await tenant.answers(session) == ["you said: hello"]
                    assert await process.terminate() == 0


async def test_agent_killed_mid_run_leaves_the_task_to_another(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, SLEEP) as process:
        await until(lambda: running(tenant))
        await process.kill()
    await tenant.sql("update agent_task set seen_at = now() - interval '151 seconds'")
    assert await tenant.service.return_lost() == 1
    async with agent(server, tmp_path, ECHO):
        await until(lambda: ended(tenant))
    assert await tenant.answers(session) == ["you said: hello"]


BROOD = """
import os, pathlib, subprocess, sys, time
sys.stdin.read()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child, apart = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid} {apart.pid}")
time.sleep(600)
"""


async def _brood(
    tenant: Tenant, server: TaskServer, folder: Path, end: Callable[[GatewayProcess], Awaitable[Any]]
) -> list[int]:
    """The program of a run and its two children, one in a session of its own, after the worker came to its end."""
    pids = folder / "pids"
    await say(tenant, "hello")
    options = ["--server", server.url, "--drain-seconds", "0"]
    command = ["agent", "run", *options, "--", sys.executable, "-c", BROOD, str(pids)]
    async with open_gateway(command, environment={"AGENT_TOKEN": TOKEN}, log=folder / "agent.log") as process:

        async def written() -> bool:
            return pids.exists() and len(pids.read_text().split()) == 3

        await until(written)
        all_three = [int(pid) for pid in pids.read_text().split()]
        assert all(alive(pid) for pid in all_three)
        await end(process)
    return all_three


async def test_agent_that_is_killed_leaves_no_process_of_its_program(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    all_three = await _brood(tenant, server, tmp_path, lambda process: process.kill())

    async def gone() -> bool:
        return not any(alive(pid) for pid in all_three)

    await until(gone, seconds=5)


async def test_agent_that_is_stopped_leaves_no_process_of_its_program(
    tenant: Tenant, server: TaskServer, tmp_path: Path
) -> None:
    all_three = await _brood(tenant, server, tmp_path, lambda process: process.terminate())
    assert not any(alive(pid) for pid in all_three)


async def test_agent_leaves_no_guard_behind(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    async with agent(server, tmp_path, ECHO) as process:
        (guard,) = children(process.pid)
        await process.kill()

        async def gone() -> bool:
            return not alive(guard)

        await until(gone, seconds=5)


async def test_agent_with_a_bad_token_ends_with_one_clear_line(server: TaskServer, tmp_path: Path) -> None:
    async with agent(server, tmp_path, ECHO, token="gwr_wrong", wait_ready=False) as process:
        assert await process.wait() == 1
    assert "gateway: the server does not accept this token (401)" in process.log
    assert "Traceback" not in process.log
    assert "gwr_wrong" not in process.log


async def test_agent_whose_token_is_revoked_ends(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    async with agent(server, tmp_path, ECHO) as process:
        server.revoked = True
        server.service.drain()
        assert await process.wait() == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--server", "127.0.0.1:8420", "--", "true"], "--server"),
        (["--server", "http://127.0.0.1:1", "--", "/no/such/program"], "not a program"),
        (["--server", "http://127.0.0.1:1"], "COMMAND"),
        (["--server", "http://127.0.0.1:1", "--token", "gwr_grüße", "--", "true"], "--token"),
        (["--server", "http://127.0.0.1:1", "--concurrency", "0", "--", "true"], "--concurrency"),
    ],
)
async def test_agent_wrong_usage_is_exit_2(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    log = tmp_path / "log"
    environment = {"AGENT_TOKEN": TOKEN}
    async with open_gateway(
        ["agent", "run", *arguments], environment=environment, log=log, wait_ready=False
    ) as process:
        assert await process.wait() == 2
    assert complaint in process.log


async def test_agent_program_reads_the_whole_task(tenant: Tenant, server: TaskServer, tmp_path: Path) -> None:
    session = await say(tenant, "hello")
    async with agent(server, tmp_path, "import sys; print(sys.stdin.read())"):
        await until(lambda: ended(tenant))
    task = json.loads((await tenant.answers(session))[0])
    assert task["chat_session_id"] == str(session.id)
    assert task["messages"][0]["text"] == "hello"
