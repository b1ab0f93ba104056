"""The database for the maintenance commands: its connection string, without a migration of its schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import Settings


@asynccontextmanager
async def open_conninfo(settings: Settings) -> AsyncIterator[str]:
    """Yield the connection string of the configured database.

    A running embedded server is used as it is. Otherwise the embedded server is started, and stopped with the block.
    """
    if settings.database_url is not None:
        from gateway.postgres.pool import checked_conninfo

        yield checked_conninfo(settings.database_url.get_secret_value())
        return
    from gateway.postgres.embedded import open_embedded

    async with open_embedded(settings.state_dir, attach=True, database_user=settings.database_user) as conninfo:
        yield conninfo
