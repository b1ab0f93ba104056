"""A world per test: a fresh database, a simulated platform in this process, and daemons as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.postgres.pool import Pool
from gateway.simulator.server import open_simulator
from support.world import World


@pytest.fixture
async def world(database: str, pool: Pool, tmp_path: Path) -> AsyncIterator[World]:
    # Redelivery comes when a test asks for it: the schedule is scaled out of the way.
    async with open_simulator(redelivery_scale=1000.0) as simulator:
        world = World(database, pool, simulator, tmp_path)
        await world.settle()
        yield world
