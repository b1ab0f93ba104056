"""`gateway admin`: manages people, workspaces, agents, runtimes and tokens, directly in the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import trio

from gateway.cli.output import config_option, json_option, print_json, print_record, print_secret_note, read_secret
from gateway.config import Settings, load_settings
from gateway.work.people.access import ROLES, Role
from gateway.work.people.directory import SPOKEN, Directory, Language

T = TypeVar("T")

NO_RUNTIME = "none"
_LANGUAGE_HELP = "What its bots speak when the gateway answers for them."


@click.group()
def admin() -> None:
    """People, workspaces, agents, runtimes and tokens."""


@admin.group()
def user() -> None:
    """People."""


@user.command("add")
@click.argument("email")
@click.option("--name", default="", help="How the person is called.")
@click.option("--password-stdin", is_flag=True, help="Read a password for the console from stdin.")
@config_option
@json_option
def user_add(email: str, name: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Add a person. Without a password they cannot log in to the console."""
    password = read_secret("Password") if password_stdin else None
    added = _perform(config, lambda directory: directory.add_user(email, name, password))
    _show(asdict(added), as_json)


@user.command("password", short_help="Set a person's password.")
@click.argument("email")
@click.option("--password-stdin", is_flag=True, required=True, help="Read the password from stdin.")
@config_option
@json_option
def user_password(email: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Set a person's password, and end all of their sessions. Their tokens stay valid.

    Imported people have no password. They cannot log in to the console until one is set.
    """
    password = read_secret("Password")

    async def change(directory: Directory) -> Any:
        person = await directory.user(email)
        await directory.set_password(person, password)
        return person

    _show(asdict(_perform(config, change)), as_json)


@admin.group()
def workspace() -> None:
    """Workspaces."""


@workspace.command("add")
@click.argument("name")
@click.option("--prefix", required=True, metavar="ABC", help="What issue numbers start with: ABC-1.")
@click.option("--owner", required=True, metavar="EMAIL", help="The person who owns it.")
@click.option("--language", type=click.Choice(SPOKEN), default="en", show_default=True, help=_LANGUAGE_HELP)
@config_option
@json_option
def workspace_add(
    *, name: str, prefix: str, owner: str, language: Language, config: Path | None, as_json: bool
) -> None:
    """Add a workspace."""

    async def add(directory: Directory) -> Any:
        return await directory.add_workspace(name, prefix, await directory.user(owner), language)

    _show(asdict(_perform(config, add)), as_json)


@workspace.command("set")
@click.argument("reference", metavar="WORKSPACE")
@click.option("--language", type=click.Choice(SPOKEN), required=True, help=_LANGUAGE_HELP)
@config_option
@json_option
def workspace_set(reference: str, language: Language, config: Path | None, as_json: bool) -> None:
    """Change a workspace. WORKSPACE is a slug or an id."""

    async def change(directory: Directory) -> Any:
        return await directory.set_language(await directory.workspace(reference), language)

    _show(asdict(_perform(config, change)), as_json)


@admin.group()
def member() -> None:
    """Members of a workspace. WORKSPACE is a slug or an id."""


@member.command("add")
@click.argument("workspace")
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True)
@config_option
@json_option
def member_add(workspace: str, email: str, role: Role, config: Path | None, as_json: bool) -> None:
    """Make a person a member."""

    async def add(directory: Directory) -> Any:
        return await directory.add_member(await directory.workspace(workspace), await directory.user(email), role)

    _show(asdict(_perform(config, add)), as_json)


@member.command("remove", short_help="End a membership.")
@click.argument("workspace")
@click.argument("email")
@config_option
@json_option
def member_remove(workspace: str, email: str, config: Path | None, as_json: bool) -> None:
    """End a membership; the person's chat accounts are unbound from the workspace's bots."""

    async def remove(directory: Directory) -> dict[str, object]:
        place, person = await directory.workspace(workspace), await directory.user(email)
        await directory.remove_member(place, person)
        return {"id": person.id, "workspace_id": place.id, "user_id": person.id, "email": person.email}

    _show(_perform(config, remove), as_json)


@admin.group()
def agent() -> None:
    """Agents."""


@agent.command("add")
@click.argument("workspace")
@click.argument("name")
@click.option("--owner", metavar="EMAIL", help="A member; the workspace's owner unless given.")
@click.option(
    "--private",
    is_flag=True,
    help="Only its owner and admins put it to work; its bot answers every bound member.",
)
@click.option("--runtime", type=click.UUID, help="The runtime that runs it.")
@config_option
@json_option
def agent_add(
    *,
    workspace: str,
    name: str,
    owner: str | None,
    private: bool,
    runtime: UUID | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Add an agent to WORKSPACE (a slug or an id)."""

    async def add(directory: Directory) -> Any:
        place = await directory.workspace(workspace)
        person = await directory.user(owner) if owner is not None else None
        return await directory.add_agent(place, name, owner=person, runtime_id=runtime, private=private)

    _show(asdict(_perform(config, add)), as_json)


def _runtime_or_none(_context: click.Context, _parameter: click.Parameter, value: str | None) -> UUID | str | None:
    if value is None or value == NO_RUNTIME:
        return value
    converted: UUID = click.UUID.convert(value, _parameter, _context)
    return converted


@agent.command("set")
@click.argument("agent_id", metavar="AGENT", type=click.UUID)
@click.option("--runtime", callback=_runtime_or_none, metavar="ID", help=f"The runtime; {NO_RUNTIME!r} takes it away.")
@click.option("--archived/--no-archived", default=None, help="Archive it, or bring it back.")
@config_option
@json_option
def agent_set(
    agent_id: UUID, runtime: UUID | str | None, archived: bool | None, config: Path | None, as_json: bool
) -> None:
    """Change an agent. Options that are not given leave their part as it is."""
    if runtime is None and archived is None:
        raise click.UsageError("nothing to change: give --runtime or --archived")

    async def change(directory: Directory) -> Any:
        found = await directory.agent(agent_id)
        kept = found.archived_at is not None
        return await directory.set_agent(
            found,
            runtime_id=found.runtime_id if runtime is None else runtime if isinstance(runtime, UUID) else None,
            archived=kept if archived is None else archived,
        )

    _show(asdict(_perform(config, change)), as_json)


@admin.group()
def token() -> None:
    """Tokens of people."""


@token.command("add")
@click.option("--user", "email", required=True, metavar="EMAIL", help="Whose token it is.")
@click.option("--name", default="", help="What it is for.")
@config_option
@json_option
def token_add(email: str, name: str, config: Path | None, as_json: bool) -> None:
    """Make a token for a person. It is shown this one time."""

    async def add(directory: Directory) -> dict[str, object]:
        made, secret = await directory.add_user_token(await directory.user(email), name)
        return _public_token(asdict(made)) | {"token": secret}

    _show(_perform(config, add), as_json)


@admin.group()
def runtime() -> None:
    """Runtimes: where agent programs run."""


@runtime.command("add")
@click.argument("workspace")
@click.argument("name")
@config_option
@json_option
def runtime_add(workspace: str, name: str, config: Path | None, as_json: bool) -> None:
    """Add a runtime to WORKSPACE (a slug or an id) and make its token, which is shown this one time."""

    async def add(directory: Directory) -> dict[str, object]:
        made, secret = await directory.add_runtime(await directory.workspace(workspace), name)
        return asdict(made) | {"token": secret}

    _show(_perform(config, add), as_json)


def _perform(config: Path | None, action: Callable[[Directory], Awaitable[T]]) -> T:
    return trio.run(_perform_on, load_settings(config), action)


async def _perform_on(settings: Settings, action: Callable[[Directory], Awaitable[T]]) -> T:
    from gateway.daemon.database import open_database
    from gateway.postgres.directory_store import PostgresDirectoryStore

    async with open_database(settings, attach=True) as pool:
        return await action(Directory(PostgresDirectoryStore(pool)))


def _public_token(made: dict[str, Any]) -> dict[str, Any]:
    return {name: made[name] for name in ("id", "user_id", "name", "created_at")}


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    print_record(record)
    if "token" in record:
        print_secret_note()
