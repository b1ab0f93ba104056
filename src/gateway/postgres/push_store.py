"""Installations whose events the platform posts to this server, in Postgres."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from gateway.channel.channel import DEGRADED_SECONDS
from gateway.channel.push import PushTarget
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile

_SQL = SqlFile("push.sql")
_FIND_PUSH_TARGET = _SQL.one_or_none("find_push_target", PushTarget)
_NOTE_PUSHED_EVENTS = _SQL.count("note_pushed_events")


class PostgresPushStore:
    """Implements gateway.channel.push.PushStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, installation_id: UUID) -> PushTarget | None:
        return await _FIND_PUSH_TARGET(self._pool, id=installation_id)

    async def heard(self, installation_ids: Iterable[UUID], asked_again: Iterable[UUID]) -> None:
        await _NOTE_PUSHED_EVENTS(
            self._pool, ids=list(installation_ids), asked_again_ids=list(asked_again), degraded_seconds=DEGRADED_SECONDS
        )
