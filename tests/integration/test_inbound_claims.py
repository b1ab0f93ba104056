"""Slow, failing and dead workers against Postgres, whose clock decides; a minute passes by ageing the rows."""

from __future__ import annotations

import pytest

from gateway.postgres.pool import Pool
from support import claim_suite as suite
from support.inbound_postgres import PostgresInbound


@pytest.fixture
def backend(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool)


@pytest.mark.parametrize("text", suite.TEXTS)
@pytest.mark.parametrize("step", suite.STEPS)
async def test_slow_worker_whose_claim_was_retaken_writes_nothing(
    backend: PostgresInbound, step: str, text: str
) -> None:
    await suite.slow_worker_whose_claim_was_retaken_writes_nothing(backend, step, text)


@pytest.mark.parametrize("text", suite.TEXTS)
async def test_slow_worker_that_nobody_retook_writes_late(backend: PostgresInbound, text: str) -> None:
    await suite.slow_worker_that_wakes_first_writes_and_the_retaker_nothing(backend, text)


@pytest.mark.parametrize("text", suite.TEXTS)
@pytest.mark.parametrize("step", suite.STEPS)
async def test_released_claim_is_retaken_at_once(backend: PostgresInbound, step: str, text: str) -> None:
    await suite.released_claim_is_retaken_at_once(backend, step, text)


@pytest.mark.parametrize("text", suite.TEXTS)
@pytest.mark.parametrize("step", suite.STEPS)
async def test_crash_between_claim_and_append_is_retaken_after_a_minute(
    backend: PostgresInbound, step: str, text: str
) -> None:
    await suite.crash_between_claim_and_append_is_retaken_after_a_minute(backend, step, text)
