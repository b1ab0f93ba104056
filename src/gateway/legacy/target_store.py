"""Writes an import from the reference product's database, in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from gateway.errors import StoreConflict
from gateway.legacy.importer import Placement
from gateway.legacy.rows import LegacyRecord
from gateway.postgres.driver import TrioConnection
from gateway.postgres.installation_store import reclaim_dead
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load


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


_Q = load("legacy.sql", Placed, PlacedUser)
_ADD = {
    "workspace": _Q.import_workspaces,
    "member": _Q.import_members,
    "agent_runtime": _Q.import_runtimes,
    "agent": _Q.import_agents,
    "chat_session": _Q.import_chat_sessions,
    "chat_message": _Q.import_chat_messages,
    "channel_installation": _Q.import_installations,
    "channel_user_binding": _Q.import_user_bindings,
    "channel_chat_session_binding": _Q.import_chat_session_bindings,
    "channel_inbound_message_dedup": _Q.import_inbound_message_dedups,
    "channel_inbound_audit": _Q.import_inbound_audits,
    "channel_outbound_card_message": _Q.import_outbound_card_messages,
    "channel_binding_token": _Q.import_binding_tokens,
}


class PostgresLegacyTarget:
    """Implements `legacy.importer.LegacyTarget` on a connection inside the transaction. Use `open_legacy_target`."""

    def __init__(self, connection: TrioConnection[Any]) -> None:
        self._connection = connection

    async def add(self, table: str, records: Sequence[LegacyRecord]) -> list[Placement]:
        placed: list[Placed] = await _ADD[table](self._connection, records=_numbered(records))
        by_number = {each.n: each for each in placed}
        return [_placement(by_number[n]) for n in range(len(records))]

    async def add_users(self, records: Sequence[LegacyRecord]) -> list[tuple[Placement, UUID | None]]:
        placed: list[PlacedUser] = await _Q.import_users(self._connection, records=_numbered(records))
        by_number = {each.n: each for each in placed}
        return [
            (Placement.NEW if by_number[n].added else Placement.KNOWN, by_number[n].user_id)
            for n in range(len(records))
        ]

    async def reclaim(self, installation: LegacyRecord) -> bool:
        return await reclaim_dead(
            self._connection,
            installation["channel_type"],
            installation["config"]["app_id"],
            installation["workspace_id"],
            installation["agent_id"],
        )

    async def obstacle(self, installation: LegacyRecord) -> str:
        app_id, agent_id = installation["config"]["app_id"], installation["agent_id"]
        found: list[tuple[UUID, UUID, bool]] = await _Q.explain_installation(
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
        if not await _Q.lock_legacy_import(connection):
            raise StoreConflict("another import is under way; run this again when it has ended")
        await _Q.wait_for_legacy_source(connection)
        yield PostgresLegacyTarget(connection)


def _numbered(records: Sequence[LegacyRecord]) -> str:
    return msgspec.json.encode([{"n": n, **record} for n, record in enumerate(records)]).decode()


def _placement(placed: Placed) -> Placement:
    if placed.added:
        return Placement.NEW
    return Placement.KNOWN if placed.known else Placement.TAKEN
