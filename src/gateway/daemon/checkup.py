"""The reads of the doctor, from a database and from a platform. They change nothing, and migrate nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.config import Settings
from gateway.daemon.database import DatabaseAddress, open_pool_on, refuse_two_databases
from gateway.daemon.secret_rotation import open_stored
from gateway.keyring import KeyRing
from gateway.postgres.doctor_store import PostgresCheckup
from gateway.postgres.inspection import is_pooled
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.work.secrets import Opened

CONNECT_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 4


@dataclass(frozen=True, slots=True)
class OpenCheckup:
    """The stores that a check-up reads."""

    pool: Pool
    work: PostgresCheckup
    installations: PostgresInstallationStore

    async def open_stored_secrets(self, ring: KeyRing | None) -> Opened:
        """Open every stored secret, and keep none."""
        return await open_stored(self.pool, ring)


@asynccontextmanager
async def open_checkup(settings: Settings, address: DatabaseAddress) -> AsyncIterator[OpenCheckup]:
    """Open the stores on a database whose schema is current. The pool is closed with the block."""
    timeout = min(settings.limits.database_connect_timeout_seconds, CONNECT_SECONDS_MAX)
    async with open_pool_on(address, settings, size_max=CONNECTIONS_MAX, timeout_seconds=timeout) as pool:
        silent = settings.limits.runtime_silence_seconds
        yield OpenCheckup(pool, PostgresCheckup(pool, silent_seconds=silent), PostgresInstallationStore(pool))


async def describe_way(address: DatabaseAddress, *, embedded: bool) -> str:
    """Return a text about how the database is reached. Raises ConfigError if two addresses lead to two databases."""
    if embedded:
        return "embedded, reachable"
    await refuse_two_databases(address)
    if address.direct is not None:
        return "reachable through database_url, and through database_direct_url for notifications and migrations"
    if not await is_pooled(address.conninfo):
        return "reachable"
    return (
        "reachable through a connection pooler, which passes no notifications on: the daemon looks every second, and"
        " runs of agents begin up to a second late; set database_direct_url to the server's own address"
    )
