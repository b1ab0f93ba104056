"""`gateway lark install`: shows a QR code in the terminal and follows its scan, with or without a running daemon."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import segno
import trio

from gateway.channel.installs import ScanStatus
from gateway.cli.bots import AGENT_HELP, REPLACE_HELP, shown
from gateway.cli.output import config_option, json_option, plain, print_json, print_record
from gateway.config import Settings, load_settings
from gateway.daemon.platforms import open_scans
from gateway.errors import StoreUnavailable
from gateway.lark.install.scan import DRAIN_SECONDS, ScanService
from gateway.lark.install.session import BegunScan

LOOK_SECONDS = 0.5
QUIET_ZONE = 2
"""Modules of margin around the code. The standard says four. Phones accept less, and terminals are narrow."""

SAID = {
    "expired": "nobody scanned the code in time; run the command again for a new one",
    "access_denied": "the person who scanned said no",
    "lark_protocol_error": "the platform answered with something that is no answer",
    "bot_info_failed": "the app was made, but the platform does not say which bot it has",
    "installation_conflict": "the app cannot become this agent's bot",
    "agent_has_bot": "the agent got another bot while the code was waiting",
    "forbidden": "who began may not connect this agent's bot any more",
    "installer_bind_failed": "the bot was not connected, because who scanned cannot be bound to the installer",
    "internal_error": "something went wrong in the gateway",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The values of the command line."""

    agent: str
    region: str
    installer_email: str | None
    replaces: bool
    as_json: bool


@click.command("install", short_help="Connect a bot by scanning a QR code.")
@click.option("--agent", required=True, metavar="AGENT", help=AGENT_HELP)
@click.option(
    "--region",
    type=click.Choice(["feishu", "lark"]),
    default="feishu",
    show_default=True,
    help="The cloud to ask first; a person of the other one is followed there.",
)
@click.option("--installer", metavar="EMAIL", help="The member who scans; the workspace's owner unless given.")
@click.option("--replace", "replaces", is_flag=True, help=REPLACE_HELP)
@config_option
@json_option
def install(
    *, agent: str, region: str, installer: str | None, replaces: bool, config: Path | None, as_json: bool
) -> int:
    """Show a QR code. A person who scans it with the Feishu or Lark app creates a bot for the agent.

    That person is bound to the installer. No daemon is needed, and one that runs takes part. Ctrl-C stops the waiting
    and not the code: until the code expires, a running daemon still finishes a scan. An agent that has a bot keeps it
    unless --replace is given. With --json two lines are printed: the link as soon as there is one, and then the
    installation or the error. Exits 0 once the bot is connected, else 1.
    """
    return trio.run(_install, load_settings(config), Wanted(agent, region, installer, replaces, as_json))


async def _install(settings: Settings, wanted: Wanted) -> int:
    async with open_scans(settings) as (service, references):
        agent_id = await references.agent(wanted.agent)
        request = await service.request_for(agent_id, wanted.region, wanted.installer_email, replaces=wanted.replaces)
        begun = await service.begin(request)
        # Signals are handled before the code is shown. From then on a signal must stop the waiting in good order, and
        # with it the database server that this command may have started.
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            _show_code(begun, wanted.as_json)
            with _countdown(begun, shown=not wanted.as_json) as tell:
                status = await _until_signal(service, begun, request.workspace_id, tell, signals)
        if status is None or status.installation_id is None:
            return _show_end(begun, status, wanted.as_json)
        _show_bot(shown(await service.find(request.workspace_id, status.installation_id), settings), wanted.as_json)
        return 0


async def _until_signal(
    service: ScanService,
    begun: BegunScan,
    workspace_id: UUID,
    tell: Callable[[ScanStatus], None],
    signals: AsyncIterator[int],
) -> ScanStatus | None:
    """Follow the session to its end or to a signal, and return its status then.

    None means that the session is gone, probably together with its agent.
    """
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, signals, stop, nursery.cancel_scope)
        await _follow_until(service, begun, workspace_id, tell, stop)
        nursery.cancel_scope.cancel()
    return await service.status(begun.session_id, workspace_id)


async def _stop_on_signal(signals: AsyncIterator[int], stop: trio.Event, scope: trio.CancelScope) -> None:
    """Stop after the first signal, at the latest after DRAIN_SECONDS, and at once after a second one.

    The first signal lets the current step end, because the platform's answer may be the one that grants the bot.
    """
    async for _ in signals:
        if stop.is_set():
            scope.cancel()
        stop.set()
        scope.deadline = trio.current_time() + DRAIN_SECONDS


async def _follow_until(
    service: ScanService, begun: BegunScan, workspace_id: UUID, tell: Callable[[ScanStatus], None], stop: trio.Event
) -> None:
    """Do what `_follow` does, and wait for an unreachable database as long as the code is valid.

    Raises StoreUnavailable once the code has expired or `stop` is set.
    """
    until = trio.current_time() + begun.expires_in_seconds
    while True:
        try:
            return await _follow(service, begun.session_id, workspace_id, tell, stop)
        except StoreUnavailable:
            if stop.is_set() or trio.current_time() >= until:
                raise
            with trio.move_on_after(LOOK_SECONDS):
                await stop.wait()


async def _follow(
    service: ScanService, session_id: UUID, workspace_id: UUID, tell: Callable[[ScanStatus], None], stop: trio.Event
) -> None:
    """Take the steps that are due until the session ends or `stop` is set.

    A daemon may take some of the steps: the holder of the row's lease takes the next one.
    """
    while not stop.is_set():
        status = await service.status(session_id, workspace_id)
        if status is None or status.status != "pending":
            return
        tell(status)
        scan = await service.take(session_id)
        if scan is not None:
            await service.advance(scan)
        else:
            with trio.move_on_after(LOOK_SECONDS):
                await stop.wait()


# --- what a person sees -----------------------------------------------------------------------------------------------


def _show_code(begun: BegunScan, as_json: bool) -> None:
    if as_json:
        print_json(begun.public())
        return
    code = terminal_code(begun.qr_code_url)
    width = len(code.partition("\n")[0])
    if not _can_print(code):
        click.echo(f"(no code: this output is {sys.stdout.encoding}, which has no blocks to draw it with)")
    elif not sys.stdout.isatty():
        click.echo(code)
    elif width <= shutil.get_terminal_size().columns:
        from rich.console import Console  # only a terminal needs it; see `output`
        from rich.text import Text

        # The colours are fixed. On a light terminal the code would be inverted, and many phones cannot read that.
        Console(soft_wrap=True).print(Text(code, style="#ffffff on #000000"))
    else:
        click.echo(f"(the code needs {width} columns; open the link instead, or widen the terminal)")
    click.echo("Scan this code with the Feishu or Lark app, or open the link on a device that has it:")
    click.echo(begun.qr_code_url)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


def terminal_code(url: str) -> str:
    """Draw the QR code of a link in half blocks, two rows of modules to a line."""
    drawn = io.StringIO()
    segno.make_qr(url, error="l", boost_error=False).terminal(drawn, border=QUIET_ZONE, compact=True)
    return drawn.getvalue().rstrip("\n")


@contextmanager
def _countdown(begun: BegunScan, *, shown: bool) -> Iterator[Callable[[ScanStatus], None]]:
    """Show on a terminal's stderr how long the code is still valid. The line disappears when the block ends.

    Yields the function that updates the line.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
    with progress:
        task = progress.add_task("waiting for the scan", total=begun.expires_in_seconds)

        def tell(status: ScanStatus) -> None:
            left = max(0, round(status.seconds_left))
            trouble = f" ({plain(status.error_message)}; still asking)" if status.error_message else ""
            said = f"waiting for the scan, {left // 60}:{left % 60:02} left{trouble}"
            progress.update(task, completed=left, description=said)

        yield tell


def _show_bot(bot: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(bot)
        return
    click.echo("Connected.")
    print_record({name: value for name, value in bot.items() if name != "connection"})


def _show_end(begun: BegunScan, status: ScanStatus | None, as_json: bool) -> int:
    if as_json:
        print_json({"session_id": begun.session_id, **(status.public() if status else {"status": "gone"})})
    click.echo(f"gateway: {_last_words(status)}", err=True)
    return 1


def _last_words(status: ScanStatus | None) -> str:
    if status is None:
        return "the session is gone, and the agent probably with it"
    if status.status == "pending":
        until = datetime.now(UTC) + timedelta(seconds=max(0.0, status.seconds_left))
        return f"stopped waiting; until {plain(until)} a running daemon still finishes a scan of this code"
    said = SAID.get(status.error_reason or "", "it did not work")
    return f"{said} ({status.error_reason}: {plain(status.error_message)})"
