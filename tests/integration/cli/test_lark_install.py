"""`gateway lark install` as a process: what it shows, how it ends, and a daemon that takes part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio

from gateway.keyring import KeyRing, generate_key
from gateway.lark.api.client import open_http_client
from gateway.lark.install.scan import ScanService, ask_over, run_installs
from gateway.lark.install.service import InstallationService, identify_over
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from support.device_flow import APP_ID, APP_SECRET, DENIED, PENDING, DeviceFlow, granted, of_brand
from support.lark_directory import Place, add_installation, add_place
from support.lark_rest import Call, FakePlatform, Reply, serving_platform
from support.partition import open_partition

SECONDS = 40


@dataclass
class Terminal:
    """Runs `gateway lark install` as a person at a pipe would."""

    place: Place
    pool: Pool
    platform: FakePlatform
    flow: DeviceFlow
    environment: dict[str, str]
    key: str
    processes: list[trio.Process] = field(default_factory=list)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        with trio.fail_after(SECONDS):
            done = await trio.run_process(
                self.command(*arguments), env=self.environment, capture_stdout=True, capture_stderr=True, check=False
            )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def command(self, *arguments: str) -> list[str]:
        agent = str(self.place.agent_id)
        return [sys.executable, "-m", "gateway", "lark", "install", "--agent", agent, *arguments]

    async def sql(self, statement: str) -> list[Any]:
        async with self.pool.connection() as conn:
            cursor = await conn.execute(statement.encode())
            return list(await cursor.fetchall()) if cursor.description else []


@pytest.fixture
async def terminal(pool: Pool, database: str, tmp_path: Any) -> AsyncIterator[Terminal]:
    key = generate_key()
    async with serving_platform() as platform:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | {
            "GATEWAY_DATABASE_URL": database,
            "GATEWAY_SECRET_KEY": key,
            "GATEWAY_STATE_DIR": str(tmp_path),
            "GATEWAY_LARK__OPEN_BASE_URL": platform.base_url,
            "GATEWAY_LARK__ACCOUNTS_BASE_URL": platform.base_url,
            "XDG_CONFIG_HOME": str(tmp_path),
            "PYTHONIOENCODING": "utf-8",
        }
        yield Terminal(await add_place(pool), pool, platform, DeviceFlow(platform), environment, key)


async def test_install_shows_the_code_and_the_link_and_connects_the_bot(terminal: Terminal) -> None:
    terminal.flow.polls = [PENDING, of_brand("lark"), granted(brand="lark")]
    code, out, err = await terminal.run()
    assert code == 0, err
    assert "▀" in out
    assert "https://accounts.feishu.cn/verify?user_code=AB-CD&from=sdk&tp=sdk&source=agent-gateway&name=ada&" in out
    assert f"app_id             {APP_ID}" in out
    assert "region             lark" in out
    assert APP_SECRET not in out + err
    assert await terminal.sql("select user_id, channel_user_id from channel_user_binding") == [
        (terminal.place.owner_id, "ou_eve")
    ]
    drawn = [line for line in out.splitlines() if "█" in line]
    assert max(map(len, drawn)) <= 80


async def test_install_where_nothing_can_be_drawn_still_shows_the_link(terminal: Terminal) -> None:
    terminal.environment["PYTHONIOENCODING"] = "ascii"
    terminal.flow.polls = [granted()]
    code, out, err = await terminal.run()
    assert code == 0, err
    assert "this output is ascii" in out
    assert "https://accounts.feishu.cn/verify?user_code=AB-CD&" in out


async def test_install_as_json_prints_the_link_and_then_the_installation(terminal: Terminal) -> None:
    terminal.flow.polls = [granted()]
    code, out, err = await terminal.run("--json")
    assert (code, err) == (0, "")
    begun, bot = map(json.loads, out.splitlines())
    assert set(begun) == {"session_id", "qr_code_url", "expires_in_seconds", "poll_interval_seconds"}
    assert (bot["app_id"], bot["agent_id"], bot["status"]) == (APP_ID, str(terminal.place.agent_id), "active")


async def test_install_for_an_agent_with_a_live_bot_needs_replace(terminal: Terminal) -> None:
    await add_installation(terminal.pool, terminal.place)
    terminal.flow.polls = [granted()]
    code, out, err = await terminal.run()
    assert (code, out, terminal.flow.begun) == (1, "", 0)
    assert "cli_0123456789abcdef" in err
    assert "--replace" in err
    code, out, err = await terminal.run("--replace")
    assert code == 0, err
    assert await terminal.sql("select config ->> 'app_id' from channel_installation") == [(APP_ID,)]


async def test_install_that_is_denied_says_so_and_exits_1(terminal: Terminal) -> None:
    terminal.flow.polls = [DENIED]
    code, out, err = await terminal.run("--json")
    assert code == 1
    assert json.loads(out.splitlines()[1])["error_reason"] == "access_denied"
    assert "said no (access_denied" in err


@pytest.mark.parametrize(
    ("changes", "arguments", "code", "words"),
    [
        ({}, ("--agent", "00000000-0000-4000-8000-000000000000"), 1, "there is no agent"),
        ({}, ("--installer", "nobody@acme.example"), 1, "is not a member"),
        ({}, ("--region", "mars"), 2, "mars"),
        ({"GATEWAY_SECRET_KEY": ""}, (), 78, "secret_key"),
    ],
)
async def test_install_that_cannot_begin_says_why(
    terminal: Terminal, changes: dict[str, str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    terminal.environment.update(changes)
    ended, _, err = await terminal.run(*arguments)
    assert (ended, words in err) == (code, True), err
    assert terminal.flow.begun == 0


async def test_install_that_is_interrupted_leaves_the_session_to_a_daemon(terminal: Terminal) -> None:
    polled = trio.Event()

    async def poll(_call: Call) -> Reply:
        polled.set()
        return PENDING

    terminal.flow.polls = [poll]
    with trio.fail_after(SECONDS):
        process = await trio.lowlevel.open_process(
            terminal.command(), env=terminal.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        await polled.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 1
        assert process.stderr is not None
        err = b"".join([part async for part in process.stderr]).decode()
        await process.stderr.aclose()
    assert "stopped waiting" in err
    terminal.flow.polls = [granted()]
    await finish_by_daemon(terminal)
    assert await terminal.sql("select status from lark_install_session") == [("success",)]


async def test_install_waits_for_a_database_that_is_away(terminal: Terminal) -> None:
    async with (
        open_partition(terminal.environment["GATEWAY_DATABASE_URL"]) as partition,
        trio.open_nursery() as nursery,
    ):

        async def away_for_a_second() -> None:
            partition.cut_all()
            await trio.sleep(1)
            partition.cut = False

        async def poll(_call: Call) -> Reply:
            nursery.start_soon(away_for_a_second)
            return PENDING

        terminal.environment["GATEWAY_DATABASE_URL"] = partition.conninfo
        terminal.flow.polls = [poll, granted()]
        code, _, err = await terminal.run("--json")
    assert code == 0, err


async def test_install_that_is_stopped_as_the_code_appears_says_what_becomes_of_it(terminal: Terminal) -> None:
    with trio.fail_after(SECONDS):
        process = await trio.lowlevel.open_process(
            terminal.command("--json"), env=terminal.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        out = await process.stdout.receive_some()
        process.send_signal(signal.SIGTERM)
        out += b"".join([part async for part in process.stdout])
        err = b"".join([part async for part in process.stderr]).decode()
        assert await process.wait() == 1
        await process.stdout.aclose()
        await process.stderr.aclose()
    assert json.loads(out.splitlines()[-1])["status"] == "pending"
    assert "stopped waiting" in err


async def test_install_beside_a_daemon_polls_each_session_one_step_at_a_time(terminal: Terminal) -> None:
    """Both take part; what the platform grants once is stored once."""
    under_way = 0
    most = 0

    async def poll(_call: Call) -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(0.05)
        under_way -= 1
        return granted() if len(terminal.flow.polled) > 5 else PENDING

    terminal.flow.polls = [poll] * 20
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish_by_daemon, terminal)
        code, _, err = await terminal.run("--json")
        nursery.cancel_scope.cancel()
    assert (code, most) == (0, 1), err
    assert len(terminal.flow.polled) == 6


async def finish_by_daemon(terminal: Terminal) -> None:
    """What a daemon does with sessions, until none is pending any more; at least one has to be there once."""
    ring, base, stop = KeyRing.parse(terminal.key), terminal.platform.base_url, trio.Event()
    async with open_http_client() as http, trio.open_nursery() as nursery:
        bots = InstallationService(PostgresInstallationStore(terminal.pool), ring, identify_over(http, base))
        scans = ScanService(
            PostgresInstallStore(terminal.pool), bots, ring, ask_over(http), accounts_base_override=base
        )
        await nursery.start(partial(run_installs, scans, stop=stop))
        with trio.fail_after(SECONDS):
            while await terminal.sql("select count(*), bool_or(status = 'pending') from lark_install_session") != [
                (1, False)
            ]:
                scans.wake.set()
                await trio.sleep(0.05)
        stop.set()
