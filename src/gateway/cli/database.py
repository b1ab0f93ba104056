"""The database as the maintenance commands need it: where it is, without bringing its schema up to date first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import Settings


@asynccontextmanager
async def open_conninfo(settings: Settings) -> AsyncIterator[str]:
    """The connection string of the configured database.

    An embedded server that runs is attached to; one that does not is started and lives as long as the block.
    """
    if settings.database_url is not None:
        from gateway.postgres.pool import checked_conninfo

        yield checked_conninfo(settings.database_url.get_secret_value())
        return
    from gateway.postgres.embedded import open_embedded

    async with open_embedded(settings.state_dir, attach=True, database_user=settings.database_user) as conninfo:
        yield conninfo
