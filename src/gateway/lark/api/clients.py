"""One client per app for the whole process, so that every user of the app shares one tenant token."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from gateway.channel.installation import StoredInstallation
from gateway.errors import GatewayError
from gateway.lark.api.client import SEND_TIMEOUT_SECONDS, HttpClient, LarkClient
from gateway.lark.api.region import open_base_url

CLIENTS_MAX = 4096
"""More apps than one process is meant to serve. An evicted client stays usable for the callers that hold it."""


class LarkClients:
    """Clients by app and host. The caller owns the HTTP client and keeps it open while they are used."""

    def __init__(
        self,
        http: HttpClient,
        *,
        open_base_override: str | None = None,
        send_timeout_seconds: float = SEND_TIMEOUT_SECONDS,
        clients_max: int = CLIENTS_MAX,
    ) -> None:
        self._http = http
        self._open_base_override = open_base_override
        self._send_timeout = send_timeout_seconds
        self._clients_max = clients_max
        self._clients: OrderedDict[tuple[str, str], tuple[bytes, LarkClient]] = OrderedDict()

    def of(self, app_id: str, app_secret: str, region: str | None) -> LarkClient:
        """Return the client of these credentials.

        A rotated secret gets a new client, and the client with the former secret is forgotten.
        """
        base_url = open_base_url(region, self._open_base_override)
        key, digest = (app_id, base_url), hashlib.sha256(app_secret.encode()).digest()
        known_digest, client = self._clients.get(key, (b"", None))
        if client is None or known_digest != digest:
            client = LarkClient(app_id, app_secret, base_url, self._http, send_timeout_seconds=self._send_timeout)
            self._clients[key] = (digest, client)
        self._clients.move_to_end(key)
        while len(self._clients) > self._clients_max:
            self._clients.popitem(last=False)
        return client


class NoClient(GatewayError):
    """There is no client for an installation: it is unknown, revoked, or without credentials."""


class InstallationSource(Protocol):
    async def stored(self, installation_id: UUID) -> StoredInstallation | None:
        """Return the installation as it is stored at this moment; None if unknown. Raises StoreUnavailable."""


OpenStored = Callable[[StoredInstallation], dict[str, Any]]
"""Returns the config with its secrets opened. Raises gateway.keyring.UnreadableSecret."""


class InstallationClients:
    """Clients by installation, for callers that know only its id."""

    def __init__(self, source: InstallationSource, open_secrets: OpenStored, clients: LarkClients) -> None:
        self._source = source
        self._open_secrets = open_secrets
        self._clients = clients

    async def client_of(self, installation_id: UUID) -> LarkClient:
        """Return the client of an installation. Asks the store each time, so that a revoked bot sends nothing more.

        Raises NoClient, UnreadableSecret or StoreUnavailable.
        """
        installation = await self._source.stored(installation_id)
        if installation is None or installation.revoked:
            raise NoClient(f"installation {installation_id} is {'revoked' if installation else 'unknown'}")
        opened = self._open_secrets(installation)
        app_id, app_secret = opened.get("app_id"), opened.get("app_secret")
        if not app_id or not app_secret:
            raise NoClient(f"installation {installation_id} has no app id or no app secret")
        return self._clients.of(app_id, app_secret, opened.get("region"))
