"""Installations whose events the platform posts to this server, in Postgres."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from gateway.channel.channel import DEGRADED_SECONDS
from gateway.channel.push import PushTarget
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load

_Q = load("push.sql", PushTarget)


class PostgresPushStore:
    """Implements gateway.channel.push.PushStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, installation_id: UUID) -> PushTarget | None:
        async with self._pool.connection() as conn:
            target: PushTarget | None = await _Q.find_push_target(conn, id=installation_id)
            return target

    async def heard(self, installation_ids: Iterable[UUID], asked_again: Iterable[UUID]) -> None:
        async with self._pool.connection() as conn:
            await _Q.note_pushed_events(
                conn,
                ids=list(installation_ids),
                asked_again_ids=list(asked_again),
                degraded_seconds=DEGRADED_SECONDS,
            )
