"""Writes an import from the reference product's database, in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from gateway.errors import StoreConflict
from gateway.legacy.rows import LegacyRecord
from gateway.postgres.driver import TrioConnection
from gateway.postgres.installation_store import reclaim_dead
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile


class Placement(Enum):
    """The outcome of inserting a record."""

    NEW = "new"
    KNOWN = "unchanged"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Placed:
    """The outcome of record `n` of a batch. Neither added nor known means that another row conflicts with it."""

    n: int
    added: bool
    known: bool


@dataclass(frozen=True, slots=True)
class PlacedUser:
    """The outcome of person `n` of a batch. `user_id` is the person who has the id or the e-mail address now."""

    n: int
    added: bool
    user_id: UUID | None


_SQL = SqlFile("legacy.sql")
_LOCK_LEGACY_IMPORT = _SQL.value("lock_legacy_import", bool)
_WAIT_FOR_LEGACY_SOURCE = _SQL.value("wait_for_legacy_source", str)
_IMPORT_USERS = _SQL.many("import_users", PlacedUser)
_EXPLAIN_INSTALLATION = _SQL.many("explain_installation", tuple[UUID, UUID, bool])
_ADD = {
    "workspace": _SQL.many("import_workspaces", Placed),
    "member": _SQL.many("import_members", Placed),
    "agent_runtime": _SQL.many("import_runtimes", Placed),
    "agent": _SQL.many("import_agents", Placed),
    "chat_session": _SQL.many("import_chat_sessions", Placed),
    "chat_message": _SQL.many("import_chat_messages", Placed),
    "channel_installation": _SQL.many("import_installations", Placed),
    "channel_user_binding": _SQL.many("import_user_bindings", Placed),
    "channel_chat_session_binding": _SQL.many("import_chat_session_bindings", Placed),
    "channel_inbound_message_dedup": _SQL.many("import_inbound_message_dedups", Placed),
    "channel_inbound_audit": _SQL.many("import_inbound_audits", Placed),
    "channel_outbound_card_message": _SQL.many("import_outbound_card_messages", Placed),
    "channel_binding_token": _SQL.many("import_binding_tokens", Placed),
}


class PostgresLegacyTarget:
    """Write access to our database, on a connection inside the transaction. Use `open_legacy_target`.

    Every method raises StoreError.
    """

    def __init__(self, connection: TrioConnection[Any]) -> None:
        self._connection = connection

    async def add(self, table: str, records: Sequence[LegacyRecord]) -> list[Placement]:
        """Insert the records that do not exist yet. TAKEN: another row conflicts with the record."""
        placed = await _ADD[table](self._connection, records=_numbered(records))
        by_number = {each.n: each for each in placed}
        return [_placement(by_number[n]) for n in range(len(records))]

    async def add_users(self, records: Sequence[LegacyRecord]) -> list[tuple[Placement, UUID | None]]:
        """Insert people as `add` does. Each result also names the person who has this id or e-mail address now."""
        placed = await _IMPORT_USERS(self._connection, records=_numbered(records))
        by_number = {each.n: each for each in placed}
        return [
            (Placement.NEW if by_number[n].added else Placement.KNOWN, by_number[n].user_id)
            for n in range(len(records))
        ]

    async def reclaim(self, installation: LegacyRecord) -> bool:
        """Remove a dead installation with the same app id, and all rows that depend on it. True if there was one."""
        return await reclaim_dead(
            self._connection,
            installation["channel_type"],
            installation["config"]["app_id"],
            installation["workspace_id"],
            installation["agent_id"],
        )

    async def obstacle(self, installation: LegacyRecord) -> str:
        """Return a text that says which existing row conflicts with an installation."""
        app_id, agent_id = installation["config"]["app_id"], installation["agent_id"]
        found = await _EXPLAIN_INSTALLATION(
            self._connection,
            id=installation["id"],
            workspace_id=installation["workspace_id"],
            agent_id=agent_id,
            channel_type=installation["channel_type"],
            app_id=app_id,
        )
        for holder, holder_agent, same_app in found:
            if same_app:
                return f"app {app_id} lives here already, as installation {holder} of agent {holder_agent}"
            return f"app {app_id}: its agent {agent_id} has another bot here, installation {holder}"
        return f"app {app_id}: something changed this very moment; run the import again"


@asynccontextmanager
async def open_legacy_target(pool: Pool, *, dry_run: bool) -> AsyncIterator[PostgresLegacyTarget]:
    """Open the import's transaction. It commits when the block ends well, and rolls back for a dry run or an exception.

    Raises StoreConflict while another import runs.
    """
    async with pool.connection() as connection, connection.transaction(force_rollback=dry_run):
        if not await _LOCK_LEGACY_IMPORT(connection):
            raise StoreConflict("another import is under way; run this again when it has ended")
        await _WAIT_FOR_LEGACY_SOURCE(connection)
        yield PostgresLegacyTarget(connection)


def _numbered(records: Sequence[LegacyRecord]) -> str:
    return msgspec.json.encode([{"n": n, **record} for n, record in enumerate(records)]).decode()


def _placement(placed: Placed) -> Placement:
    if placed.added:
        return Placement.NEW
    return Placement.KNOWN if placed.known else Placement.TAKEN
