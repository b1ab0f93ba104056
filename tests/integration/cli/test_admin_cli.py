"""`gateway admin` lists, shows, changes and removes what it added, by whatever name an operator writes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog
import trio

from gateway.cli import run
from gateway.ids import new_id
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.work.people.directory import Agent, Directory, Runtime, RuntimePrincipal, User, Workspace


class Operator:
    """Runs command lines in a thread, because they start a trio of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""

    async def run(self, *arguments: str) -> int:
        self._monkeypatch.setattr("sys.stdin", io.StringIO())
        group = () if arguments[0] == "task" else ("admin",)
        code = await trio.to_thread.run_sync(run, [*group, *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    async def json(self, *arguments: str) -> Any:
        assert await self.run(*arguments, "--json") == 0, self.err
        return json.loads(self.out)

    async def refusal(self, *arguments: str) -> str:
        assert await self.run(*arguments) == 1
        assert self.out == ""
        assert self.err.count("\n") == 1
        return self.err.removeprefix("gateway: ").rstrip("\n")


@pytest.fixture
def operator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: str, tmp_path: Path
) -> Iterator[Operator]:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database)
    monkeypatch.setenv("GATEWAY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Operator(monkeypatch, capsys)
    # A command sends the logs to its own stderr, which is gone after the test.
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def directory(pool: Pool) -> Directory:
    return Directory(PostgresDirectoryStore(pool))


@pytest.fixture
async def ada(directory: Directory) -> User:
    return await directory.add_user("ada@example.com", "Ada")


@pytest.fixture
async def acme(directory: Directory, ada: User) -> Workspace:
    return await directory.add_workspace("Acme Ltd", "ACM", ada)


@pytest.fixture
async def box(directory: Directory, acme: Workspace) -> Runtime:
    runtime, _ = await directory.add_runtime(acme, "box")
    return runtime


@pytest.fixture
async def helper(directory: Directory, acme: Workspace, box: Runtime) -> Agent:
    return await directory.add_agent(acme, "Helper", runtime_id=box.id)


async def test_lists_are_arrays_of_what_show_prints(operator: Operator, ada: User, helper: Agent) -> None:
    token = await operator.json("token", "add", "--user", "ada@example.com", "--name", "laptop")
    for kind, reference in (("workspace", "acme-ltd"), ("agent", "Helper"), ("runtime", "box")):
        (only,) = await operator.json(kind, "list")
        assert only == await operator.json(kind, "show", reference), kind
    (person,) = await operator.json("user", "list")
    shown = await operator.json("user", "show", "ada@example.com")
    assert shown == person | {"workspaces": shown["workspaces"]}
    assert [(place["slug"], place["role"]) for place in shown["workspaces"]] == [("acme-ltd", "owner")]
    (member,) = await operator.json("member", "list", "acme-ltd")
    assert member == await operator.json("member", "show", "acme-ltd", "ada@example.com")
    tokens = {each["id"]: each for each in await operator.json("token", "list")}
    assert tokens[token["id"]] == await operator.json("token", "show", token["id"])
    assert sorted(each["owner"] for each in tokens.values()) == ["acme-ltd/box", "ada@example.com"]
    assert [each["id"] for each in await operator.json("token", "list", "--user", "Ada")] == [token["id"]]
    assert token["token"] not in operator.out


async def test_tables_name_what_people_know(operator: Operator, helper: Agent) -> None:
    assert await operator.run("agent", "list", "--workspace", "Acme Ltd") == 0
    header, row = (line.split("\t") for line in operator.out.splitlines())
    assert header == ["ID", "AGENT", "RUNTIME", "OWNER", "VISIBILITY", "ARCHIVED"]
    assert row == [str(helper.id), "acme-ltd/Helper", "box", "ada@example.com", "workspace", ""]


async def test_references_are_ids_unique_names_or_paths(
    operator: Operator, directory: Directory, ada: User, helper: Agent, box: Runtime
) -> None:
    for reference in (str(helper.id), str(helper.id).upper(), "Helper", "acme-ltd/Helper"):
        assert (await operator.json("agent", "show", reference))["id"] == str(helper.id)
    for reference in (str(box.id), "box", "acme-ltd/box"):
        assert (await operator.json("runtime", "show", reference))["id"] == str(box.id)
    for reference in (str(ada.id), "ADA@example.com", "Ada"):
        assert (await operator.json("user", "show", reference))["id"] == str(ada.id)
    for reference in (str(helper.workspace_id), "acme-ltd", "Acme Ltd"):
        assert (await operator.json("workspace", "show", reference))["id"] == str(helper.workspace_id)
    other = await directory.add_workspace("Other", "OTH", ada)
    twin = await directory.add_agent(other, "Helper")
    assert await operator.refusal("agent", "show", "Helper") == (
        "'Helper' may be any of acme-ltd/Helper, other/Helper; name it as WORKSPACE/NAME"
    )
    assert (await operator.json("agent", "show", "other/Helper"))["id"] == str(twin.id)
    assert await operator.refusal("agent", "show", "other/Nobody") == "there is no agent 'other/Nobody'"
    # An agent that is called like another one's id does not take its place.
    await directory.add_agent(other, str(helper.id))
    assert (await operator.json("agent", "show", str(helper.id)))["name"] == "Helper"


async def test_agent_takes_a_runtime_by_the_name_it_has_in_the_workspace(
    operator: Operator, directory: Directory, ada: User, helper: Agent, box: Runtime
) -> None:
    other = await directory.add_workspace("Other", "OTH", ada)
    theirs, _ = await directory.add_runtime(other, "box")
    added = await operator.json("agent", "add", "other", "Second", "--runtime", "box")
    assert added["runtime_id"] == str(theirs.id)
    changed = await operator.json("agent", "set", "Helper", "--name", "Aide", "--runtime", "none")
    assert (changed["name"], changed["runtime_id"]) == ("Aide", None)
    assert (await operator.json("agent", "set", "Aide", "--runtime", "box"))["runtime_id"] == str(box.id)
    assert await operator.refusal("agent", "set", "Aide", "--runtime", str(theirs.id)) == (
        f"there is no runtime {str(theirs.id)!r}"
    )
    await directory.add_agent(await directory.workspace("acme-ltd"), "Taken")
    assert await operator.refusal("agent", "set", "Aide", "--name", "Taken") == "another agent is called Taken"


async def test_agent_is_given_to_another_member(operator: Operator, directory: Directory, helper: Agent) -> None:
    bob = await directory.add_user("bob@example.com")
    refused = await operator.refusal("agent", "set", "Helper", "--owner", "bob@example.com")
    assert refused == "the new owner is not a member of the agent's workspace"
    await directory.add_member(await directory.workspace("acme-ltd"), bob)
    assert (await operator.json("agent", "set", "Helper", "--owner", "bob@example.com"))["owner_id"] == str(bob.id)


async def test_member_role_changes_and_the_last_owner_stays(
    operator: Operator, directory: Directory, acme: Workspace
) -> None:
    bob = await directory.add_user("bob@example.com")
    assert await operator.refusal("member", "set", "acme-ltd", "bob@example.com", "--role", "guest") == (
        "bob@example.com is not a member of acme-ltd"
    )
    await directory.add_member(acme, bob)
    assert (await operator.json("member", "set", "acme-ltd", "bob@example.com", "--role", "admin"))["role"] == "admin"
    assert await operator.refusal("member", "set", "acme-ltd", "ada@example.com", "--role", "member") == (
        "ada@example.com is the only owner of acme-ltd; add another owner first"
    )
    assert (await operator.json("member", "set", "acme-ltd", "ada@example.com", "--role", "owner"))["role"] == "owner"
    await operator.json("member", "set", "acme-ltd", "bob@example.com", "--role", "owner")
    assert (await operator.json("member", "set", "acme-ltd", "ada@example.com", "--role", "guest"))["role"] == "guest"


async def test_revoked_token_is_refused_from_then_on(operator: Operator, directory: Directory, ada: User) -> None:
    token, secret = await directory.add_user_token(ada, "laptop")
    assert await directory.authenticate(secret) is not None
    revoked = await operator.json("token", "revoke", "laptop")
    assert revoked["id"] == str(token.id)
    assert revoked["revoked_at"] is not None
    assert await directory.authenticate(secret) is None
    assert (await operator.json("token", "revoke", str(token.id)))["revoked_at"] == revoked["revoked_at"]
    assert await operator.refusal("token", "revoke", "laptop") == "there is no token 'laptop'"


async def test_rotated_runtime_token_replaces_the_former_at_once(
    operator: Operator, directory: Directory, acme: Workspace
) -> None:
    runtime, former = await directory.add_runtime(acme, "box")
    rotated = await operator.json("runtime", "rotate-token", "acme-ltd/box")
    assert rotated["id"] == str(runtime.id)
    assert await directory.authenticate(former) is None
    assert await directory.authenticate(rotated["token"]) == RuntimePrincipal(runtime.id, acme.id)


@pytest.mark.parametrize("kind", ["user", "workspace", "agent", "runtime"])
async def test_removal_without_a_terminal_needs_yes(operator: Operator, helper: Agent, kind: str) -> None:
    assert await operator.run(kind, "remove", str(helper.id)) == 2
    assert "say --yes" in operator.err


async def test_removal_is_refused_while_something_depends_on_it(
    operator: Operator, directory: Directory, pool: Pool, helper: Agent
) -> None:
    assert await operator.refusal("user", "remove", "Ada", "--yes") == (
        "ada@example.com still has 1 workspace as its only owner (acme-ltd), 1 agent as its owner (acme-ltd/Helper); "
        "add another owner, or give the agents to another member with `gateway admin agent set --owner`"
    )
    assert await operator.refusal("workspace", "remove", "acme-ltd", "--yes") == (
        "acme-ltd still has 1 agent (Helper), 1 runtime (box); remove these first"
    )
    assert "1 agent (acme-ltd/Helper)" in await operator.refusal("runtime", "remove", "box", "--yes")
    async with pool.connection() as conn:
        await conn.execute(
            "insert into channel_installation (id, workspace_id, agent_id, channel_type, config)"
            """ values (%s, %s, %s, 'feishu', '{"app_id": "cli_0123456789abcdef"}')""",
            (new_id(), helper.workspace_id, helper.id),
        )
        for _ in range(2):
            await conn.execute(
                "insert into chat_session (id, workspace_id, agent_id) values (%s, %s, %s)",
                (new_id(), helper.workspace_id, helper.id),
            )
    assert await operator.refusal("agent", "remove", "Helper", "--yes") == (
        "acme-ltd/Helper still has 1 live bot (cli_0123456789abcdef), 2 conversations; "
        "archive it instead with `gateway admin agent set --archived`, which keeps its past"
    )
    assert await directory.agent(helper.id) == helper


async def test_removal_takes_what_belongs_to_the_object_alone(
    operator: Operator, directory: Directory, pool: Pool, helper: Agent, acme: Workspace
) -> None:
    bob = await directory.add_user("bob@example.com")
    await directory.add_member(acme, bob)
    _, secret = await directory.add_user_token(bob)
    async with pool.connection() as conn:
        await conn.execute(
            "insert into channel_user_binding"
            " (id, workspace_id, user_id, installation_id, channel_type, channel_user_id)"
            " values (%s, %s, %s, %s, 'feishu', 'ou_x')",
            (new_id(), acme.id, bob.id, new_id()),
        )
    assert (await operator.json("user", "remove", "bob@example.com", "--yes"))["id"] == str(bob.id)
    assert await directory.authenticate(secret) is None
    async with pool.connection() as conn:
        assert await (await conn.execute("select count(*) from channel_user_binding")).fetchone() == (0,)
    assert UUID((await operator.json("agent", "remove", "Helper", "--yes"))["id"]) == helper.id
    await operator.json("runtime", "remove", "box", "--yes")
    await operator.json("workspace", "remove", "acme-ltd", "--yes")
    await operator.json("user", "remove", "ada@example.com", "--yes")
    for kind in ("user", "workspace", "agent", "runtime", "token"):
        assert await operator.json(kind, "list") == [], kind


async def test_task_is_shown_by_the_run_of_an_autopilot_too(operator: Operator, pool: Pool, helper: Agent) -> None:
    autopilot_id, own, issued, idle = new_id(), new_id(), new_id(), new_id()
    tasks, issue_id = {own: new_id(), issued: new_id()}, new_id()
    place = helper.workspace_id
    async with pool.connection() as conn:
        await conn.execute(
            "insert into issue (id, workspace_id, number, title) values (%s, %s, 1, 'x')", (issue_id, place)
        )
        await conn.execute(
            "insert into autopilot (id, workspace_id, title, assignee_id) values (%s, %s, 'x', %s)",
            (autopilot_id, place, helper.id),
        )
        for run_id, status in ((own, "running"), (issued, "issue_created"), (idle, "skipped")):
            await conn.execute(
                "insert into autopilot_run (id, workspace_id, autopilot_id, source, status, issue_id)"
                " values (%s, %s, %s, 'manual', %s, %s)",
                (run_id, place, autopilot_id, status, issue_id if run_id == issued else None),
            )
        for run_id, kind in ((own, "autopilot"), (issued, "issue")):
            await conn.execute(
                "insert into agent_task (id, workspace_id, agent_id, kind, autopilot_run_id, issue_id)"
                " values (%s, %s, %s, %s, %s, %s)",
                (tasks[run_id], place, helper.id, kind, run_id if run_id == own else None,
                 issue_id if run_id == issued else None),
            )  # fmt: skip
    for run_id, task_id in tasks.items():
        assert (await operator.json("task", "show", str(run_id)))["id"] == str(task_id)
    assert "no run of an autopilot with a task" in await operator.refusal("task", "show", str(idle))
