"""`gateway migrate up|down|status`: applies, takes back or lists migrations of the database's schema."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import trio

from gateway.cli.output import config_option, json_option, print_json, print_table
from gateway.config import Settings, load_settings
from gateway.daemon.database import open_address
from gateway.postgres import migrate as migrations

T = TypeVar("T")


@click.group()
def migrate() -> None:
    """Bring the database's schema up, down, or show where it stands."""


@migrate.command()
@config_option
@json_option
def up(config: Path | None, as_json: bool) -> None:
    """Apply all pending migrations."""
    _print_steps(
        _on_database(config, migrations.migrate_up), as_json, done="applied", nothing="the schema is up to date"
    )


@migrate.command()
@click.option("--steps", type=click.IntRange(min=1), help="How many to take back; 1 unless --to is given.")
@click.option("--to", metavar="MIGRATION", help="Take back everything after this one.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask at.")
@config_option
@json_option
def down(config: Path | None, as_json: bool, steps: int | None, to: str | None, yes: bool) -> None:
    """Take back the last migration. Data that only newer versions store is lost.

    Refused while a daemon uses the database. At a terminal it asks first.
    """
    if steps is not None and to is not None:
        raise click.UsageError("give --steps or --to, not both")
    settings, agreed = load_settings(config), None
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("this drops tables and what is in them: say --yes where there is no terminal to ask")
        agreed = trio.run(_work_on, settings, lambda conninfo: migrations.steps_back(conninfo, steps=steps, to=to))
        if agreed:
            click.echo(f"{', '.join(agreed)}: taking this back drops tables and what is in them.", err=True)
            click.confirm("Go on?", abort=True, err=True)
    taken_back = trio.run(
        _work_on, settings, lambda conninfo: migrations.migrate_down(conninfo, steps=steps, to=to, agreed=agreed)
    )
    _print_steps(taken_back, as_json, done="taken back", nothing="nothing to take back")


@migrate.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Show every migration and when it was applied."""
    steps = _on_database(config, migrations.status)
    if as_json:
        print_json([{"id": step.id, "applied_at": step.applied_at} for step in steps])
    else:
        print_table(("migration", "applied"), [(step.id, step.applied_at or "pending") for step in steps])


def _on_database(config: Path | None, work: Callable[[str], Awaitable[T]]) -> T:
    return trio.run(_work_on, load_settings(config), work)


async def _work_on(settings: Settings, work: Callable[[str], Awaitable[T]]) -> T:
    async with open_address(settings, attach=True) as address:
        return await work(address.for_sessions)


def _print_steps(ids: list[str], as_json: bool, *, done: str, nothing: str) -> None:
    if as_json:
        print_json(ids)
    elif not ids:
        click.echo(nothing)
    for migration in [] if as_json else ids:
        click.echo(f"{done} {migration}")
