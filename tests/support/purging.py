"""Runs one of the purges that the daemon runs."""

from __future__ import annotations

from gateway.postgres.pool import Pool
from gateway.postgres.purges import ROWS_MAX, purges

KEPT_DAYS = 90


async def purge(pool: Pool, name: str, *, rows_max: int = ROWS_MAX) -> int:
    """Run the purge of that name, with KEPT_DAYS for the kinds of rows whose time an operator sets."""
    (found,) = [each for each in purges(history_days=KEPT_DAYS, delivery_days=KEPT_DAYS) if each.name == name]
    return await found.run(pool, rows_max=rows_max)
