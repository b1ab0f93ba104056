"""`gateway keygen`: prints a new secret_key."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.output import config_option, json_option, print_json
from gateway.keyring import generate_key


@click.command()
@config_option
@json_option
def keygen(config: Path | None, as_json: bool) -> None:
    """Print a new secret_key.

    To rotate, put it in front of the old one: GATEWAY_SECRET_KEY=new,old.
    """
    key = generate_key()
    if as_json:
        print_json({"secret_key": key})
    else:
        click.echo(key)
