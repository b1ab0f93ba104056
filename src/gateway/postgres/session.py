"""Opening of sessions, with the settings that this program relies on, whatever the database or the role sets.

Behind a connection pooler (PgBouncer) a client has no session of its own: each transaction may run in another one, and
these sessions are shared with other clients. A pooler is recognised without a round trip of its own: the process id
that it gave as the connection was made is not the one of the process that answers. Nothing tells a pooler that gives
each client a session from one that does not, so both are treated alike.

- Settings that poolers keep for each client (PgBouncer reads the server's reports of them) are always set.
- All other settings are set only on a session of one's own, because they would go on to apply to other clients.
- Statements are not prepared on the server, because the session of the next transaction does not know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import errors as e
from psycopg import sql

from gateway.errors import ConfigError
from gateway.postgres.driver import TrioConnection

OLDEST_MAJOR = 15
"""The oldest version of PostgreSQL that has everything the migrations and statements use."""

# Values are read and written as text in these forms. A database or a role may have set others.
_KEPT_BY_POOLERS = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "standard_conforming_strings": "on",
    "timezone": "UTC",
}
RELIED_ON = {
    "array_nulls": "on",
    "bytea_output": "hex",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "intervalstyle": "postgres",
    "transform_null_equals": "off",
}
"""Settings with which statements mean what they should. A pooler does not keep them for a client."""
# The limits of a role are meant for people. What needs a limit here sets its own.
_UNLIMITED = {
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
}
_UNLIMITED_SINCE = {17: {"transaction_timeout": "0"}}


async def open_session(
    conninfo: str, *, pooled: bool = False, settings: Mapping[str, str] | None = None
) -> TrioConnection[Any]:
    """Connect, and make the settings, in one round trip after the connection's own.

    `settings` are further ones for a session of one's own. With `pooled` the session is taken for a pooler's, whatever
    it looks like. `TrioConnection.pooled` says what it is. Raises ConfigError for a server that is too old or whose
    encoding has no UTF-8 form, and psycopg.Error for everything else.
    """
    connection = await TrioConnection.connect(conninfo)
    try:
        refuse_old(connection.info.server_version)
        own_pid = 0 if pooled else connection.info.backend_pid
        script = session_script(connection.info.server_version, own_pid, settings)
        cursor = await connection.execute(script.encode())
        while cursor.nextset():
            pass
        connection.pooled = await cursor.fetchone() != (own_pid,)
        if connection.pooled:
            connection.prepare_threshold = None
    except e.FeatureNotSupported as error:
        connection.abort()
        raise ConfigError(f"the encoding of the database is not UTF8 and cannot be converted to it: {error}") from error
    except BaseException:
        connection.abort()
        raise
    return connection


def refuse_old(server_version: int) -> None:
    """Raise ConfigError for a server older than OLDEST_MAJOR. `server_version` is a number like 150004."""
    if server_version < OLDEST_MAJOR * 10_000:
        # Before 10, the major version had two parts.
        major, rest = divmod(server_version, 10_000)
        shown = f"{major}.{rest}" if major >= 10 else f"{major}.{rest // 100}"
        raise ConfigError(
            f"the database runs on PostgreSQL {shown}, and {OLDEST_MAJOR} is the oldest that works: upgrade the server"
        )


def script_for_transaction() -> str:
    """Return the statements that make the settings for one transaction, on a server of any version."""
    settings = {**_KEPT_BY_POOLERS, **RELIED_ON}
    each = [sql.SQL("set local {} = {}").format(sql.Identifier(k), sql.Literal(v)) for k, v in settings.items()]
    return sql.SQL("; ").join(each).as_string(None)


def session_script(server_version: int, own_pid: int, settings: Mapping[str, str] | None = None) -> str:
    """Return the statements that make the settings and then select the process id of the session.

    `own_pid` is the one that was told as the connection was made, or 0 for a session that is known to be shared.
    """
    newer = {
        name: value
        for major, more in _UNLIMITED_SINCE.items()
        if server_version >= major * 10_000
        for name, value in more.items()
    }
    pairs = [
        sql.SQL("({}, {})").format(sql.Literal(name), sql.Literal(value))
        for name, value in {**RELIED_ON, **_UNLIMITED, **newer, **(settings or {})}.items()
    ]
    kept = [sql.SQL("set {} = {}").format(sql.Identifier(k), sql.Literal(v)) for k, v in _KEPT_BY_POOLERS.items()]
    own = sql.SQL(
        "select set_config(name, value, false) from (values {}) as s (name, value) where pg_backend_pid() = {}"
    ).format(sql.SQL(", ").join(pairs), sql.Literal(own_pid))
    return sql.SQL("; ").join([*kept, own, sql.SQL("select pg_backend_pid()")]).as_string(None)
