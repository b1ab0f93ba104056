"""The whole daemon as one nesting of its parts. They end in the reverse order of their opening."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from gateway import __version__
from gateway.config import Settings
from gateway.daemon.database import DatabaseAddress, open_keyring, open_migrated, open_pool_on
from gateway.daemon.foundation import Foundation
from gateway.daemon.intake import Ready, start_intake
from gateway.daemon.janitor import run_chores
from gateway.daemon.platforms import PLATFORMS, Platform, open_platform_client
from gateway.daemon.services import build_services, run_backfills, start_services
from gateway.keyring import KeyRing
from gateway.lark.api.client import trusted_context
from gateway.lark.api.clients import LarkClients
from gateway.observe.notify import Notifier, run_watchdog

log = structlog.get_logger()

LEASE_CONNECTIONS = 4


async def run_daemon(
    settings: Settings,
    *,
    stop: trio.Event,
    notifier: Notifier,
    platforms: Sequence[Platform] = PLATFORMS,
    task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run everything until `stop` is set. `started()` gives the addresses once traffic can be taken.

    On `stop` the intake ends first. HTTP finishes the requests in flight. Every bot settles and acknowledges the events
    it received, and hands its lease over. Everything that is not done within `limits.drain_seconds` is cancelled.

    Raises ConfigError and StoreUnavailable at the start. Later it raises only errors outside any unit of work.
    """
    ring = open_keyring(settings)
    _warn_of_github(settings)
    async with open_migrated(settings, attach=False) as address, trio.open_nursery() as root:
        root.start_soon(run_watchdog, notifier)
        root.start_soon(_cancel_after_drain, stop, settings.limits.drain_seconds, root.cancel_scope)
        async with _open_foundation(settings, address, ring) as foundation, trio.open_nursery() as running:
            for platform in platforms:
                platform.register(foundation)
            services = build_services(foundation)
            await start_services(running, foundation, services)
            running.start_soon(run_chores, foundation, services)
            async with trio.open_nursery() as intake:
                ready = await start_intake(intake, foundation, services, stop)
                log.info("daemon_ready", http=ready.http, node=ready.node[:8], version=__version__)
                task_status.started(ready)
                running.start_soon(run_backfills, foundation)
            running.cancel_scope.cancel()
        root.cancel_scope.cancel()


def _warn_of_github(settings: Settings) -> None:
    """Say that the `github.*` settings do nothing yet, in place of accepting them in silence."""
    if given := sorted(settings.github.model_fields_set):
        log.warning("github_settings_ignored", keys=[f"github.{name}" for name in given], because="not served yet")


async def _cancel_after_drain(stop: trio.Event, seconds: float, scope: trio.CancelScope) -> None:
    await stop.wait()
    await trio.sleep(seconds)
    log.error("drain_abandoned", seconds=seconds)
    scope.cancel()


@asynccontextmanager
async def _open_foundation(
    settings: Settings, address: DatabaseAddress, ring: KeyRing | None
) -> AsyncIterator[Foundation]:
    """Open the pools and the HTTP client. All are closed with the block."""
    tls = trusted_context()
    async with (
        open_pool_on(address, settings) as pool,
        open_pool_on(address, settings, size_max=LEASE_CONNECTIONS) as lease_pool,
        open_platform_client(settings, tls=tls) as http,
    ):
        lark = LarkClients(
            http,
            open_base_override=settings.lark.open_base_url,
            send_timeout_seconds=settings.hub.reply_timeout_seconds,
        )
        yield Foundation(settings, address, pool, lease_pool, http, tls, ring, lark)
