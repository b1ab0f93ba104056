"""The platforms that are served. A further platform is one more function that registers it, here or in the caller."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from uuid import UUID

import structlog

from gateway.channel.channel import ChannelFactory
from gateway.channel.registry import Traits
from gateway.config import Settings
from gateway.daemon.database import open_database, open_keyring, open_secrets
from gateway.daemon.foundation import Foundation
from gateway.errors import ConfigError
from gateway.keyring import KeyRing
from gateway.lark.api.client import CONNECTIONS_MAX, HttpClient, open_http_client
from gateway.lark.api.clients import InstallationClients
from gateway.lark.api.proxy import Proxies
from gateway.lark.chat import channel as lark
from gateway.lark.chat.cards import split_answer
from gateway.lark.chat.connection import ConnectionSettings, open_tcp_link
from gateway.lark.chat.content import CHANNEL_TYPE
from gateway.lark.chat.lookup import LarkLookup
from gateway.lark.chat.resources import LarkFiles
from gateway.lark.install.scan import ScanService, ask_over
from gateway.lark.install.service import InstallationService, identify_over, identify_with
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.recorder import SILENT, Recorder

log = structlog.get_logger()

SCAN_CONNECTIONS = 2
"""The connections of a command that follows one scan."""

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


def open_platform_client(
    settings: Settings, *, tls: ssl.SSLContext | None = None, connections_max: int = CONNECTIONS_MAX
) -> AbstractAsyncContextManager[HttpClient]:
    """Open the HTTP client for calls of platforms, through the configured proxy. Raises ConfigError."""
    proxy = settings.lark.proxy_url
    return open_http_client(
        proxy_url=proxy.get_secret_value() if proxy else None, ssl_context=tls, connections_max=connections_max
    )


@asynccontextmanager
async def open_installations(settings: Settings) -> AsyncIterator[InstallationService]:
    """Open the bots of a database beside a daemon that may run. The pool is closed with the block.

    The HTTP client is opened for each call, so that a proxy that cannot be used spoils only what calls the platform.
    """
    proxy = settings.lark.proxy_url
    identify = identify_with(settings.lark.open_base_url, proxy_url=proxy.get_secret_value() if proxy else None)
    async with open_database(settings, attach=True) as pool:
        yield InstallationService(PostgresInstallationStore(pool), open_keyring(settings), identify)


@asynccontextmanager
async def open_scans(settings: Settings) -> AsyncIterator[ScanService]:
    """Open the scans of codes beside a daemon that may run. Everything is closed with the block.

    Raises ConfigError if there is no key to store an app secret under.
    """
    async with (
        open_database(settings, attach=True) as pool,
        open_platform_client(settings, connections_max=SCAN_CONNECTIONS) as http,
    ):
        ring = open_keyring(settings)
        if ring is None:
            raise ConfigError("secret_key: unset, so no app secret can be stored; `gateway keygen` prints one")
        yield scan_service(settings, pool, http, ring)


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
