"""The parts that the commands of `gateway admin` share: database access, output, the question before a removal."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from gateway.cli.output import print_json, print_record, print_secret_note, print_table
from gateway.config import Settings, load_settings
from gateway.daemon.administration import AdminServices, open_administration

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

Columns = Sequence[tuple[str, str]]
"""The columns of a table for people: each heading with the field that stands under it."""


def perform(config: Path | None, action: Callable[[AdminServices], Awaitable[T]]) -> T:
    """Run `action` on the configured database."""
    return trio.run(_perform_on, load_settings(config), action)


async def _perform_on(settings: Settings, action: Callable[[AdminServices], Awaitable[T]]) -> T:
    async with open_administration(settings) as services:
        return await action(services)


def show(record: object, as_json: bool) -> None:
    """Print one object: a record, or its fields by name."""
    fields: dict[str, Any] = record if isinstance(record, dict) else asdict(record)  # type: ignore[call-overload]
    if as_json:
        print_json(fields)
        return
    print_record(fields)
    if "token" in fields:
        print_secret_note()


def show_list(records: Sequence[Any], columns: Columns, as_json: bool) -> None:
    """Print records: an array for programs, a table for people."""
    if as_json:
        print_json([asdict(record) for record in records])
        return
    rows = [[getattr(record, field) for _, field in columns] for record in records]
    print_table([heading for heading, _ in columns], rows)


def yes_option(command: F) -> F:
    """Add `--yes` to a command that removes something, which gets it as `yes: bool`."""
    return click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal to ask at.")(command)


def confirm_removal(what: str, yes: bool) -> None:
    """Ask at the terminal before something is removed, unless `yes`.

    Raises click.UsageError where there is no terminal, and click.Abort for a no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"this removes {what} for good: say --yes where there is no terminal to ask")
    click.confirm(f"Remove {what} for good?", abort=True, err=True)
