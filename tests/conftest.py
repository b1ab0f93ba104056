"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.postgres.pool import Pool, open_pool
from support.database import fresh_database, running_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The conninfo of the run's own server. Most tests want `database` or `pool` instead."""
    with running_server() as conninfo:
        yield conninfo


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """The conninfo of a fresh, migrated database."""
    async with fresh_database(postgres) as conninfo:
        yield conninfo


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """An open pool on a fresh, migrated database."""
    async with open_pool(database, size_max=10) as pool:
        yield pool
