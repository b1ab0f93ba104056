"""The inbound suite against the in-memory store."""

from __future__ import annotations

import pytest

from support.inbound_memory import MemoryInbound
from support.inbound_suite import InboundSuite


@pytest.fixture
def world() -> MemoryInbound:
    return MemoryInbound()


class TestInboundInMemory(InboundSuite):
    pass
