"""A world per test: a fresh database, a simulated platform in this process, and daemons as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.postgres.pool import Pool
from support.world import World, open_world


@pytest.fixture
async def world(database: str, pool: Pool, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(database, pool, tmp_path) as world:
        yield world
