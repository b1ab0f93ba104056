"""The only owner of a workspace stays."""

from __future__ import annotations

import pytest

from gateway.errors import Conflict
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.work.people.directory import Directory


async def test_only_owner_cannot_be_removed_and_a_second_one_can(pool: Pool) -> None:
    directory = Directory(PostgresDirectoryStore(pool))
    ada, bob = await directory.add_user("ada@example.invalid"), await directory.add_user("bob@example.invalid")
    workspace = await directory.add_workspace("Acme", "ACM", ada)
    await directory.add_member(workspace, bob)
    with pytest.raises(Conflict) as refused:
        await directory.remove_member(workspace, ada)
    assert refused.value.code == "last_owner"
    await directory.remove_member(workspace, bob)
    await directory.add_member(workspace, bob, "owner")
    await directory.remove_member(workspace, ada)
