"""What an operator finds, lists and removes, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from gateway.postgres.events import announce
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.people.administration import Dependents, ListedAgent, ListedRuntime, ListedToken
from gateway.work.people.directory import MEMBER_REMOVED, Member, User, Workspace
from gateway.work.people.references import MATCHES_MAX, Match

_SQL = SqlFile("administration.sql")
_FIND_USERS = _SQL.many("find_users", Match)
_FIND_WORKSPACES = _SQL.many("find_workspaces", Match)
_FIND_AGENTS = _SQL.many("find_agents", Match)
_FIND_RUNTIMES = _SQL.many("find_runtimes", Match)
_FIND_TOKENS = _SQL.many("find_tokens", Match)
_FIND_INSTALLATIONS = _SQL.many("find_installations", Match)
_LIST_USERS = _SQL.many("list_users", User)
_LIST_WORKSPACES = _SQL.many("list_workspaces", Workspace)
_LIST_MEMBERS = _SQL.many("list_members", Member)
_LIST_ALL_AGENTS = _SQL.many("list_all_agents", ListedAgent)
_LIST_RUNTIMES = _SQL.many("list_runtimes", ListedRuntime)
_LIST_TOKENS = _SQL.many("list_tokens", ListedToken)
_REVOKE_TOKEN = _SQL.count("revoke_token")
_REPLACE_RUNTIME_TOKEN = _SQL.changed("replace_runtime_token")
_HOLD_USER = _SQL.value_or_none("hold_user", bool)
_HOLD_WORKSPACE = _SQL.value_or_none("hold_workspace", bool)
_HOLD_AGENT = _SQL.value_or_none("hold_agent", bool)
_HOLD_RUNTIME = _SQL.value_or_none("hold_runtime", bool)
_DEPENDENTS_OF_USER = _SQL.many("dependents_of_user", Dependents)
_DEPENDENTS_OF_WORKSPACE = _SQL.many("dependents_of_workspace", Dependents)
_DEPENDENTS_OF_AGENT = _SQL.many("dependents_of_agent", Dependents)
_DEPENDENTS_OF_RUNTIME = _SQL.many("dependents_of_runtime", Dependents)
_WORKSPACES_OF_USER = _SQL.column("workspaces_of_user", UUID)
_DELETE_BINDINGS_OF_USER = _SQL.count("delete_bindings_of_user")
_DELETE_BINDINGS_OF_WORKSPACE = _SQL.count("delete_bindings_of_workspace")
_DELETE_USER = _SQL.count("delete_user")
_DELETE_WORKSPACE = _SQL.count("delete_workspace")
_DELETE_AGENT = _SQL.count("delete_agent")
_DELETE_RUNTIME = _SQL.count("delete_runtime")


class PostgresReferences:
    """Implements gateway.work.people.references.ReferenceStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def users(self, reference: str) -> Sequence[Match]:
        return await _FIND_USERS(self._pool, reference=reference, rows_max=MATCHES_MAX)

    async def workspaces(self, reference: str) -> Sequence[Match]:
        return await _FIND_WORKSPACES(self._pool, reference=reference, rows_max=MATCHES_MAX)

    async def agents(self, workspace_id: UUID | None, reference: str) -> Sequence[Match]:
        return await _FIND_AGENTS(self._pool, workspace_id=workspace_id, reference=reference, rows_max=MATCHES_MAX)

    async def runtimes(self, workspace_id: UUID | None, reference: str) -> Sequence[Match]:
        return await _FIND_RUNTIMES(self._pool, workspace_id=workspace_id, reference=reference, rows_max=MATCHES_MAX)

    async def tokens(self, reference: str) -> Sequence[Match]:
        return await _FIND_TOKENS(self._pool, reference=reference, rows_max=MATCHES_MAX)

    async def installations(self, channel_type: str, reference: str) -> Sequence[Match]:
        return await _FIND_INSTALLATIONS(
            self._pool, channel_type=channel_type, reference=reference, rows_max=MATCHES_MAX
        )


class PostgresAdministrationStore:
    """Implements gateway.work.people.administration.AdministrationStore on a pool that the caller owns.

    Each method is one transaction. A removal locks the object first, so that what it finds to depend on it is all there
    is.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def users(self, *, user_id: UUID | None = None) -> Sequence[User]:
        return await _LIST_USERS(self._pool, id=user_id)

    async def workspaces(self, *, workspace_id: UUID | None = None) -> Sequence[Workspace]:
        return await _LIST_WORKSPACES(self._pool, id=workspace_id)

    async def members(self, *, workspace_id: UUID | None = None, user_id: UUID | None = None) -> Sequence[Member]:
        return await _LIST_MEMBERS(self._pool, workspace_id=workspace_id, user_id=user_id)

    async def agents(self, *, agent_id: UUID | None = None, workspace_id: UUID | None = None) -> Sequence[ListedAgent]:
        return await _LIST_ALL_AGENTS(self._pool, id=agent_id, workspace_id=workspace_id)

    async def runtimes(
        self, *, runtime_id: UUID | None = None, workspace_id: UUID | None = None
    ) -> Sequence[ListedRuntime]:
        return await _LIST_RUNTIMES(self._pool, id=runtime_id, workspace_id=workspace_id)

    async def tokens(self, *, token_id: UUID | None = None, user_id: UUID | None = None) -> Sequence[ListedToken]:
        return await _LIST_TOKENS(self._pool, id=token_id, user_id=user_id)

    async def revoke_token(self, token_id: UUID) -> None:
        await _REVOKE_TOKEN(self._pool, id=token_id)

    async def replace_runtime_token(self, runtime_id: UUID, token_id: UUID, hashed: str) -> bool:
        return await _REPLACE_RUNTIME_TOKEN(self._pool, runtime_id=runtime_id, token_id=token_id, hashed=hashed)

    async def remove_user(self, user_id: UUID) -> Sequence[Dependents]:
        async with self._pool.transaction() as conn:
            await _HOLD_USER(conn, id=user_id)
            obstacles = await _DEPENDENTS_OF_USER(conn, id=user_id)
            if not obstacles:
                left = await _WORKSPACES_OF_USER(conn, user_id=user_id)
                await _DELETE_USER(conn, id=user_id)
                await _DELETE_BINDINGS_OF_USER(conn, user_id=user_id)
                for workspace_id in left:
                    # The streams that the person has open in this workspace then end at once.
                    await announce(conn, MEMBER_REMOVED, {"workspace_id": workspace_id, "user_id": user_id})
            return obstacles

    async def remove_workspace(self, workspace_id: UUID) -> Sequence[Dependents]:
        async with self._pool.transaction() as conn:
            await _HOLD_WORKSPACE(conn, id=workspace_id)
            obstacles = await _DEPENDENTS_OF_WORKSPACE(conn, id=workspace_id)
            if not obstacles:
                await _DELETE_WORKSPACE(conn, id=workspace_id)
                await _DELETE_BINDINGS_OF_WORKSPACE(conn, workspace_id=workspace_id)
            return obstacles

    async def remove_agent(self, agent_id: UUID, workspace_id: UUID) -> Sequence[Dependents]:
        async with self._pool.transaction() as conn:
            await _HOLD_AGENT(conn, id=agent_id)
            obstacles = await _DEPENDENTS_OF_AGENT(conn, id=agent_id)
            if not obstacles:
                await _DELETE_AGENT(conn, id=agent_id, workspace_id=workspace_id)
            return obstacles

    async def remove_runtime(self, runtime_id: UUID, workspace_id: UUID) -> Sequence[Dependents]:
        async with self._pool.transaction() as conn:
            await _HOLD_RUNTIME(conn, id=runtime_id)
            obstacles = await _DEPENDENTS_OF_RUNTIME(conn, id=runtime_id)
            if not obstacles:
                await _DELETE_RUNTIME(conn, id=runtime_id, workspace_id=workspace_id)
            return obstacles
