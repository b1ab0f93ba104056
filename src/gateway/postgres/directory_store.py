"""The directory in Postgres."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from gateway.errors import StoreConflict
from gateway.postgres.binding_store import unbind_member
from gateway.postgres.events import announce
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.people.access import Role
from gateway.work.people.directory import (
    LAST_OWNER,
    MEMBER_REMOVED,
    SHARED_PREFIX,
    Agent,
    AgentChange,
    ApiToken,
    Language,
    Member,
    Runtime,
    TokenOwner,
    User,
    Visibility,
    Workspace,
)

_SQL = SqlFile("directory.sql")
_TOUCH_TOKEN = _SQL.one_or_none("touch_token", TokenOwner)
_USER_BY_EMAIL = _SQL.one_or_none("user_by_email", User)
_WORKSPACE = _SQL.one_or_none("workspace", Workspace)
_MEMBER = _SQL.one_or_none("member", Member)
_FIRST_OWNER = _SQL.value_or_none("first_owner", UUID)
_AGENT = _SQL.one_or_none("agent", Agent)
_RUNTIME = _SQL.one_or_none("runtime", Runtime)
_ADD_USER = _SQL.one("add_user", User)
_LOCK_WORKSPACES = _SQL.count("lock_workspaces")
_PREFIX_IN_USE = _SQL.value("prefix_in_use", bool)
_ADD_WORKSPACE = _SQL.one("add_workspace", Workspace)
_SET_WORKSPACE_LANGUAGE = _SQL.one_or_none("set_workspace_language", Workspace)
_ADD_MEMBER = _SQL.one("add_member", Member)
_SET_PASSWORD = _SQL.count("set_password")
_END_SESSIONS = _SQL.count("end_sessions")
_SET_MEMBER_ROLE = _SQL.one_or_none("set_member_role", Member)
_LOCK_OWNERS = _SQL.column("lock_owners", UUID)
_DELETE_MEMBER = _SQL.count("delete_member")
_ADD_AGENT = _SQL.one("add_agent", Agent)
_CHANGE_AGENT = _SQL.one_or_none("change_agent", Agent)
_ADD_USER_TOKEN = _SQL.one("add_user_token", ApiToken)
_ADD_RUNTIME = _SQL.one("add_runtime", Runtime)


class PostgresDirectoryStore:
    """Implements `work.people.directory.DirectoryStore` on a pool that the caller owns.

    Each method is one transaction.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def touch_token(self, hashed: str) -> TokenOwner | None:
        return await _TOUCH_TOKEN(self._pool, hashed=hashed)

    async def user_by_email(self, email: str) -> User | None:
        return await _USER_BY_EMAIL(self._pool, email=email)

    async def workspace(self, reference: str) -> Workspace | None:
        return await _WORKSPACE(self._pool, reference=reference)

    async def member(self, workspace_id: UUID, user_id: UUID) -> Member | None:
        return await _MEMBER(self._pool, workspace_id=workspace_id, user_id=user_id)

    async def first_owner(self, workspace_id: UUID) -> UUID | None:
        return await _FIRST_OWNER(self._pool, workspace_id=workspace_id)

    async def agent(self, agent_id: UUID) -> Agent | None:
        return await _AGENT(self._pool, agent_id=agent_id)

    async def runtime(self, workspace_id: UUID, runtime_id: UUID) -> Runtime | None:
        return await _RUNTIME(self._pool, workspace_id=workspace_id, runtime_id=runtime_id)

    async def add_user(self, *, user_id: UUID, email: str, name: str, password_hash: str | None) -> User:
        return await _ADD_USER(self._pool, user_id=user_id, email=email, name=name, password_hash=password_hash)

    async def add_workspace(
        self,
        *,
        workspace_id: UUID,
        name: str,
        slug: str,
        prefix: str,
        language: Language,
        owner_id: UUID,
        shared_prefix: bool,
    ) -> Workspace:
        async with self._pool.transaction() as conn:
            await _LOCK_WORKSPACES(conn)
            if not shared_prefix and await _PREFIX_IN_USE(conn, prefix=prefix):
                raise StoreConflict("the prefix is in use", constraint=SHARED_PREFIX)
            return await _ADD_WORKSPACE(
                conn,
                workspace_id=workspace_id,
                name=name,
                slug=slug,
                prefix=prefix,
                language=language,
                owner_id=owner_id,
            )

    async def set_workspace_language(self, workspace_id: UUID, language: Language) -> Workspace | None:
        return await _SET_WORKSPACE_LANGUAGE(self._pool, workspace_id=workspace_id, language=language)

    async def add_member(self, *, workspace_id: UUID, user_id: UUID, role: Role) -> Member:
        return await _ADD_MEMBER(self._pool, workspace_id=workspace_id, user_id=user_id, role=role)

    async def set_password(self, user_id: UUID, password_hash: str) -> bool:
        async with self._pool.transaction() as conn:
            changed = await _SET_PASSWORD(conn, user_id=user_id, password_hash=password_hash)
            await _END_SESSIONS(conn, user_id=user_id)
            return changed > 0

    async def set_member_role(self, *, workspace_id: UUID, user_id: UUID, role: Role) -> Member | None:
        async with self._pool.transaction() as conn:
            if role != "owner" and await _LOCK_OWNERS(conn, workspace_id=workspace_id) == [user_id]:
                raise StoreConflict("the only owner stays", constraint=LAST_OWNER)
            return await _SET_MEMBER_ROLE(conn, workspace_id=workspace_id, user_id=user_id, role=role)

    async def remove_member(self, workspace_id: UUID, user_id: UUID) -> bool:
        async with self._pool.transaction() as conn:
            if await _LOCK_OWNERS(conn, workspace_id=workspace_id) == [user_id]:
                raise StoreConflict("the only owner stays", constraint=LAST_OWNER)
            deleted = await _DELETE_MEMBER(conn, workspace_id=workspace_id, user_id=user_id)
            await unbind_member(conn, workspace_id, user_id)
            if deleted:
                # The streams that the person has open in this workspace then end at once.
                await announce(conn, MEMBER_REMOVED, {"workspace_id": workspace_id, "user_id": user_id})
            return deleted > 0

    async def add_agent(
        self,
        *,
        agent_id: UUID,
        workspace_id: UUID,
        name: str,
        owner_id: UUID | None,
        runtime_id: UUID | None,
        visibility: Visibility,
    ) -> Agent:
        return await _ADD_AGENT(
            self._pool,
            agent_id=agent_id,
            workspace_id=workspace_id,
            name=name,
            owner_id=owner_id,
            runtime_id=runtime_id,
            visibility=visibility,
        )

    async def change_agent(self, agent: Agent, change: AgentChange) -> Agent | None:
        return await _CHANGE_AGENT(self._pool, id=agent.id, workspace_id=agent.workspace_id, **asdict(change))

    async def add_user_token(self, *, token_id: UUID, user_id: UUID, name: str, hashed: str) -> ApiToken:
        return await _ADD_USER_TOKEN(self._pool, token_id=token_id, user_id=user_id, name=name, hashed=hashed)

    async def add_runtime(
        self, *, runtime_id: UUID, workspace_id: UUID, name: str, token_id: UUID, hashed: str
    ) -> Runtime:
        return await _ADD_RUNTIME(
            self._pool, runtime_id=runtime_id, workspace_id=workspace_id, name=name, token_id=token_id, hashed=hashed
        )
