"""Messages to platforms, for the people who administer them, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.tasks.outgoing import Outgoing, Owned

_SQL = SqlFile("outgoing.sql")
_LIST_OUTGOING = _SQL.many("list_outgoing", Outgoing)
_COUNT_OUTGOING = _SQL.value("count_outgoing", int)
_GET_OUTGOING = _SQL.one_or_none("get_outgoing", Owned)
_RESEND_OUTGOING = _SQL.one_or_none("resend_outgoing", Outgoing)


class PostgresOutgoingStore:
    """Implements gateway.work.tasks.outgoing.OutgoingStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list(
        self, workspace_id: UUID, status: str | None, *, limit: int, offset: int
    ) -> tuple[list[Outgoing], int]:
        chosen = {"workspace_id": workspace_id, "status": status}
        async with self._pool.connection() as conn:
            rows = await _LIST_OUTGOING(conn, **chosen, row_limit=limit, row_offset=offset)
            return rows, await _COUNT_OUTGOING(conn, **chosen)

    async def find(self, outgoing_id: UUID, user_id: UUID) -> Owned | None:
        return await _GET_OUTGOING(self._pool, id=outgoing_id, user_id=user_id)

    async def resend(self, owned: Owned, key: UUID) -> Outgoing | None:
        return await _RESEND_OUTGOING(self._pool, id=owned.id, workspace_id=owned.workspace_id, uuid=str(key))
