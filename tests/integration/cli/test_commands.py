"""The command line as processes on a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from pydantic import SecretStr

from gateway.config import HttpSettings, Settings
from gateway.daemon.run import run_daemon
from gateway.errors import Unauthenticated
from gateway.ids import new_id
from gateway.observe.notify import Notifier
from gateway.postgres.account_store import PostgresAccountStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.migrate import migrate_down
from gateway.postgres.pool import Pool, open_pool
from gateway.work.people.accounts import Accounts
from gateway.work.people.directory import Directory, RuntimePrincipal, UserPrincipal
from support.processes import free_address


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Gateway = Callable[..., Awaitable[Done]]


@pytest.fixture
def gateway(database: str, tmp_path: Path) -> Gateway:
    """Run `gateway …` as a process on this test's database."""
    ours = ("GATEWAY_", "SSL_CERT_")  # what the machine says about either is not this test's to answer for
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}

    async def gateway(*arguments: str, stdin: bytes = b"", **variables: str) -> Done:
        env = {**inherited, "GATEWAY_DATABASE_URL": database, "GATEWAY_STATE_DIR": str(tmp_path), **variables}
        with trio.fail_after(60):
            done = await trio.run_process(
                [sys.executable, "-m", "gateway", *arguments],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=env,
            )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return gateway


async def test_admin_sets_up_a_workspace_from_nothing(gateway: Gateway, pool: Pool) -> None:
    directory = Directory(PostgresDirectoryStore(pool))
    ada = (
        await gateway(
            "admin",
            "user",
            "add",
            "Ada@example.com",
            "--name",
            "Ada",
            "--password-stdin",
            "--json",
            stdin=b"fake-password\n",
        )
    ).json
    assert (ada["email"], ada["name"]) == ("ada@example.com", "Ada")
    acme = (
        await gateway("admin", "workspace", "add", "Acme", "--prefix", "ACM", "--owner", "ada@example.com", "--json")
    ).json
    assert (acme["slug"], acme["issue_prefix"]) == ("acme", "ACM")
    runtime = (await gateway("admin", "runtime", "add", "acme", "box", "--json")).json
    assert await directory.authenticate(runtime["token"]) == RuntimePrincipal(UUID(runtime["id"]), UUID(acme["id"]))
    agent = (await gateway("admin", "agent", "add", acme["id"], "Helper", "--runtime", runtime["id"], "--json")).json
    assert (agent["workspace_id"], agent["owner_id"], agent["runtime_id"]) == (acme["id"], ada["id"], runtime["id"])
    token = (await gateway("admin", "token", "add", "--user", "ada@example.com", "--name", "laptop", "--json")).json
    assert token.keys() == {"id", "user_id", "name", "created_at", "token"}
    assert await directory.authenticate(token["token"]) == UserPrincipal(UUID(ada["id"]))


async def test_admin_chooses_what_a_workspace_speaks(gateway: Gateway, pool: Pool) -> None:
    await Directory(PostgresDirectoryStore(pool)).add_user("ada@example.com")
    add = ("admin", "workspace", "add", "Acme", "--prefix", "ACM", "--owner", "ada@example.com")
    acme = (await gateway(*add, "--language", "zh-Hans", "--json")).json
    assert acme["language"] == "zh-Hans"
    assert (await gateway("admin", "workspace", "set", "acme", "--language", "en", "--json")).json == {
        **acme,
        "language": "en",
    }
    assert (await gateway("admin", "workspace", "set", "acme", "--language", "tlh")).code == 2
    assert (await gateway("admin", "workspace", "set", "nowhere", "--language", "en")).code == 1


async def test_admin_sets_the_password_of_somebody_who_has_none(gateway: Gateway, pool: Pool) -> None:
    await Directory(PostgresDirectoryStore(pool)).add_user("ada@example.com")
    accounts = Accounts(PostgresAccountStore(pool))
    done = await gateway(
        "admin", "user", "password", "Ada@example.com", "--password-stdin", "--json", stdin=b"fake-former\n"
    )
    assert done.json["email"] == "ada@example.com"
    assert "fake-former" not in done.out + done.err
    session = await accounts.sign_in("ada@example.com", "fake-former")
    assert (
        await gateway("admin", "user", "password", "ada@example.com", "--password-stdin", stdin=b"fake-latter\n")
    ).code == 0
    assert await accounts.owner(session) is None
    with pytest.raises(Unauthenticated):
        await accounts.sign_in("ada@example.com", "fake-former")
    assert await accounts.owner(await accounts.sign_in("ada@example.com", "fake-latter")) is not None


async def test_admin_takes_a_password_from_stdin_alone(gateway: Gateway) -> None:
    assert (await gateway("admin", "user", "password", "ada@example.com")).code == 2
    assert (await gateway("admin", "user", "password", "ada@example.com", "not-a-real-password")).code == 2


async def test_admin_prints_lines_for_people(gateway: Gateway) -> None:
    done = await gateway("admin", "user", "add", "ada@example.com")
    assert done.code == 0
    fields = dict(line.split(maxsplit=1) for line in done.out.splitlines() if len(line.split()) > 1)
    assert fields["email"] == "ada@example.com"
    assert UUID(fields["id"])


async def test_admin_changes_an_agent_only_where_told(gateway: Gateway, pool: Pool) -> None:
    directory = Directory(PostgresDirectoryStore(pool))
    acme = await directory.add_workspace("Acme", "ACM", await directory.add_user("ada@example.com"))
    runtime, _ = await directory.add_runtime(acme, "box")
    agent = await directory.add_agent(acme, "Helper", runtime_id=runtime.id)
    archived = (await gateway("admin", "agent", "set", str(agent.id), "--archived", "--json")).json
    assert archived["archived_at"] is not None
    assert archived["runtime_id"] == str(runtime.id)
    bare = (await gateway("admin", "agent", "set", str(agent.id), "--runtime", "none", "--json")).json
    assert bare["runtime_id"] is None
    assert bare["archived_at"] == archived["archived_at"]


async def test_admin_removes_a_member_with_their_bindings(gateway: Gateway, pool: Pool) -> None:
    directory = Directory(PostgresDirectoryStore(pool))
    acme = await directory.add_workspace("Acme", "ACM", await directory.add_user("ada@example.com"))
    bob = await directory.add_user("bob@example.com")
    added = (await gateway("admin", "member", "add", "acme", "bob@example.com", "--role", "admin", "--json")).json
    assert (added["id"], added["user_id"], added["role"]) == (str(bob.id), str(bob.id), "admin")
    async with pool.connection() as conn:
        await conn.execute(
            "insert into channel_user_binding"
            " (id, workspace_id, user_id, installation_id, channel_type, channel_user_id)"
            " values (%s, %s, %s, %s, 'feishu', 'ou_x')",
            (new_id(), acme.id, bob.id, new_id()),
        )
    assert (await gateway("admin", "member", "remove", "acme", "bob@example.com")).code == 0
    async with pool.connection() as conn:
        row = await (await conn.execute("select count(*) from channel_user_binding")).fetchone()
    assert row == (0,)
    again = await gateway("admin", "member", "remove", "acme", "bob@example.com")
    assert (again.code, again.err) == (1, "gateway: bob@example.com is not a member of acme\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["user", "add", "ada@example.com"], "a user with the e-mail address ada@example.com exists"),
        (["user", "add", "nobody"], "'nobody' is not an e-mail address"),
        (["workspace", "add", "X", "--prefix", "x1", "--owner", "ada@example.com"], "the prefix 'x1' is not"),
        (["workspace", "add", "X", "--prefix", "X", "--owner", "eve@example.com"], "no user has the e-mail address"),
        (["member", "add", "nowhere", "ada@example.com"], "no workspace has the slug or id nowhere"),
        (["token", "add", "--user", "eve@example.com"], "no user has the e-mail address eve@example.com"),
        (["user", "password", "eve@example.com", "--password-stdin"], "no user has the e-mail address eve@example.com"),
        (["user", "password", "ada@example.com", "--password-stdin"], "the password must have 8 to"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
async def test_admin_refuses_in_one_line(gateway: Gateway, pool: Pool, arguments: list[str], complaint: str) -> None:
    await Directory(PostgresDirectoryStore(pool)).add_user("ada@example.com")
    done = await gateway("admin", *arguments, "--json")
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith(f"gateway: {complaint}")
    assert done.err.count("\n") == 1


async def test_command_without_a_database_says_so_in_one_line(gateway: Gateway) -> None:
    url = "postgresql://127.0.0.1:1/nothing?connect_timeout=2"
    done = await gateway("admin", "user", "add", "ada@example.com", GATEWAY_DATABASE_URL=url)
    assert done.code == 1
    assert done.err.startswith("gateway: ")
    assert "Traceback" not in done.err


async def test_migrate_goes_down_and_up_and_says_where_it_stands(gateway: Gateway) -> None:
    before = (await gateway("migrate", "status", "--json")).json
    assert before
    assert all(step["applied_at"] for step in before)
    last = before[-1]["id"]
    assert (await gateway("migrate", "down", "--yes", "--json")).json == [last]
    after = (await gateway("migrate", "status", "--json")).json
    assert [step["id"] for step in after if step["applied_at"] is None] == [last]
    assert (await gateway("migrate", "up")).out == f"applied {last}\n"
    assert (await gateway("migrate", "up")).out == "the schema is up to date\n"
    assert (await gateway("migrate", "up", "--json")).json == []
    table = await gateway("migrate", "status")
    assert table.out.splitlines()[0] == "migration\tapplied"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "say --yes where there is no terminal to ask"),
        (["--yes", "--steps", "500"], 1, "500 steps cannot be taken back, because "),
        (["--yes", "--to", "9999_nothing"], 1, "there is no migration 9999_nothing"),
    ],
)
async def test_migrate_down_that_cannot_be_meant_changes_nothing(
    gateway: Gateway, arguments: list[str], code: int, complaint: str
) -> None:
    done = await gateway("migrate", "down", *arguments)
    assert (done.code, done.out) == (code, "")
    assert complaint in done.err
    assert all(step["applied_at"] for step in (await gateway("migrate", "status", "--json")).json)


async def test_migrate_down_under_a_running_daemon_is_refused(gateway: Gateway, database: str) -> None:
    settings = Settings(database_url=SecretStr(database), http=HttpSettings(bind="127.0.0.1:0"))
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(partial(run_daemon, settings, stop=stop, notifier=Notifier({})))
        done = await gateway("migrate", "down", "--yes")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("gateway: a daemon runs on this database: stop every daemon first")
        assert all(step["applied_at"] for step in (await gateway("migrate", "status", "--json")).json)
        stop.set()
    assert (await gateway("migrate", "down", "--yes")).code == 0


async def test_doctor_finds_a_sound_installation_sound(gateway: Gateway) -> None:
    found = (await gateway("doctor", "--json", GATEWAY_HTTP__BIND=free_address())).json
    assert found["ok"] is True
    assert {check["name"]: check["ok"] for check in found["checks"]} == {
        "configuration": True,
        "secret_key": True,
        "database": True,
        "migrations": True,
        "daemon": True,
        "secrets": True,
        "bots": True,
    }
    assert found["installations"] == found["runtimes"] == []


async def test_doctor_tells_the_proxy_and_fails_for_one_that_cannot_be_used(gateway: Gateway) -> None:
    found = await gateway("doctor", HTTPS_PROXY="http://ann:fake-pass@proxy.example:3128")
    assert (found.code, "proxy: platforms are reached through http://proxy.example:3128" in found.out) == (0, True)
    found = await gateway("doctor", ALL_PROXY="ftp://ann:fake-pass@proxy.example")
    assert found.code == 1
    assert "FAIL  proxy: ALL_PROXY: a ftp:// proxy is not supported" in found.out
    assert "fake-pass" not in found.out


async def test_doctor_fails_when_migrations_are_pending(gateway: Gateway, database: str) -> None:
    await migrate_down(database)
    done = await gateway("doctor")
    assert done.code == 1
    assert "FAIL  migrations: pending: " in done.out


async def test_doctor_fails_when_the_database_is_away(gateway: Gateway) -> None:
    url = "postgresql://127.0.0.1:1/nothing?connect_timeout=2"
    done = await gateway("doctor", "--json", GATEWAY_DATABASE_URL=url, GATEWAY_HTTP__BIND=free_address())
    assert done.code == 1
    failed = [check["name"] for check in json.loads(done.out)["checks"] if not check["ok"]]
    assert failed == ["database"]


async def test_doctor_fails_for_a_bot_nobody_listens_for(gateway: Gateway, database: str) -> None:
    async with open_pool(database, size_max=1) as pool:
        directory = Directory(PostgresDirectoryStore(pool))
        acme = await directory.add_workspace("Acme", "ACM", await directory.add_user("ada@example.com"))
        agent = await directory.add_agent(acme, "Helper")
        async with pool.connection() as conn:
            await conn.execute(
                "insert into channel_installation (id, workspace_id, agent_id, channel_type, config)"
                """ values (%s, %s, %s, 'feishu', '{"app_id": "cli_fake"}')""",
                (new_id(), acme.id, agent.id),
            )
    done = await gateway("doctor")
    assert done.code == 1
    assert "FAIL  bot cli_fake: nobody listens for it" in done.out
    found = json.loads((await gateway("doctor", "--json")).out)
    assert found["installations"][0]["app_id"] == "cli_fake"


async def test_doctor_with_a_key_of_the_wrong_length_is_a_wrong_configuration(gateway: Gateway) -> None:
    done = await gateway("doctor", GATEWAY_SECRET_KEY="c2hvcnQ=")
    assert done.code == 78
    assert done.out == ""
    assert "secret_key" in done.err
    assert done.err.count("\n") == 1


async def test_task_commands_find_what_became_of_runs(gateway: Gateway, database: str) -> None:
    async with open_pool(database, size_max=2) as pool:
        directory = Directory(PostgresDirectoryStore(pool))
        owner = await directory.add_user("ada@example.com")
        acme = await directory.add_workspace("Acme", "ACM", owner)
        other = await directory.add_workspace("Other", "OTH", owner)
        runtime, _ = await directory.add_runtime(acme, "box")
        agents = [
            await directory.add_agent(acme, "Helper", runtime_id=runtime.id),
            await directory.add_agent(acme, "Idle"),
        ]
        agents.append(await directory.add_agent(other, "Helper"))
        tasks = [new_id() for _ in agents]
        async with pool.connection() as conn:
            await conn.execute("alter table agent_task add column if not exists stderr_tail text")
            for number, (task_id, agent) in enumerate(zip(tasks, agents, strict=True)):
                issue_id = new_id()
                await conn.execute(
                    "insert into issue (id, workspace_id, number, title) values (%s, %s, %s, 'plum pudding')",
                    (issue_id, agent.workspace_id, number + 1),
                )
                await conn.execute(
                    "insert into agent_task (id, workspace_id, agent_id, kind, issue_id, status, attempt, error,"
                    " failure_reason, result, completed_at, created_at) values (%s, %s, %s, 'issue', %s, %s, 2, %s, %s,"
                    """ '{"output": "plum pudding"}', now(), now() + make_interval(secs => %s))""",
                    (
                        task_id,
                        agent.workspace_id,
                        agent.id,
                        issue_id,
                        "failed" if number == 0 else "completed",
                        "line 1\nline \x1b[31m2" if number == 0 else None,
                        "agent_error.process_failure" if number == 0 else None,
                        number,
                    ),
                )
            await conn.execute("update agent_task set stderr_tail = 'no key' where status = 'failed'")
    listed = await gateway("task", "list")
    header, *rows = [line.split("\t") for line in listed.out.splitlines()]
    assert header == ["ID", "AGENT", "KIND", "STATUS", "ATTEMPT", "REASON", "RUNTIME", "CREATED", "STARTED", "ENDED"]
    assert [row[:2] for row in rows] == [
        [str(tasks[2]), "other/Helper"],
        [str(tasks[1]), "acme/Idle"],
        [str(tasks[0]), "acme/Helper"],
    ]
    assert rows[2][2:7] == ["issue", "failed", "2", "agent_error.process_failure", "box"]
    assert "plum" not in listed.out

    async def found(*options: str) -> list[str]:
        return [each["id"] for each in (await gateway("task", "list", "--json", *options)).json]

    assert await found("--status", "failed") == [str(tasks[0])]
    assert await found("--workspace", "other") == [str(tasks[2])]
    assert await found("--agent", "Idle") == await found("--agent", str(agents[1].id)) == [str(tasks[1])]
    assert await found("--agent", "acme/Helper", "--limit", "1") == [str(tasks[0])]
    ambiguous = await gateway("task", "list", "--agent", "Helper")
    assert (ambiguous.code, ambiguous.out) == (1, "")
    assert "'Helper' may be any of acme/Helper, other/Helper; name it as WORKSPACE/NAME" in ambiguous.err
    assert (await gateway("task", "list", "--agent", "Nobody")).err == "gateway: there is no agent 'Nobody'\n"
    assert (await gateway("task", "list", "--status", "lost")).code == 2

    shown = (await gateway("task", "show", str(tasks[0]), "--json")).json
    expected = {"status": "failed", "attempt": 2, "issue_key": "ACM-1", "runtime": "box", "outbound": []}
    assert {name: shown[name] for name in expected} == expected
    assert (shown["error"], shown["stderr_tail"]) == ("line 1\nline \x1b[31m2", "no key")
    text = (await gateway("task", "show", str(tasks[0]))).out
    assert "error:\n  line 1\n  line \\x1b[31m2\nstderr_tail:\n  no key\n" in text
    assert "plum" not in text
    missing = await gateway("task", "show", str(new_id()))
    assert (missing.code, "there is no task" in missing.err) == (1, True)
    assert (await gateway("task", "show", "7")).code == 2


def test_help_is_quick() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "gateway", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    total = max(int(line.split("|")[1]) for line in done.stderr.splitlines() if line.startswith("import time:  "))
    assert total < 300_000
