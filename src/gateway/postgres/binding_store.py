"""Bindings of platform accounts, in Postgres."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.people.binding_prompts import LINK_MINUTES
from gateway.work.people.bindings import Binding, BindingObstacles, BoundPerson, LinkAsked, RedeemRefusal, TokenAccount

_SQL = SqlFile("binding.sql")
_CREATE_BINDING = _SQL.one_or_none("create_binding", Binding)
_EXPLAIN_BINDING = _SQL.one("explain_binding", BindingObstacles)
_MINT_BINDING_TOKEN = _SQL.value_or_none("mint_binding_token", str)
_PREVIEW_BINDING_TOKEN = _SQL.one_or_none("preview_binding_token", LinkAsked)
_CONSUME_BINDING_TOKEN = _SQL.one_or_none("consume_binding_token", TokenAccount)
_LOCK_MEMBERSHIP = _SQL.value_or_none("lock_membership", bool)
_BIND_ACCOUNT = _SQL.one_or_none("bind_account", Binding)
_LIST_BOUND_PEOPLE = _SQL.many("list_bound_people", BoundPerson)
_INSTALLATION_OF_WORKSPACE = _SQL.value_or_none("installation_of_workspace", bool)
_DELETE_BINDING_BY_ID = _SQL.changed("delete_binding_by_id")
_DELETE_BINDING = _SQL.changed("delete_binding")
_LIST_BINDINGS = _SQL.many("list_bindings", Binding)
_DELETE_BINDINGS_OF_MEMBER = _SQL.count("delete_bindings_of_member")


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
        return await _CREATE_BINDING(
            self._pool,
            id=binding_id,
            installation_id=installation_id,
            channel_user_id=channel_user_id,
            email=email,
            config="{}",
        )

    async def explain(self, installation_id: UUID, channel_user_id: str, email: str) -> BindingObstacles:
        return await _EXPLAIN_BINDING(
            self._pool, installation_id=installation_id, channel_user_id=channel_user_id, email=email
        )

    async def delete(self, installation_id: UUID, channel_user_id: str) -> bool:
        return await _DELETE_BINDING(self._pool, installation_id=installation_id, channel_user_id=channel_user_id)

    async def mint(self, hashed: str | None, installation_id: UUID, channel_user_id: str) -> str | None:
        return await _MINT_BINDING_TOKEN(
            self._pool,
            hashed=hashed,
            installation_id=installation_id,
            channel_user_id=channel_user_id,
            link_seconds=LINK_MINUTES * 60.0,
        )

    async def redeem(self, hashed: str, user_id: UUID, binding_id: UUID) -> Binding | RedeemRefusal:
        try:
            async with self._pool.transaction() as conn:
                return await _redeem(conn, hashed, user_id, binding_id)
        except _NotRedeemed as refused:
            return refused.refusal

    async def preview(self, hashed: str, user_id: UUID) -> LinkAsked | None:
        return await _PREVIEW_BINDING_TOKEN(self._pool, hashed=hashed, user_id=user_id)

    async def people(self, workspace_id: UUID, installation_id: UUID) -> list[BoundPerson] | None:
        place = {"workspace_id": workspace_id, "installation_id": installation_id}
        async with self._pool.connection() as conn:
            if not await _INSTALLATION_OF_WORKSPACE(conn, **place):
                return None
            return await _LIST_BOUND_PEOPLE(conn, **place)

    async def delete_by_id(self, workspace_id: UUID, installation_id: UUID, binding_id: UUID) -> bool:
        return await _DELETE_BINDING_BY_ID(
            self._pool, workspace_id=workspace_id, installation_id=installation_id, binding_id=binding_id
        )

    async def list(self, installation_id: UUID) -> list[Binding]:
        return await _LIST_BINDINGS(self._pool, installation_id=installation_id)


async def _redeem(conn: TrioConnection[Any], hashed: str, user_id: UUID, binding_id: UUID) -> Binding:
    account = await _CONSUME_BINDING_TOKEN(conn, hashed=hashed)
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
    if not await _LOCK_MEMBERSHIP(conn, workspace_id=workspace_id, user_id=user_id):
        return RedeemRefusal.NOT_A_MEMBER
    binding = await _BIND_ACCOUNT(
        conn, id=binding_id, installation_id=installation_id, channel_user_id=channel_user_id, user_id=user_id
    )
    return RedeemRefusal.ALREADY_BOUND if binding is None else binding


async def unbind_member(conn: TrioConnection[Any], workspace_id: UUID, user_id: UUID) -> None:
    """Delete a member's bindings in a workspace, inside the transaction that removes the member."""
    await _DELETE_BINDINGS_OF_MEMBER(conn, workspace_id=workspace_id, user_id=user_id)
