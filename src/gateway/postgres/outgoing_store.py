"""Messages to platforms, for the people who administer them, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.tasks.outgoing import Outgoing, Owned

_Q = load("outgoing.sql", Outgoing, Owned)


class PostgresOutgoingStore:
    """Implements gateway.work.tasks.outgoing.OutgoingStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list(
        self, workspace_id: UUID, status: str | None, *, limit: int, offset: int
    ) -> tuple[list[Outgoing], int]:
        chosen = {"workspace_id": workspace_id, "status": status}
        async with self._pool.connection() as conn:
            rows: list[Outgoing] = await _Q.list_outgoing(conn, **chosen, row_limit=limit, row_offset=offset)
            return rows, await _Q.count_outgoing(conn, **chosen)

    async def find(self, outgoing_id: UUID, user_id: UUID) -> Owned | None:
        async with self._pool.connection() as conn:
            owned: Owned | None = await _Q.get_outgoing(conn, id=outgoing_id, user_id=user_id)
            return owned

    async def resend(self, owned: Owned, key: UUID) -> Outgoing | None:
        async with self._pool.connection() as conn:
            again: Outgoing | None = await _Q.resend_outgoing(
                conn, id=owned.id, workspace_id=owned.workspace_id, uuid=str(key)
            )
            return again
