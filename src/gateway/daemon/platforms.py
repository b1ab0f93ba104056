"""The platforms that are served. A further platform is one more entry of PLATFORMS, here or in the caller."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from gateway.channel.installation import InstallationView
from gateway.config import Settings
from gateway.daemon.administration import references_on
from gateway.daemon.database import open_database, open_keyring, open_secrets
from gateway.daemon.foundation import Foundation
from gateway.errors import ConfigError
from gateway.keyring import KeyRing
from gateway.lark import platform as lark
from gateway.lark.api.client import CONNECTIONS_MAX, HttpClient, open_http_client
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat.connection import ConnectionSettings
from gateway.lark.install.scan import ScanService, ask_over
from gateway.lark.install.service import InstallationService, identify_over, identify_with
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.recorder import SILENT, Recorder
from gateway.work.people.references import References

log = structlog.get_logger()

SCAN_CONNECTIONS = 2
"""The connections of a command that follows one scan."""


def _no_details(_settings: Mapping[str, Any]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that this program knows, whether or not a process serves it.

    `register` registers it in a process. If the platform lacks something it needs there, that is logged, and nothing is
    registered. `details` makes of an installation's settings what lists show of it, by name and in order.
    """

    channel_type: str
    register: Callable[[Foundation], None]
    details: Callable[[Mapping[str, Any]], Mapping[str, str]] = _no_details


def _register_lark(foundation: Foundation) -> None:
    """Register Lark and Feishu. Without a key ring nothing is registered, because their secrets cannot be opened."""
    if foundation.ring is None:
        log.warning("lark_off", because="secret_key is unset")
        return
    limits, proxy_url = foundation.settings.limits, foundation.settings.lark.proxy_url
    needs = lark.Needs(
        clients=foundation.lark,
        source=PostgresInstallationStore(foundation.pool),
        open_secrets=partial(open_secrets, foundation.ring),
        tls=foundation.tls,
        proxies=Proxies.of(proxy_url.get_secret_value() if proxy_url else None, os.environ),
        connection=ConnectionSettings(
            frame_bytes_max=limits.frame_bytes_max,
            chunk_bytes_max=limits.chunk_bytes_max,
            events_in_flight_max=limits.events_in_flight_max,
        ),
        recorder=foundation.metrics,
    )
    parts = lark.build(needs)
    foundation.registry.register(lark.CHANNEL_TYPE, parts.factory, parts.traits)
    foundation.files[lark.CHANNEL_TYPE] = parts.files


PLATFORMS: tuple[Platform, ...] = (Platform(lark.CHANNEL_TYPE, _register_lark, lark.details),)


def detailed(view: InstallationView) -> InstallationView:
    """Return the view with the details that its platform gives it; without any if the platform is unknown."""
    found = (platform.details for platform in PLATFORMS if platform.channel_type == view.channel_type)
    return replace(view, details=next(found, _no_details)(view.settings))


def open_platform_client(
    settings: Settings, *, tls: ssl.SSLContext | None = None, connections_max: int = CONNECTIONS_MAX
) -> AbstractAsyncContextManager[HttpClient]:
    """Open the HTTP client for calls of platforms, through the configured proxy. Raises ConfigError."""
    proxy = settings.lark.proxy_url
    return open_http_client(
        proxy_url=proxy.get_secret_value() if proxy else None, ssl_context=tls, connections_max=connections_max
    )


@asynccontextmanager
async def open_installations(settings: Settings) -> AsyncIterator[tuple[InstallationService, References]]:
    """Open the bots of a database, and what finds them and their agents by name, beside a daemon that may run.

    The pool is closed with the block. The HTTP client is opened for each call, so that a proxy that cannot be used
    spoils only what calls the platform.
    """
    proxy = settings.lark.proxy_url
    identify = identify_with(settings.lark.open_base_url, proxy_url=proxy.get_secret_value() if proxy else None)
    async with open_database(settings, attach=True) as pool:
        service = InstallationService(PostgresInstallationStore(pool), open_keyring(settings), identify)
        yield service, references_on(pool)


@asynccontextmanager
async def open_scans(settings: Settings) -> AsyncIterator[tuple[ScanService, References]]:
    """Open the scans of codes, and what finds agents by name, beside a daemon that may run.

    Everything is closed with the block. Raises ConfigError if there is no key to store an app secret under.
    """
    async with (
        open_database(settings, attach=True) as pool,
        open_platform_client(settings, connections_max=SCAN_CONNECTIONS) as http,
    ):
        ring = open_keyring(settings)
        if ring is None:
            raise ConfigError("secret_key: unset, so no app secret can be stored; `gateway keygen` prints one")
        yield scan_service(settings, pool, http, ring), references_on(pool)


def scan_service(
    settings: Settings, pool: Pool, http: HttpClient, ring: KeyRing, *, recorder: Recorder = SILENT
) -> ScanService:
    """Build the service that connects bots by scanning a code. The caller still closes the pool and the HTTP client."""
    identify = identify_over(http, settings.lark.open_base_url)
    return ScanService(
        PostgresInstallStore(pool),
        InstallationService(PostgresInstallationStore(pool), ring, identify),
        ring,
        ask_over(http),
        accounts_base_override=settings.lark.accounts_base_url,
        recorder=recorder,
    )
