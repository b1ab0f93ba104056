"""Bindings of platform accounts, in Postgres."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.bindings import Binding, BindingObstacles

_Q = load("binding.sql", Binding, BindingObstacles)


class PostgresBindingStore:
    """Implements gateway.work.bindings.BindingStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, binding_id: UUID, installation_id: UUID, channel_user_id: str, email: str) -> Binding | None:
        async with self._pool.connection() as conn:
            binding: Binding | None = await _Q.create_binding(
                conn,
                id=binding_id,
                installation_id=installation_id,
                channel_user_id=channel_user_id,
                email=email,
                config="{}",
            )
            return binding

    async def explain(self, installation_id: UUID, channel_user_id: str, email: str) -> BindingObstacles:
        async with self._pool.connection() as conn:
            obstacles: BindingObstacles = await _Q.explain_binding(
                conn, installation_id=installation_id, channel_user_id=channel_user_id, email=email
            )
            return obstacles

    async def delete(self, installation_id: UUID, channel_user_id: str) -> bool:
        async with self._pool.connection() as conn:
            deleted: int = await _Q.delete_binding(
                conn, installation_id=installation_id, channel_user_id=channel_user_id
            )
            return deleted > 0

    async def list(self, installation_id: UUID) -> list[Binding]:
        async with self._pool.connection() as conn:
            bindings: list[Binding] = await _Q.list_bindings(conn, installation_id=installation_id)
            return bindings


async def unbind_member(conn: TrioConnection[Any], workspace_id: UUID, user_id: UUID) -> None:
    """Delete a member's bindings in a workspace, inside the transaction that removes the member."""
    await _Q.delete_bindings_of_member(conn, workspace_id=workspace_id, user_id=user_id)
