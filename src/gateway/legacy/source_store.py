"""Reads the reference product's database for an import.

Its only transaction is read-only, so it is never written to.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

from psycopg import IsolationLevel

from gateway.errors import StoreError
from gateway.legacy.rows import Row
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import checked_conninfo, translating
from gateway.postgres.session import script_for_transaction
from gateway.postgres.statements import Many, SqlFile

_SQL = SqlFile("legacy_source.sql")
_LEGACY_TABLE_EXISTS = _SQL.value("legacy_table_exists", bool)
_LEGACY_HAS_LATER_ROWS = _SQL.value("legacy_has_later_rows", bool)


def _part(name: str) -> Many[tuple[dict[str, Any], int]]:
    """Declare a statement that gives the fields of each row, and beside them the number of rows."""
    return _SQL.many(name, tuple[dict[str, Any], int])


_PARENTS = {
    "workspace": _part("legacy_workspaces"),
    "user": _part("legacy_users"),
    "member": _part("legacy_members"),
    "agent": _part("legacy_agents"),
    "agent_runtime": _part("legacy_runtimes"),
    "chat_session": _part("legacy_sessions"),
    "chat_message": _part("legacy_messages"),
}
_INTEGRATION = {
    "lark": {
        "installation": _part("lark_installations"),
        "user_binding": _part("lark_user_bindings"),
        "chat_session_binding": _part("lark_chat_session_bindings"),
        "inbound_message_dedup": _part("lark_inbound_message_dedups"),
        "inbound_audit": _part("lark_inbound_audits"),
        "outbound_card_message": _part("lark_outbound_card_messages"),
        "binding_token": _part("lark_binding_tokens"),
    },
    "channel": {
        "installation": _part("channel_installations"),
        "user_binding": _part("channel_user_bindings"),
        "chat_session_binding": _part("channel_chat_session_bindings"),
        "inbound_message_dedup": _part("channel_inbound_message_dedups"),
        "inbound_audit": _part("channel_inbound_audits"),
        "outbound_card_message": _part("channel_outbound_card_messages"),
        "binding_token": _part("channel_binding_tokens"),
    },
}
BATCH_ROWS = 500
_NEEDED = ("workspace", "user", "member", "agent")


class PostgresLegacySource:
    """Read access to the old database, on a connection inside the snapshot. Use `open_legacy_source`.

    Every method raises StoreError. `shape` is `lark` or `channel` and names the generation of tables that is read.
    """

    def __init__(self, connection: TrioConnection[Any], shape: str) -> None:
        self._connection = connection
        self.shape = shape

    async def read(self, part: str, ids: Sequence[UUID] = ()) -> AsyncGenerator[tuple[list[Row], int], None]:
        """Yield the rows of a table in batches, each batch with the number of all rows.

        A table that does not exist yields nothing. `ids` selects workspaces, or rows, depending on the table. Tables of
        the integration are read whole.
        """
        statement = _PARENTS.get(part) or _INTEGRATION[self.shape][part]
        table = part if part in _PARENTS else f"{self.shape}_{part}"
        with _of_the_old_database():
            if not await _exists(self._connection, table):
                return
            async with self._connection.cursor(name="import") as cursor:
                await cursor.execute(statement.sql, {"ids": list(ids)})
                while batch := await cursor.fetchmany(BATCH_ROWS):
                    yield [fields for fields, _ in batch], batch[0][1]


@asynccontextmanager
async def open_legacy_source(conninfo: str) -> AsyncIterator[PostgresLegacySource]:
    """Open one snapshot of the old database for the duration of the block.

    Raises ConfigError for a conninfo that libpq cannot read, StoreUnavailable when the database cannot be reached, and
    StoreError when it lacks the tables of the reference product.
    """
    with _of_the_old_database():
        connection = await TrioConnection.connect(checked_conninfo(conninfo, named="--from"), prepare_threshold=None)
    async with connection:
        await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        async with connection.transaction():
            with _of_the_old_database():
                # Some rows get an id made from their content. Their times must read the same in every run, and their
                # text must be readable, whatever that database sets.
                await connection.execute(script_for_transaction().encode())
                shape = await _shape(connection)
            yield PostgresLegacySource(connection, shape)


async def _shape(connection: TrioConnection[Any]) -> str:
    missing = [table for table in _NEEDED if not await _exists(connection, table)]
    lark, channel = [await _exists(connection, f"{shape}_installation") for shape in ("lark", "channel")]
    if missing or not (lark or channel):
        lacking = ", ".join(missing) or "lark_installation or channel_installation"
        raise StoreError(f"it has no table {lacking}; is --from the right one?")
    if channel and lark:
        return "channel" if await _LEGACY_HAS_LATER_ROWS(connection) else "lark"
    return "channel" if channel else "lark"


async def _exists(connection: TrioConnection[Any], table: str) -> bool:
    return bool(await _LEGACY_TABLE_EXISTS(connection, name=f'"{table}"'))


@contextmanager
def _of_the_old_database() -> Iterator[None]:
    """Prefix the errors of the block, so that they say which of the two databases they are about."""
    try:
        with translating():
            yield
    except StoreError as error:
        raise type(error)(f"the old database: {error}") from error
