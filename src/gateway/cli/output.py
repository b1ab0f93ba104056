"""Helpers that all commands share: the `--config` and `--json` options, printing, and reading secrets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """Add `--config PATH` to a command, which gets it as `config: Path | None`."""
    option = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The TOML file to read instead of the default ones.",
    )
    return option(command)


def json_option(command: F) -> F:
    """Add `--json` to a command, which gets it as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def print_json(value: object) -> None:
    """Print one JSON document on one line of stdout."""
    click.echo(msgspec.json.encode(value).decode())


def print_record(record: Mapping[str, object]) -> None:
    """Print an object for people: one `name  value` line per field that is set."""
    shown = {name: text for name, value in record.items() if (text := plain(value))}
    width = max((len(name) for name in shown), default=0)
    for name, text in shown.items():
        click.echo(f"{name.ljust(width)}  {text}")


def print_secret_note() -> None:
    """Tell a person who sees a new token to keep it. The note goes to stderr, so that stdout holds the record alone."""
    click.echo("keep the token now: it is not stored and cannot be shown again", err=True)


def plain(value: object) -> str:
    """Return a value as one line of text: times in UTC to the second, and control characters escaped.

    Unescaped, control characters could steer the reader's terminal.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    text = str(value)
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def read_secret(label: str) -> str:
    """Read one line of stdin without its line break. At a terminal it prompts, and does not show the typed text.

    Raises click.UsageError for text that is not UTF-8.
    """
    # Bytes, where stdin has them: in some locales the text would be decoded as something else, without an error.
    source: Any = getattr(sys.stdin, "buffer", sys.stdin)
    try:
        if sys.stdin.isatty():
            typed: str = click.prompt(label, hide_input=True, err=True, default="", show_default=False)
            return typed
        line: str | bytes = source.readline()
        return (line if isinstance(line, str) else line.decode()).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{label}: stdin is not UTF-8 text") from error


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows: a table on a terminal, tab-separated values in a pipe."""
    cells = [[plain(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells]:
            click.echo("\t".join(row))
        return
    # Imported where a table or a bar is drawn: most output is plain, and `gateway --help` must stay quick.
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # An id that is cut off cannot be given to another command: the first column keeps its width, others wrap.
    first, *others = (Column(name, overflow="fold") for name in columns)
    first.no_wrap = True
    table = Table(first, *others, box=None, pad_edge=False)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield `show(what, done, total)`, which draws a bar for each `what` if stderr is a terminal, and else nothing.

    The bars disappear when the block ends; a command prints its result after that.
    """
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
