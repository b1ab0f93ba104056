"""`gateway admin user|workspace|member|token`: people, where they work, and the tokens of their programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gateway.cli.administering import Columns, confirm_removal, perform, show, show_list, yes_option
from gateway.cli.output import config_option, json_option, print_json, print_record, print_table, read_secret
from gateway.daemon.administration import AdminServices
from gateway.work.people.access import ROLES, Role
from gateway.work.people.directory import PASSWORD_LENGTH_MIN, SPOKEN, Language, Member, User, Workspace

_PASSWORD_HELP = f"It has {PASSWORD_LENGTH_MIN} characters or more."
_LANGUAGE_HELP = "What its bots speak when the gateway answers for them."
_PEOPLE: Columns = (("EMAIL", "email"), ("NAME", "name"), ("ID", "id"), ("ADDED", "created_at"))
_WORKSPACES: Columns = (
    ("SLUG", "slug"), ("NAME", "name"), ("PREFIX", "issue_prefix"), ("LANGUAGE", "language"), ("ID", "id"),
)  # fmt: skip
_MEMBERS: Columns = (("EMAIL", "email"), ("NAME", "name"), ("ROLE", "role"), ("ID", "id"), ("SINCE", "created_at"))
_TOKENS: Columns = (
    ("ID", "id"), ("OWNER", "owner"), ("NAME", "name"), ("ADDED", "created_at"), ("LAST USED", "last_used_at"),
    ("REVOKED", "revoked_at"),
)  # fmt: skip


@click.group()
def user() -> None:
    """People. EMAIL may also be an id, or a name that one person has."""


@user.command("add")
@click.argument("email")
@click.option("--name", default="", help="How the person is called.")
@click.option(
    "--password-stdin",
    is_flag=True,
    help=f"Read a password for the console from stdin. {_PASSWORD_HELP}",
)
@config_option
@json_option
def user_add(email: str, name: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Add a person. Without a password they cannot log in to the console."""
    password = read_secret("Password") if password_stdin else None
    show(perform(config, lambda admin: admin.directory.add_user(email, name, password)), as_json)


@user.command("list")
@config_option
@json_option
def user_list(config: Path | None, as_json: bool) -> None:
    """Show everybody, by e-mail address."""
    show_list(perform(config, lambda admin: admin.administration.users()), _PEOPLE, as_json)


@user.command("show")
@click.argument("email")
@config_option
@json_option
def user_show(email: str, config: Path | None, as_json: bool) -> None:
    """Show one person, with their workspaces and roles."""

    async def find(admin: AdminServices) -> tuple[User, list[tuple[Workspace, Member]]]:
        person = await admin.administration.user(email)
        return person, await admin.administration.memberships(person)

    person, memberships = perform(config, find)
    roles = [{"id": place.id, "slug": place.slug, "name": place.name, "role": one.role} for place, one in memberships]
    if as_json:
        print_json(asdict(person) | {"workspaces": roles})
        return
    print_record(asdict(person))
    if roles:
        print_table(("WORKSPACE", "ROLE"), [(each["slug"], each["role"]) for each in roles])


@user.command("password", short_help="Set a person's password.")
@click.argument("email")
@click.option(
    "--password-stdin",
    is_flag=True,
    required=True,
    help=f"Read the password from stdin. {_PASSWORD_HELP}",
)
@config_option
@json_option
def user_password(email: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Set a person's password, and end all of their sessions. Their tokens stay valid.

    Imported people have no password. They cannot log in to the console until one is set.
    """
    password = read_secret("Password")

    async def change(admin: AdminServices) -> User:
        person = await admin.administration.user(email)
        await admin.directory.set_password(person, password)
        return person

    show(perform(config, change), as_json)


@user.command("remove", short_help="Remove a person.")
@click.argument("email")
@yes_option
@config_option
@json_option
def user_remove(email: str, yes: bool, config: Path | None, as_json: bool) -> None:
    """Remove a person with their memberships, bound accounts, sessions and tokens. What they wrote stays.

    The only owner of a workspace, and the owner of an agent, cannot be removed.
    """
    confirm_removal(f"the person {email}", yes)

    async def remove(admin: AdminServices) -> User:
        person = await admin.administration.user(email)
        await admin.administration.remove_user(person)
        return person

    show(perform(config, remove), as_json)


@click.group()
def workspace() -> None:
    """Workspaces. WORKSPACE is a slug, an id, or a name that one workspace has."""


@workspace.command("add")
@click.argument("name")
@click.option("--prefix", required=True, metavar="ABC", help="What issue numbers start with: ABC-1.")
@click.option("--owner", required=True, metavar="EMAIL", help="The person who owns it.")
@click.option("--language", type=click.Choice(SPOKEN), default="en", show_default=True, help=_LANGUAGE_HELP)
@click.option("--slug", help="Its part of addresses; made from the name unless given.")
@click.option("--shared-prefix", is_flag=True, help="Take the prefix even if another workspace has it.")
@config_option
@json_option
def workspace_add(
    *,
    name: str,
    prefix: str,
    owner: str,
    language: Language,
    slug: str | None,
    shared_prefix: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Add a workspace. A prefix belongs to one workspace, so that the key of an issue means one issue."""

    async def add(admin: AdminServices) -> Workspace:
        person = await admin.administration.user(owner)
        return await admin.directory.add_workspace(
            name, prefix, person, language, slug=slug, shared_prefix=shared_prefix
        )

    show(perform(config, add), as_json)


@workspace.command("list")
@config_option
@json_option
def workspace_list(config: Path | None, as_json: bool) -> None:
    """Show every workspace."""
    show_list(perform(config, lambda admin: admin.administration.workspaces()), _WORKSPACES, as_json)


@workspace.command("show")
@click.argument("reference", metavar="WORKSPACE")
@config_option
@json_option
def workspace_show(reference: str, config: Path | None, as_json: bool) -> None:
    """Show one workspace."""
    show(perform(config, lambda admin: admin.administration.workspace(reference)), as_json)


@workspace.command("set")
@click.argument("reference", metavar="WORKSPACE")
@click.option("--language", type=click.Choice(SPOKEN), required=True, help=_LANGUAGE_HELP)
@config_option
@json_option
def workspace_set(reference: str, language: Language, config: Path | None, as_json: bool) -> None:
    """Change a workspace."""

    async def change(admin: AdminServices) -> Workspace:
        return await admin.directory.set_language(await admin.administration.workspace(reference), language)

    show(perform(config, change), as_json)


@workspace.command("remove")
@click.argument("reference", metavar="WORKSPACE")
@yes_option
@config_option
@json_option
def workspace_remove(reference: str, yes: bool, config: Path | None, as_json: bool) -> None:
    """Remove a workspace that holds nothing but its members."""
    confirm_removal(f"the workspace {reference}", yes)

    async def remove(admin: AdminServices) -> Workspace:
        place = await admin.administration.workspace(reference)
        await admin.administration.remove_workspace(place)
        return place

    show(perform(config, remove), as_json)


@click.group()
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

    async def add(admin: AdminServices) -> Member:
        place, person = await admin.administration.workspace(workspace), await admin.administration.user(email)
        return await admin.directory.add_member(place, person, role)

    show(perform(config, add), as_json)


@member.command("list")
@click.argument("workspace")
@config_option
@json_option
def member_list(workspace: str, config: Path | None, as_json: bool) -> None:
    """Show the members of a workspace and their roles."""

    async def find(admin: AdminServices) -> Any:
        return await admin.administration.members(await admin.administration.workspace(workspace))

    show_list(perform(config, find), _MEMBERS, as_json)


@member.command("show")
@click.argument("workspace")
@click.argument("email")
@config_option
@json_option
def member_show(workspace: str, email: str, config: Path | None, as_json: bool) -> None:
    """Show one member and their role."""

    async def find(admin: AdminServices) -> Member:
        place, person = await admin.administration.workspace(workspace), await admin.administration.user(email)
        return await admin.administration.member(place, person)

    show(perform(config, find), as_json)


@member.command("set")
@click.argument("workspace")
@click.argument("email")
@click.option("--role", type=click.Choice(ROLES), required=True, help="The new role.")
@config_option
@json_option
def member_set(workspace: str, email: str, role: Role, config: Path | None, as_json: bool) -> None:
    """Change a member's role. A workspace keeps at least one owner."""

    async def change(admin: AdminServices) -> Member:
        place, person = await admin.administration.workspace(workspace), await admin.administration.user(email)
        return await admin.directory.set_role(place, person, role)

    show(perform(config, change), as_json)


@member.command("remove", short_help="End a membership.")
@click.argument("workspace")
@click.argument("email")
@config_option
@json_option
def member_remove(workspace: str, email: str, config: Path | None, as_json: bool) -> None:
    """End a membership; the person's chat accounts are unbound from the workspace's bots."""

    async def remove(admin: AdminServices) -> dict[str, object]:
        place, person = await admin.administration.workspace(workspace), await admin.administration.user(email)
        await admin.directory.remove_member(place, person)
        return {"id": person.id, "workspace_id": place.id, "user_id": person.id, "email": person.email}

    show(perform(config, remove), as_json)


@click.group()
def token() -> None:
    """Tokens of people and of runtimes.

    TOKEN is an id, OWNER/NAME, or a name that one live token has. The owner is an e-mail address, or a runtime as
    WORKSPACE/NAME.
    """


@token.command("add")
@click.option("--user", "email", required=True, metavar="EMAIL", help="Whose token it is.")
@click.option("--name", default="", help="What it is for.")
@config_option
@json_option
def token_add(email: str, name: str, config: Path | None, as_json: bool) -> None:
    """Make a token for a person. It is shown this one time."""

    async def add(admin: AdminServices) -> dict[str, object]:
        made, secret = await admin.directory.add_user_token(await admin.administration.user(email), name)
        record = asdict(made)
        return {name: record[name] for name in ("id", "user_id", "name", "created_at")} | {"token": secret}

    show(perform(config, add), as_json)


@token.command("list")
@click.option("--user", "email", metavar="EMAIL", help="Of one person only.")
@config_option
@json_option
def token_list(email: str | None, config: Path | None, as_json: bool) -> None:
    """Show tokens without their secrets, revoked ones last."""

    async def find(admin: AdminServices) -> Any:
        person = None if email is None else await admin.administration.user(email)
        return await admin.administration.tokens(None if person is None else person.id)

    show_list(perform(config, find), _TOKENS, as_json)


@token.command("show")
@click.argument("reference", metavar="TOKEN")
@config_option
@json_option
def token_show(reference: str, config: Path | None, as_json: bool) -> None:
    """Show one token without its secret: whose it is, and when it was last used."""
    show(perform(config, lambda admin: admin.administration.token(reference)), as_json)


@token.command("revoke")
@click.argument("reference", metavar="TOKEN")
@config_option
@json_option
def token_revoke(reference: str, config: Path | None, as_json: bool) -> None:
    """Revoke a token. Requests with it are refused from now on."""

    async def revoke(admin: AdminServices) -> Any:
        return await admin.administration.revoke_token(await admin.administration.token(reference))

    show(perform(config, revoke), as_json)
