"""`gateway sim`: runs the simulated platform alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import click
import trio

from gateway.cli.output import config_option
from gateway.config import load_settings
from gateway.observe.log import configure_logging
from gateway.simulator import open_simulator

PORT = click.IntRange(0, 65_535)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address; any other is refused.")
@click.option("--port", default=0, show_default=True, type=PORT, help="HTTP port; 0 lets the kernel choose.")
@click.option("--lark-port", default=0, show_default=True, type=PORT, help="HTTP port of the second cloud, Lark.")
@click.option("--ws-port", default=0, show_default=True, type=PORT, help="WebSocket port; 0 lets the kernel choose.")
@click.option(
    "--redelivery-scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.0),
    help="Multiplies the redelivery delays of 15 s, 5 min, 1 h and 6 h.",
)
@click.option("--rate-limits/--no-rate-limits", default=True, show_default=True, help="Enforce the platform's limits.")
@click.option("--app", "apps", multiple=True, metavar="NAME", help="Create an app with this bot name; may repeat.")
@click.option("--person", "people", multiple=True, metavar="NAME", help="Create a person; may repeat.")
@config_option
def sim(apps: tuple[str, ...], people: tuple[str, ...], config: Path | None, **settings: Any) -> None:
    """Run a simulated Lark platform on loopback until interrupted.

    Prints one JSON line with its URLs, and its apps with their secrets, once it accepts connections. The page at the
    HTTP URL is a chat window.
    """
    configure_logging(load_settings(config).log.format)
    trio.run(_serve, apps, people, settings)


async def _serve(apps: tuple[str, ...], people: tuple[str, ...], settings: dict[str, Any]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_simulator(**settings) as simulator:
            made = [simulator.create_app(name) for name in apps]
            for name in people:
                simulator.create_person(name)
            ready = {
                "event": "ready",
                "http": simulator.base_url,
                "lark_http": simulator.base_urls["lark"],
                "ws": simulator.world.ws_url,
                "page": f"{simulator.base_url}/",
                "control": f"{simulator.base_url}/_sim/",
                "apps": [{"app_id": app.app_id, "name": app.name, "app_secret": app.secret} for app in made],
            }
            click.echo(json.dumps(ready))
            async for _ in signals:
                return
