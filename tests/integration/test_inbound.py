"""The inbound suite against Postgres."""

from __future__ import annotations

import pytest

from gateway.postgres.pool import Pool
from support.inbound_postgres import PostgresInbound

pytest.register_assert_rewrite("support.inbound_suite")
from support.inbound_suite import InboundSuite  # noqa: E402  (its assertions explain themselves only when rewritten)


@pytest.fixture
def backend(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool)


class TestInboundInPostgres(InboundSuite):
    pass
