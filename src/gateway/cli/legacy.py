"""`gateway legacy`: imports the reference product's database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import trio

from gateway.cli.output import config_option, json_option, plain, print_json, print_table, progress_bars, read_secret
from gateway.config import Settings, load_settings
from gateway.daemon.database import open_database, required_keyring
from gateway.legacy.importer import ImportReport, import_legacy
from gateway.legacy.rows import LegacyKey
from gateway.legacy.source_store import open_legacy_source
from gateway.legacy.target_store import open_legacy_target
from gateway.work.secrets import Progress


@dataclass(frozen=True, slots=True)
class _Imported:
    """The result of an import. `shape` is the generation of the old tables that was read: `lark` or `channel`."""

    shape: str
    report: ImportReport


@click.group()
def legacy() -> None:
    """Move in from the reference product's database."""


@legacy.command("import", short_help="Copy bots, their people and conversations.")
@click.option("--from", "source", required=True, metavar="CONNINFO", help="The old database; it is only read.")
@click.option("--legacy-key-stdin", is_flag=True, required=True, help="Read MULTICA_LARK_SECRET_KEY from stdin.")
@click.option("--dry-run", is_flag=True, help="Write nothing, and say what would be done.")
@config_option
@json_option
@click.pass_context
def import_(
    context: click.Context,
    *,
    source: str,
    legacy_key_stdin: bool,  # required: every user of the machine could read a key on the command line
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Copy the bots of the old database with their workspaces, people, agents, conversations and bindings.

    Ids are kept, and secrets are sealed anew under our own key. Rows that are here already stay as they are, so the
    command can be run again. Running it again brings back rows that were removed here since. Stop the old server first:
    if a bot is connected on both sides, each message reaches either side by chance. Give the password of CONNINFO in
    PGPASSWORD or a password file. Exits with 1 when something was left behind that needs a person.
    """
    key = LegacyKey(read_secret("Legacy key"))
    with progress_bars() as progress:
        imported = trio.run(_import, load_settings(config), source, key, dry_run, progress)
    _show(imported, dry_run, as_json)
    context.exit(1 if imported.report.conflicts else 0)


async def _import(settings: Settings, conninfo: str, key: LegacyKey, dry_run: bool, progress: Progress) -> _Imported:
    ring = required_keyring(settings)
    async with (
        open_database(settings, attach=True) as pool,
        open_legacy_source(conninfo) as source,
        open_legacy_target(pool, dry_run=dry_run) as target,
    ):
        return _Imported(source.shape, await import_legacy(source, target, key, ring, progress))


def _show(imported: _Imported, dry_run: bool, as_json: bool) -> None:
    report = imported.report
    if report.still_held:
        bots = f"{len(report.still_held)} of these bots"
        click.echo(f"warning: the old server is still connected for {bots}; stop it, or messages go astray", err=True)
    if as_json:
        shown = {"tables": report.tables, "conflicts": report.conflicts, "still_held": report.still_held}
        print_json({"dry_run": dry_run, "source": imported.shape, **shown})
        return
    new = "WOULD BE NEW" if dry_run else "NEW"
    rows = [(table, tally.new, tally.unchanged, tally.skipped) for table, tally in report.tables.items()]
    print_table(("TABLE", new, "UNCHANGED", "SKIPPED"), rows)
    for table, tally in report.tables.items():
        for reason, count in tally.reasons.items():
            click.echo(f"skipped {count} of {table}: {plain(reason)}")
    if dry_run:
        click.echo("nothing was written: this was a dry run")
    for conflict in report.conflicts:
        click.echo(f"FAIL  {conflict.table} {plain(conflict.id)}: {plain(conflict.reason)}", err=True)
