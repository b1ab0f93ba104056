"""What every command shares: its `--config` and `--json` options, and how it prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """`--config PATH`, passed on as `config: Path | None`."""
    option = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The TOML file to read instead of the default ones.",
    )
    return option(command)


def json_option(command: F) -> F:
    """`--json`, passed on as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def print_json(value: object) -> None:
    """One JSON document on one line of stdout."""
    click.echo(msgspec.json.encode(value).decode())


def print_record(record: Mapping[str, object]) -> None:
    """An object for people: one `name  value` line per field that is set."""
    width = max((len(name) for name in record), default=0)
    for name, value in record.items():
        if value is not None:
            click.echo(f"{name.ljust(width)}  {value}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows for people: a table on a terminal, tab-separated values in a pipe."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells]:
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
