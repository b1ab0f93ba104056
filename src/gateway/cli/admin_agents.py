"""`gateway admin agent|runtime`: agents, and where their programs run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from gateway.cli.administering import Columns, confirm_removal, perform, show, show_list, yes_option
from gateway.cli.output import config_option, json_option
from gateway.daemon.administration import AdminServices
from gateway.work.people.administration import ListedAgent, ListedRuntime
from gateway.work.people.directory import Agent, AgentChange

NO_RUNTIME = "none"
_AGENTS: Columns = (
    ("ID", "id"), ("AGENT", "path"), ("RUNTIME", "runtime"), ("OWNER", "owner"), ("VISIBILITY", "visibility"),
    ("ARCHIVED", "archived_at"),
)  # fmt: skip
_RUNTIMES: Columns = (
    ("ID", "id"), ("RUNTIME", "path"), ("KIND", "kind"), ("VERSION", "version"),
    ("LAST HEARTBEAT", "last_heartbeat_at"),
)  # fmt: skip
_WORKSPACE_HELP = "Of one workspace only: a slug, an id, or a unique name."


@click.group()
def agent() -> None:
    """Agents. AGENT is an id, a name that one agent has, or WORKSPACE/NAME."""


@agent.command("add")
@click.argument("workspace")
@click.argument("name")
@click.option("--owner", metavar="EMAIL", help="A member; the workspace's owner unless given.")
@click.option(
    "--private",
    is_flag=True,
    help="Only its owner and admins put it to work; its bot answers every bound member.",
)
@click.option("--runtime", metavar="RUNTIME", help="The runtime that runs it: an id, or a name of the workspace.")
@config_option
@json_option
def agent_add(
    *,
    workspace: str,
    name: str,
    owner: str | None,
    private: bool,
    runtime: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Add an agent to WORKSPACE (a slug or an id)."""

    async def add(admin: AdminServices) -> Agent:
        place = await admin.administration.workspace(workspace)
        person = await admin.administration.user(owner) if owner is not None else None
        runtime_id = None if runtime is None else await admin.administration.runtime_id(runtime, place.id)
        return await admin.directory.add_agent(place, name, owner=person, runtime_id=runtime_id, private=private)

    show(perform(config, add), as_json)


@agent.command("list")
@click.option("--workspace", metavar="WORKSPACE", help=_WORKSPACE_HELP)
@config_option
@json_option
def agent_list(workspace: str | None, config: Path | None, as_json: bool) -> None:
    """Show agents, also archived and private ones."""

    async def find(admin: AdminServices) -> Any:
        return await admin.administration.agents(await _workspace_id(admin, workspace))

    show_list(perform(config, find), _AGENTS, as_json)


@agent.command("show")
@click.argument("reference", metavar="AGENT")
@config_option
@json_option
def agent_show(reference: str, config: Path | None, as_json: bool) -> None:
    """Show one agent."""
    show(perform(config, lambda admin: admin.administration.agent(reference)), as_json)


@agent.command("set")
@click.argument("reference", metavar="AGENT")
@click.option("--runtime", metavar="RUNTIME", help=f"The runtime; {NO_RUNTIME!r} takes it away.")
@click.option("--archived/--no-archived", default=None, help="Archive it, or bring it back.")
@click.option("--name", help="Its new name.")
@click.option("--owner", metavar="EMAIL", help="The member who owns it from now on.")
@config_option
@json_option
def agent_set(
    *,
    reference: str,
    runtime: str | None,
    archived: bool | None,
    name: str | None,
    owner: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Change an agent. Options that are not given leave their part as it is."""
    if runtime is None and archived is None and name is None and owner is None:
        raise click.UsageError("nothing to change: give --runtime, --archived, --name or --owner")

    async def change(admin: AdminServices) -> Agent:
        found = await admin.administration.agent(reference)
        bare = runtime is None or runtime == NO_RUNTIME
        wanted = AgentChange(
            name=name,
            owner_id=None if owner is None else (await admin.administration.user(owner)).id,
            sets_runtime=runtime is not None,
            runtime_id=None if bare else await admin.administration.runtime_id(str(runtime), found.workspace_id),
            archived=archived,
        )
        return await admin.directory.set_agent(found, wanted)

    show(perform(config, change), as_json)


@agent.command("remove")
@click.argument("reference", metavar="AGENT")
@yes_option
@config_option
@json_option
def agent_remove(reference: str, yes: bool, config: Path | None, as_json: bool) -> None:
    """Remove an agent that never worked. One that has a bot, conversations, runs or issues can be archived."""
    confirm_removal(f"the agent {reference}", yes)

    async def remove(admin: AdminServices) -> ListedAgent:
        found = await admin.administration.agent(reference)
        await admin.administration.remove_agent(found)
        return found

    show(perform(config, remove), as_json)


@click.group()
def runtime() -> None:
    """Runtimes: where agent programs run. RUNTIME is an id, a name that one runtime has, or WORKSPACE/NAME."""


@runtime.command("add")
@click.argument("workspace")
@click.argument("name")
@config_option
@json_option
def runtime_add(workspace: str, name: str, config: Path | None, as_json: bool) -> None:
    """Add a runtime to WORKSPACE (a slug or an id) and make its token, which is shown this one time."""

    async def add(admin: AdminServices) -> dict[str, object]:
        made, secret = await admin.directory.add_runtime(await admin.administration.workspace(workspace), name)
        return asdict(made) | {"token": secret}

    show(perform(config, add), as_json)


@runtime.command("list")
@click.option("--workspace", metavar="WORKSPACE", help=_WORKSPACE_HELP)
@config_option
@json_option
def runtime_list(workspace: str | None, config: Path | None, as_json: bool) -> None:
    """Show runtimes and when each was last heard of."""

    async def find(admin: AdminServices) -> Any:
        return await admin.administration.runtimes(await _workspace_id(admin, workspace))

    show_list(perform(config, find), _RUNTIMES, as_json)


@runtime.command("show")
@click.argument("reference", metavar="RUNTIME")
@config_option
@json_option
def runtime_show(reference: str, config: Path | None, as_json: bool) -> None:
    """Show one runtime."""
    show(perform(config, lambda admin: admin.administration.runtime(reference)), as_json)


@runtime.command("rotate-token")
@click.argument("reference", metavar="RUNTIME")
@config_option
@json_option
def runtime_rotate_token(reference: str, config: Path | None, as_json: bool) -> None:
    """Make another token, which is shown this one time. The former one stops working at once."""

    async def rotate(admin: AdminServices) -> dict[str, object]:
        found = await admin.administration.runtime(reference)
        return asdict(found) | {"token": await admin.administration.rotate_runtime_token(found)}

    show(perform(config, rotate), as_json)


@runtime.command("remove")
@click.argument("reference", metavar="RUNTIME")
@yes_option
@config_option
@json_option
def runtime_remove(reference: str, yes: bool, config: Path | None, as_json: bool) -> None:
    """Remove a runtime that no agent is set to. Its token stops working."""
    confirm_removal(f"the runtime {reference}", yes)

    async def remove(admin: AdminServices) -> ListedRuntime:
        found = await admin.administration.runtime(reference)
        await admin.administration.remove_runtime(found)
        return found

    show(perform(config, remove), as_json)


async def _workspace_id(admin: AdminServices, reference: str | None) -> UUID | None:
    return None if reference is None else (await admin.administration.workspace(reference)).id
