"""Bindings of platform accounts, in Postgres."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.people.bindings import Binding, BindingObstacles, BoundPerson, LinkAsked, RedeemRefusal, TokenAccount

_Q = load("binding.sql", Binding, BindingObstacles, TokenAccount, BoundPerson, LinkAsked)


class _NotRedeemed(Exception):
    """Raised to roll back the transaction of `redeem`, so that the token is not consumed. Caught in this module."""

    def __init__(self, refusal: RedeemRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class PostgresBindingStore:
    """Implements `work.people.bindings.BindingStore` and `work.people.binding_prompts.PromptStore` on a pool."""

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

    async def mint(self, hashed: str | None, installation_id: UUID, channel_user_id: str) -> str | None:
        async with self._pool.connection() as conn:
            language: str | None = await _Q.mint_binding_token(
                conn, hashed=hashed, installation_id=installation_id, channel_user_id=channel_user_id
            )
            return language

    async def redeem(self, hashed: str, user_id: UUID, binding_id: UUID) -> Binding | RedeemRefusal:
        try:
            async with self._pool.transaction() as conn:
                return await _redeem(conn, hashed, user_id, binding_id)
        except _NotRedeemed as refused:
            return refused.refusal

    async def preview(self, hashed: str, user_id: UUID) -> LinkAsked | None:
        async with self._pool.connection() as conn:
            asked: LinkAsked | None = await _Q.preview_binding_token(conn, hashed=hashed, user_id=user_id)
            return asked

    async def people(self, workspace_id: UUID, installation_id: UUID) -> list[BoundPerson] | None:
        place = {"workspace_id": workspace_id, "installation_id": installation_id}
        async with self._pool.connection() as conn:
            if not await _Q.installation_of_workspace(conn, **place):
                return None
            people: list[BoundPerson] = await _Q.list_bound_people(conn, **place)
            return people

    async def delete_by_id(self, workspace_id: UUID, installation_id: UUID, binding_id: UUID) -> bool:
        async with self._pool.connection() as conn:
            deleted: int = await _Q.delete_binding_by_id(
                conn, workspace_id=workspace_id, installation_id=installation_id, binding_id=binding_id
            )
            return deleted > 0

    async def list(self, installation_id: UUID) -> list[Binding]:
        async with self._pool.connection() as conn:
            bindings: list[Binding] = await _Q.list_bindings(conn, installation_id=installation_id)
            return bindings


async def _redeem(conn: TrioConnection[Any], hashed: str, user_id: UUID, binding_id: UUID) -> Binding:
    account: TokenAccount | None = await _Q.consume_binding_token(conn, hashed=hashed)
    if account is None:
        raise _NotRedeemed(RedeemRefusal.TOKEN_OVER)
    bound = await bind_member(
        conn,
        binding_id=binding_id,
        workspace_id=account.workspace_id,
        installation_id=account.installation_id,
        channel_user_id=account.channel_user_id,
        user_id=user_id,
    )
    if isinstance(bound, RedeemRefusal):
        raise _NotRedeemed(bound)
    return bound


async def bind_member(
    conn: TrioConnection[Any],
    *,
    binding_id: UUID,
    workspace_id: UUID,
    installation_id: UUID,
    channel_user_id: str,
    user_id: UUID,
) -> Binding | RedeemRefusal:
    """Bind an account to a member, in the caller's transaction. The caller must roll it back on a RedeemRefusal."""
    if not await _Q.lock_membership(conn, workspace_id=workspace_id, user_id=user_id):
        return RedeemRefusal.NOT_A_MEMBER
    binding: Binding | None = await _Q.bind_account(
        conn, id=binding_id, installation_id=installation_id, channel_user_id=channel_user_id, user_id=user_id
    )
    return RedeemRefusal.ALREADY_BOUND if binding is None else binding


async def unbind_member(conn: TrioConnection[Any], workspace_id: UUID, user_id: UUID) -> None:
    """Delete a member's bindings in a workspace, inside the transaction that removes the member."""
    await _Q.delete_bindings_of_member(conn, workspace_id=workspace_id, user_id=user_id)
