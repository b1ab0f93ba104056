"""`gateway serve`: runs the daemon until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import trio

from gateway.cli.output import config_option, print_json
from gateway.config import Settings, load_settings

if TYPE_CHECKING:
    from gateway.observe.notify import Notifier


@click.command()
@config_option
@click.option("--state-dir", metavar="PATH", help="Where the embedded database and the secret key live.")
@click.option("--http-bind", metavar="ADDRESS", help="host:port (port 0: any free one) or fd://N.")
@click.option("--metrics-bind", metavar="ADDRESS", help="host:port of the metrics listener; off unless given.")
@click.option("--log-format", type=click.Choice(["json", "console"]), help="json off a terminal, console on one.")
def serve(
    config: Path | None, state_dir: str | None, http_bind: str | None, metrics_bind: str | None, log_format: str | None
) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once.

    Prints one line of JSON, {"event":"ready","http":"http://host:port",…}, when it can take traffic.
    """
    from gateway.http.server import raise_descriptor_limit
    from gateway.observe.log import configure_logging

    flags = {
        "state_dir": state_dir,
        "http.bind": http_bind,
        "metrics.bind": metrics_bind,
        "log.format": log_format,
    }
    settings = load_settings(config, flags)
    configure_logging(settings.log.format, level=settings.log.level.upper())
    raise_descriptor_limit()
    trio.run(_serve, settings)
    _exit_now()


def _exit_now() -> NoReturn:
    """End the process at once, after everything was closed.

    A normal exit of Python spends up to a second on taking modules apart, and would delay a restart for nothing.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _serve(settings: Settings) -> None:
    # Imported here, because it takes more than a second: a configuration that is wrong is told at once.
    from gateway.daemon.intake import Ready
    from gateway.daemon.run import run_daemon
    from gateway.observe.notify import Notifier

    notifier = Notifier()
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, stop, notifier)
        async with trio.open_nursery() as daemon:
            ready: Ready = await daemon.start(partial(run_daemon, settings, stop=stop, notifier=notifier))
            print_json({"event": "ready", "http": ready.http, "metrics": ready.metrics, "pid": os.getpid()})
            notifier.ready(f"serving {ready.http}")
        nursery.cancel_scope.cancel()


async def _watch_signals(
    stop: trio.Event, notifier: Notifier, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Set `stop` at the first signal, and end the process at once at the second."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                # Nothing is lost: everything durable is committed, and the embedded database server notices by itself
                # that its owner is gone.
                os._exit(128 + number)
            notifier.stopping("finishing what is in flight")
            stop.set()
