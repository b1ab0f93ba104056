"""`gateway secrets`: works on the sealed secrets directly in the database, also while daemons run."""

from __future__ import annotations

from pathlib import Path

import click
import trio

from gateway.cli.output import config_option, json_option, plain, print_json, progress_bars
from gateway.config import load_settings
from gateway.daemon.secret_rotation import rotate_stored
from gateway.work.secrets import ResealResult, Rotation


@click.group()
def secrets() -> None:
    """Stored secrets and the keys they are sealed under."""


@secrets.command("rotate", short_help="Seal every stored secret under the newest key.")
@config_option
@json_option
@click.pass_context
def rotate(context: click.Context, config: Path | None, as_json: bool) -> None:
    """Seal every stored secret under the newest key of secret_key, so that older keys can be removed from it.

    First give every daemon the new key in front of the old one, and restart it. This command reconnects no bot. Exits
    with 1 when a secret does not open with any key; the others are sealed all the same.
    """
    with progress_bars() as progress:
        rotation = trio.run(rotate_stored, load_settings(config), progress)
    _show(rotation, as_json)
    context.exit(1 if rotation.troubles else 0)


def _show(rotation: Rotation, as_json: bool) -> None:
    counts = {outcome.value: rotation.count(outcome) for outcome in ResealResult}
    if as_json:
        print_json({"total": len(rotation.outcomes), **counts, "troubles": rotation.troubles})
        return
    click.echo(
        f"{counts['resealed']} sealed under the newest key, {counts['current']} were already,"
        f" {counts['unreadable'] + counts['changing']} were not"
    )
    for trouble in rotation.troubles:
        click.echo(f"FAIL  {trouble.kind} {trouble.owner_id}: {plain(trouble.name)}: {trouble.reason}", err=True)
    if counts["unreadable"]:
        click.echo("put the key that sealed them behind the others, or give the secrets again", err=True)
    if counts["changing"]:
        click.echo("what kept changing is sealed by running this again", err=True)
