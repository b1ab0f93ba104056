"""The inbound suite against the in-memory store."""

from __future__ import annotations

import pytest

from support.inbound_memory import MemoryInbound

pytest.register_assert_rewrite("support.inbound_suite")
from support.inbound_suite import InboundSuite  # noqa: E402  (its assertions explain themselves only when rewritten)


@pytest.fixture
def backend() -> MemoryInbound:
    return MemoryInbound()


class TestInboundInMemory(InboundSuite):
    pass
