"""The inbound suite against Postgres."""

from __future__ import annotations

import pytest

from gateway.postgres.pool import Pool
from support.inbound_postgres import PostgresInbound
from support.inbound_suite import InboundSuite


@pytest.fixture
def world(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool)


class TestInboundInPostgres(InboundSuite):
    pass
