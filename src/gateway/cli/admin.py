"""`gateway admin`: manages people, workspaces, agents, runtimes and tokens, directly in the database."""

from __future__ import annotations

import click

from gateway.cli.admin_agents import agent, runtime
from gateway.cli.admin_people import member, token, user, workspace


@click.group()
def admin() -> None:
    """People, workspaces, agents, runtimes and tokens.

    Names do wherever ids are taken, if they are unique. EMAIL is an address, WORKSPACE a slug, and AGENT and RUNTIME
    may be written as WORKSPACE/NAME.
    """


for group in (user, workspace, member, agent, runtime, token):
    admin.add_command(group)
