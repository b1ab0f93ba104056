"""The in-memory lease store of the simulations keeps the promises of the real one."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.supervisor.ports import ActiveInstallation
from support.lease_memory import ConnectionRow, LeaseTable, MemoryLeaseStore
from support.lease_suite import LeaseStoreSuite


class MemoryLeaseRows:
    def __init__(self) -> None:
        self.table = LeaseTable()
        self.store = MemoryLeaseStore(self.table)

    async def add(self, channel_type: str = "feishu", config: dict[str, Any] | None = None) -> UUID:
        installation = ActiveInstallation(uuid4(), uuid4(), uuid4(), channel_type, config or {"app_id": str(uuid4())})
        self.table.insert(installation)
        return installation.id

    async def activate(self, installation_id: UUID, active: bool) -> None:
        self.table.activate(installation_id, active)

    async def orphan(self, installation_id: UUID) -> None:
        self.table.rows[installation_id].orphan = True

    async def expire(self, installation_id: UUID) -> None:
        self.table.rows[installation_id].expires_at = self.table.now() - 1

    async def lease(self, installation_id: UUID) -> tuple[str | None, int]:
        row = self.table.rows[installation_id]
        return row.token, row.epoch

    async def connection(self, installation_id: UUID) -> ConnectionRow | None:
        return self.table.connections.get(installation_id)


@pytest.fixture
def leases() -> MemoryLeaseRows:
    return MemoryLeaseRows()


class TestMemoryLeaseStore(LeaseStoreSuite):
    pass
