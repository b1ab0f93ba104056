"""Readiness probes: Postgres answers, and takes writes."""

from __future__ import annotations

from contextlib import suppress

from psycopg import errors as e

from gateway.errors import StoreUnavailable
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile

_SQL = SqlFile("readiness.sql")
_KEEP_LITTLE_IN_MEMORY = _SQL.value("keep_little_in_memory", str)
_FILL_A_FILE = _SQL.value("fill_a_file", int)
_TRY_WRITE = _SQL.value("try_write", str)


class PostgresReadiness:
    """Probes for `/readyz` on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def database_problem(self) -> str | None:
        """Return None once the database has answered. Raises StoreUnavailable."""
        async with self._pool.connection() as conn:
            await conn.execute("select 1")
        return None

    async def write_problem(self) -> str | None:
        """Return None after a write that is on disk, or the reason why the database refuses one.

        Raises StoreUnavailable for any other failure.
        """
        try:
            await self._fill_a_file()
            async with self._pool.transaction() as conn:
                await _TRY_WRITE(conn)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, e.DiskFull):
                return "the disk of the database is full"
            if isinstance(error.__cause__, e.ReadOnlySqlTransaction):
                return "the database is read-only"
            raise
        return None

    async def _fill_a_file(self) -> None:
        async with self._pool.connection() as conn:
            # Reaching temp_file_limit, which the operator sets, says nothing about the disk.
            with suppress(e.ConfigurationLimitExceeded):
                async with conn.transaction():
                    await _KEEP_LITTLE_IN_MEMORY(conn)
                    await _FILL_A_FILE(conn)
