"""The platforms that are served. A further platform is one more function that registers it, here or in the caller."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from uuid import UUID

import structlog

from gateway.channel.channel import ChannelFactory
from gateway.channel.registry import Traits
from gateway.config import Settings
from gateway.daemon.database import open_secrets
from gateway.daemon.foundation import Foundation
from gateway.keyring import KeyRing
from gateway.lark.api.client import HttpClient
from gateway.lark.api.clients import InstallationClients
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat import channel as lark
from gateway.lark.chat.cards import split_answer
from gateway.lark.chat.connection import ConnectionSettings, open_tcp_link
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.chat.lookup import LarkLookup
from gateway.lark.chat.resources import LarkFiles
from gateway.lark.install.scan import ScanService, ask_over
from gateway.lark.install.service import InstallationService, identify_over
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.recorder import SILENT, Recorder

log = structlog.get_logger()

Register = Callable[[Foundation], None]
"""Registers a platform. If a platform lacks something it needs, the function logs that and registers nothing."""


def register_lark(foundation: Foundation) -> None:
    """Register Lark and Feishu. Without a key ring nothing is registered, because their secrets cannot be opened."""
    if foundation.ring is None:
        log.warning("lark_off", because="secret_key is unset")
        return
    clients = InstallationClients(
        PostgresInstallationStore(foundation.pool), partial(open_secrets, foundation.ring), foundation.lark
    )

    async def lookup_of(installation_id: UUID) -> LarkLookup:
        return LarkLookup(await clients.client_of(installation_id))

    traits = Traits(
        titles=lark.TITLES,
        capabilities=lark.CAPABILITIES,
        identity_keys=lark.IDENTITY_KEYS,
        divide=split_answer,
        lookup_of=lookup_of,
        limits=lark.LIMITS,
        key_seconds=lark.KEY_SECONDS,
    )
    foundation.registry.register(CHANNEL_TYPE, _lark_factory(foundation), traits)
    foundation.files[CHANNEL_TYPE] = LarkFiles(clients.client_of)


def _lark_factory(foundation: Foundation) -> ChannelFactory:
    limits, proxy_url = foundation.settings.limits, foundation.settings.lark.proxy_url
    connection = ConnectionSettings(
        frame_bytes_max=limits.frame_bytes_max,
        chunk_bytes_max=limits.chunk_bytes_max,
        events_in_flight_max=limits.events_in_flight_max,
    )
    proxies = Proxies.of(proxy_url.get_secret_value() if proxy_url else None, os.environ)
    return lark.lark_factory(
        foundation.lark,
        open_stream=partial(open_tcp_link, ssl_context=foundation.tls, proxies=proxies, settings=connection),
        settings=connection,
        recorder=foundation.metrics,
    )


PLATFORMS: tuple[Register, ...] = (register_lark,)


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
