"""The command suite against Postgres."""

from __future__ import annotations

import pytest

from gateway.postgres.pool import Pool
from support.inbound_postgres import PostgresInbound

pytest.register_assert_rewrite("support.command_suite")
from support.command_suite import CommandSuite  # noqa: E402  (its assertions explain themselves only when rewritten)


@pytest.fixture
def world(pool: Pool) -> PostgresInbound:
    return PostgresInbound(pool)


class TestCommandsInPostgres(CommandSuite):
    pass
