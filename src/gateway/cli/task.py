"""`gateway task`: shows runs and their outcomes, directly from the database. It shows no text of a conversation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import click
import trio

from gateway.cli.output import config_option, json_option, plain, print_json, print_record, print_table
from gateway.config import Settings, load_settings
from gateway.daemon.administration import open_task_views
from gateway.work.tasks.ports import TaskStatus
from gateway.work.tasks.views import SentForTask, TaskLine, TaskPage

ROWS_MAX = 1_000


@click.group()
def task() -> None:
    """Runs of agents: what became of them and why."""


@task.command("list")
@click.option("--workspace", metavar="WORKSPACE", help="Of one workspace only: a slug, an id, or a unique name.")
@click.option(
    "--agent", metavar="AGENT", help="Of one agent only: an id, a name where it is unique, or WORKSPACE/NAME."
)
@click.option("--status", type=click.Choice([each.value for each in TaskStatus]), help="Only those.")
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=50, show_default=True, help="At most so many.")
@config_option
@json_option
def list_(
    *, workspace: str | None, agent: str | None, status: str | None, limit: int, config: Path | None, as_json: bool
) -> None:
    """Show runs, the latest first."""
    lines = trio.run(_list, load_settings(config), workspace, agent, status, limit)
    if as_json:
        print_json(lines)
        return
    columns = ("ID", "AGENT", "KIND", "STATUS", "ATTEMPT", "REASON", "RUNTIME", "CREATED", "STARTED", "ENDED")
    print_table(columns, [_row(line) for line in lines])


@task.command("show")
@click.argument("task_id", metavar="TASK", type=click.UUID)
@config_option
@json_option
def show(task_id: UUID, config: Path | None, as_json: bool) -> None:
    """Show one run: its attempts, why it failed, the end of its program's stderr, and the delivery of its messages.

    TASK is the id of a task, or of an autopilot's run, whose latest task is shown.
    """
    page, sent = trio.run(_show, load_settings(config), task_id)
    if as_json:
        print_json(asdict(page) | {"outbound": sent})
        return
    texts = {"error": page.error, "stderr_tail": page.stderr_tail}
    print_record({name: value for name, value in asdict(page).items() if name not in texts})
    for name, text in texts.items():
        if text:
            click.echo(f"{name}:")
            for line in text.splitlines():
                click.echo(f"  {plain(line)}")
    if sent:
        rows = [(each.kind, each.part, each.status, each.attempts, each.error_code, each.error) for each in sent]
        print_table(("SAID", "PART", "STATUS", "ATTEMPTS", "CODE", "ERROR"), rows)


def _row(line: TaskLine) -> tuple[object, ...]:
    times = (line.created_at, line.started_at, line.completed_at)
    agent = f"{line.workspace}/{line.agent}"
    return (line.id, agent, line.kind, line.status, line.attempt, line.failure_reason, line.runtime, *times)


async def _list(
    settings: Settings, workspace: str | None, agent: str | None, status: str | None, limit: int
) -> list[TaskLine]:
    async with open_task_views(settings) as (views, references):
        workspace_id = None if workspace is None else await references.workspace(workspace)
        agent_id = None if agent is None else await references.agent(agent, workspace_id=workspace_id)
        return await views.recent(workspace_id=workspace_id, agent_id=agent_id, status=status, rows_max=limit)


async def _show(settings: Settings, task_id: UUID) -> tuple[TaskPage, list[SentForTask]]:
    async with open_task_views(settings) as (views, _):
        return await views.find(task_id)
