"""What must be right before the gateway can use a database, and the words for what is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import trio

from gateway.errors import ConfigError, StoreUnavailable
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import translating
from gateway.postgres.session import RELIED_ON, open_session
from gateway.postgres.statements import SqlFile

SHARING_SECONDS = 5.0
NAMED_MAX = 5
"""The most tables that a message names."""
_SYSTEM_SCHEMAS = {"pg_catalog", "information_schema", "pg_toast"}


@dataclass(frozen=True, slots=True)
class DatabaseCondition:
    """What one look at a database found.

    `schema` is where tables would be made; None if search_path leads to no schema. `homes` are the schemas that hold
    tables of the gateway, `owner` owns those in `schema`. `forbidden` are tables that the role may not read and write,
    `occupied` tables of another program under names that the gateway needs, `unlike` settings that have other values
    than RELIED_ON.
    """

    database: str
    database_oid: int
    server_started_at: datetime
    encoding: str
    role: str
    search_path: str
    schema: str | None
    may_create: bool
    read_only: bool
    standby: bool
    homes: list[str]
    owner: str | None
    is_owner: bool
    forbidden: list[str]
    occupied: list[str]
    unlike: list[str]

    @property
    def identity(self) -> tuple[int, datetime, str | None]:
        """Equal for two connections that see the same tables of the same running server."""
        return self.database_oid, self.server_started_at, self.schema


_SQL = SqlFile("inspection.sql")
_INSPECT_DATABASE = _SQL.one("inspect_database", DatabaseCondition)


async def inspect_database(connection: TrioConnection[Any]) -> DatabaseCondition:
    """Look at the database. Changes nothing. Raises psycopg.Error."""
    return await _INSPECT_DATABASE(connection, names=list(RELIED_ON), wanted=list(RELIED_ON.values()))


def refuse_unusable(
    found: DatabaseCondition, *, writing: bool = True, migrating: bool = False, pooled: bool = False
) -> None:
    """Raise ConfigError that says everything an operator must change, or StoreUnavailable for a standby.

    `writing` is false where reading is enough, `migrating` is true where steps are to be applied or taken back.
    """
    causes = list(_causes(found, writing=writing, migrating=migrating))
    if pooled and found.unlike:
        causes.append(
            f"behind a pooler the settings of role {found.role} apply, and {_few(found.unlike)} does not work:"
            f" `{'; '.join(f'alter role {_quoted(found.role)} set {name}' for name in _wanted(found.unlike))}`"
        )
    if causes:
        raise ConfigError("; ".join(causes))
    if writing and found.standby:
        raise StoreUnavailable(
            f"the server of database {found.database} is a standby, which takes no writes: name the primary, or every"
            " server with target_session_attrs=read-write"
        )


def _causes(found: DatabaseCondition, *, writing: bool, migrating: bool) -> Iterator[str]:
    if found.encoding != "UTF8":
        yield (
            f"database {found.database} has the encoding {found.encoding}, which cannot hold every message: move to one"
            " that was made with `create database … encoding 'UTF8' template template0`"
        )
    place = list(_causes_of_place(found))
    yield from place
    if writing and found.read_only:
        name = _quoted(found.database)
        yield (
            f"database {found.database} is read-only for role {found.role} (default_transaction_read_only is on):"
            f" `alter database {name} reset default_transaction_read_only`, or the same for the role or the server"
        )
    if not place:
        yield from _causes_of_rights(found, writing=writing, migrating=migrating)


def _causes_of_place(found: DatabaseCondition) -> Iterator[str]:
    role = _quoted(found.role)
    if found.schema is None:
        yield (
            f"search_path ({found.search_path}) leads to no schema of database {found.database} that role {found.role}"
            f" may use: create the schema, `grant usage on schema … to {role}`, or `alter role {role} set search_path ="
            " public`"
        )
    elif found.schema in _SYSTEM_SCHEMAS or found.schema.startswith("pg_temp"):
        yield (
            f"search_path ({found.search_path}) leads to {found.schema}, where nothing can be stored:"
            f" `alter role {role} set search_path = public`"
        )
    elif found.homes and found.schema not in found.homes:
        yield (
            f"search_path ({found.search_path}) leads to schema {found.schema}, but the gateway's tables are in"
            f" {_few(found.homes)}: `alter role {role} set search_path = {_quoted(found.homes[0])}`, or give a second"
            " gateway a database of its own"
        )
    elif found.occupied:
        yield (
            f"schema {found.schema} of database {found.database} holds tables of another program"
            f" ({_few(found.occupied)}): give the gateway a database of its own"
        )


def _causes_of_rights(found: DatabaseCondition, *, writing: bool, migrating: bool) -> Iterator[str]:
    role = _quoted(found.role)
    if migrating and not found.is_owner:
        yield (
            f"the gateway's tables belong to role {found.owner}, so role {found.role} cannot migrate them:"
            f" `grant {_quoted(found.owner or '')} to {role}`, or connect as that role"
        )
    if migrating and not found.may_create:
        schema = _quoted(found.schema or "")
        yield (
            f"role {found.role} may not create tables in schema {found.schema} of database {found.database}:"
            f" `grant create on schema {schema} to {role}`"
        )
    if writing and found.forbidden:
        yield (
            f"role {found.role} may not read and write {_few(found.forbidden)}:"
            f" `grant select, insert, update, delete on all tables in schema {_quoted(found.schema or '')} to {role}`"
        )


async def refuse_elsewhere(direct: str, pooled: str) -> None:
    """Raise ConfigError if the conninfo `direct` cannot stand in for `pooled`, which leads to a pooler.

    It must lead to the same database, and give each client a session of its own.
    """
    with translating():
        async with await open_session(pooled, pooled=True) as one, await open_session(direct) as other:
            through, past = await inspect_database(one), await inspect_database(other)
            if other.pooled and await _shares_sessions(direct, other):
                raise ConfigError(
                    "database_direct_url: leads to a pooler that gives a session to one transaction after the other"
                    " (pool_mode = transaction): name the server itself"
                )
    if through.identity != past.identity:
        raise ConfigError(
            f"database_direct_url: leads to schema {past.schema} of database {past.database}, which is not what"
            f" database_url leads to (schema {through.schema} of database {through.database}, or another server)"
        )


async def _shares_sessions(conninfo: str, connection: TrioConnection[Any]) -> bool:
    """True if a pooler was seen to move `connection` to another session between two transactions.

    Poolers reuse the session that came free last. So the second transaction gets the session of another client whose
    transaction has ended in between. A pooler of a single session has none for that client.
    """
    with trio.move_on_after(SHARING_SECONDS):
        async with await open_session(conninfo) as other:
            await connection.execute("begin")
            first = await _session_of(connection)
            await other.execute("begin")
            await _session_of(other)
            await connection.execute("commit")
            await other.execute("commit")
            return await _session_of(connection) != first
    return True


async def _session_of(connection: TrioConnection[Any]) -> object:
    return await (await connection.execute("select pg_backend_pid()")).fetchone()


async def is_pooled(conninfo: str) -> bool:
    """True if a connection pooler answers. Raises what `open_session` raises, with psycopg's errors translated."""
    with translating():
        async with await open_session(conninfo) as connection:
            return connection.pooled


def _few(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _quoted(name: str) -> str:
    """Quote an identifier as SQL needs it, for commands that an operator copies."""
    plain = name.isascii() and name.isidentifier() and name == name.lower()
    return name if plain else '"' + name.replace('"', '""') + '"'


def _wanted(unlike: list[str]) -> Iterator[str]:
    for each in unlike:
        name = each.partition(" = ")[0]
        yield f"{name} = '{RELIED_ON[name]}'"
