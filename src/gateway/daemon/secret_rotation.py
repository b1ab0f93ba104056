"""The stored secrets of a database: sealing them under the newest key, and opening them as a check."""

from __future__ import annotations

from gateway.config import Settings
from gateway.daemon.database import open_database, required_keyring
from gateway.keyring import KeyRing
from gateway.postgres.pool import Pool
from gateway.postgres.secret_store import secret_tables
from gateway.work.secrets import Opened, Progress, Rotation, open_secrets, rotate_secrets


async def rotate_stored(settings: Settings, progress: Progress) -> Rotation:
    """Seal every stored secret under the newest key, also while daemons run. Raises ConfigError without a key."""
    ring = required_keyring(settings)
    async with open_database(settings, attach=True) as pool:
        return await rotate_secrets(secret_tables(pool), ring, progress)


async def open_stored(pool: Pool, ring: KeyRing | None) -> Opened:
    """Open every stored secret, and keep none. Without a ring none opens."""
    return await open_secrets(secret_tables(pool), ring)
