"""`gateway lark`: bots and the people bound to them, directly in the database. A running daemon notices at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import trio

from gateway.channel.installation import InstallationView
from gateway.cli.bots import AGENT_HELP, REPLACE_HELP, shown
from gateway.cli.lark_install import install
from gateway.cli.output import config_option, json_option, print_json, print_record, print_table, read_secret
from gateway.config import Settings, load_settings
from gateway.daemon.administration import open_bindings
from gateway.daemon.platforms import open_installations
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.install.account_id import check_open_id
from gateway.lark.install.service import Installed, NewApp
from gateway.lark.install.shown import takes_posts, where_to_post
from gateway.work.people.bindings import BindingService

T = TypeVar("T")


@click.group()
def lark() -> None:
    """Lark and Feishu bots and who is bound to them.

    INSTALLATION is an id, the id of the app, or the bot's agent: its name where it is unique, or WORKSPACE/NAME.
    """


def _console_secret(variable: str) -> dict[str, Any]:
    """Return the settings of an option for a secret of the developer console.

    The secret may also come from a variable or stdin, because every user of the machine can read the command line.
    """
    words = "The console's, for --event-mode http; - reads it from stdin, after the app secret and in this order."
    return {"default": "", "envvar": variable, "show_envvar": True, "help": words}


@lark.command("add", short_help="Connect an app to an agent.")
@click.option("--agent", required=True, metavar="AGENT", help=AGENT_HELP)
@click.option("--app-id", required=True, metavar="cli_…", help="From the platform's developer console.")
@click.option("--app-secret-stdin", is_flag=True, required=True, help="Read the app secret from stdin.")
@click.option("--region", type=click.Choice(["feishu", "lark"]), default="feishu", show_default=True)
@click.option("--installer", metavar="EMAIL", help="A member; the workspace's owner unless given.")
@click.option("--event-mode", type=click.Choice(["socket", "http"]), default="socket", show_default=True)
@click.option("--encrypt-key", **_console_secret("LARK_ENCRYPT_KEY"))
@click.option("--verification-token", **_console_secret("LARK_VERIFICATION_TOKEN"))
@click.option("--allow-bots", is_flag=True, help="Listen to other bots too. Two bots can talk for ever.")
@click.option("--allow-mention-all", is_flag=True, help="Let the agent's answers call everybody in a group.")
@click.option("--replace", "replaces", is_flag=True, help=REPLACE_HELP)
@config_option
@json_option
def add(
    *,
    agent: str,
    app_id: str,
    app_secret_stdin: bool,  # required: every user of the machine could read a secret on the command line
    region: str,
    installer: str | None,
    event_mode: str,
    encrypt_key: str,
    verification_token: str,
    allow_bots: bool,
    allow_mention_all: bool,
    replaces: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Connect an app that was made by hand to an agent, or give the agent's app new credentials.

    If the agent has a bot with another app, the agent keeps it and the command fails, unless --replace is given.
    """
    app_secret = read_secret("App secret").strip()
    app = partial(
        NewApp,
        app_id=app_id,
        app_secret=app_secret,
        region=region,
        event_mode=event_mode,
        installer_email=installer,
        encrypt_key=_or_stdin(encrypt_key, "Encrypt key"),
        verification_token=_or_stdin(verification_token, "Verification token"),
        allow_bots=allow_bots,
        allow_mention_all=allow_mention_all,
        replaces=replaces,
    )
    settings = load_settings(config)
    installed = trio.run(_add, settings, agent, app)
    if installed.warning:
        click.echo(f"warning: {installed.warning}", err=True)
    _show(shown(installed.installation, settings), as_json)
    _say_where_to_post([installed.installation], settings)


lark.add_command(install)


@lark.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """Show every bot and whether it can receive messages."""
    settings = load_settings(config)
    installations = trio.run(_list, settings)
    if as_json:
        print_json([shown(installation, settings) for installation in installations])
        return
    rows = [
        (
            view.id,
            view.app_id,
            view.details["region"],
            view.agent_id,
            view.status,
            view.shown_state,
            view.shown_detail,
            view.last_event_at,
        )
        for view in installations
    ]
    print_table(("ID", "APP", "REGION", "AGENT", "STATUS", "CONNECTION", "DETAIL", "LAST EVENT"), rows)
    _say_where_to_post(installations, settings)


@lark.command("revoke")
@click.argument("installation")
@config_option
@json_option
def revoke(installation: str, config: Path | None, as_json: bool) -> None:
    """Take a bot out of service. Its row and its bound people stay, for when it is added again."""
    settings = load_settings(config)
    _show(shown(trio.run(_revoke, settings, installation), settings), as_json)


@lark.command("bind")
@click.argument("installation")
@click.argument("open_id")
@click.argument("email")
@config_option
@json_option
def bind(installation: str, open_id: str, email: str, config: Path | None, as_json: bool) -> None:
    """Vouch that OPEN_ID, as this bot sees it, is the member EMAIL."""
    check_open_id(open_id)
    binding = _with_bindings(config, installation, lambda bindings, id: bindings.bind(id, open_id, email))
    _show(asdict(binding), as_json)


@lark.command("unbind")
@click.argument("installation")
@click.argument("open_id")
@config_option
@json_option
def unbind(installation: str, open_id: str, config: Path | None, as_json: bool) -> None:
    """Remove the binding of OPEN_ID, as this bot sees it."""

    async def remove(bindings: BindingService, id: UUID) -> dict[str, Any]:
        await bindings.unbind(id, open_id)
        return {"installation_id": id, "channel_user_id": open_id}

    _show(_with_bindings(config, installation, remove), as_json)


async def _add(settings: Settings, agent: str, app: Callable[..., NewApp]) -> Installed:
    async with open_installations(settings) as (installations, references):
        return await installations.add(app(agent_id=await references.agent(agent)))


async def _revoke(settings: Settings, installation: str) -> InstallationView:
    async with open_installations(settings) as (installations, references):
        return await installations.revoke(await references.installation(CHANNEL_TYPE, installation))


async def _list(settings: Settings) -> list[InstallationView]:
    async with open_installations(settings) as (installations, _):
        return await installations.list()


def _with_bindings(config: Path | None, installation: str, action: Callable[[BindingService, UUID], Awaitable[T]]) -> T:
    return trio.run(_on_bindings, load_settings(config), installation, action)


async def _on_bindings(
    settings: Settings, installation: str, action: Callable[[BindingService, UUID], Awaitable[T]]
) -> T:
    async with open_bindings(settings) as (bindings, references):
        return await action(bindings, await references.installation(CHANNEL_TYPE, installation))


def _or_stdin(value: str, label: str) -> str:
    return read_secret(label).strip() if value == "-" else value


def _say_where_to_post(views: list[InstallationView], settings: Settings) -> None:
    """Print the one step that is left to a person. It goes to stderr, so that stdout stays a table or an object."""
    for view in views:
        if takes_posts(view):
            click.echo(f"{view.app_id}: {where_to_post(settings.http.public_url, view.id)}", err=True)


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    connection = record.pop("connection", {})
    # The platform's code 0 means that there is nothing to report.
    print_record(record | {f"connection.{name}": value for name, value in connection.items() if value != 0})
