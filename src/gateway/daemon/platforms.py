"""The platforms that are served. A further platform is one more entry of PLATFORMS, here or in the caller."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from gateway.channel.installation import InstallationView
from gateway.config import Settings
from gateway.daemon.database import open_secrets
from gateway.daemon.foundation import Foundation
from gateway.keyring import KeyRing
from gateway.lark import platform as lark
from gateway.lark.api.client import HttpClient
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat.connection import ConnectionSettings
from gateway.lark.install.scan import ScanService, ask_over
from gateway.lark.install.service import InstallationService, identify_over
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.recorder import SILENT, Recorder

log = structlog.get_logger()


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
