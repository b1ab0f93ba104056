"""`gateway version`: prints the version."""

from __future__ import annotations

from pathlib import Path

import click

from gateway import __version__
from gateway.cli.output import config_option, json_option, print_json


@click.command()
@config_option
@json_option
def version(config: Path | None, as_json: bool) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(__version__)
