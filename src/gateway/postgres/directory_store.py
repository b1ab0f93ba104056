"""The directory in Postgres."""

from __future__ import annotations

from uuid import UUID

import msgspec

from gateway.errors import StoreConflict
from gateway.postgres.binding_store import unbind_member
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.people.access import Role
from gateway.work.people.directory import (
    LAST_OWNER,
    MEMBER_REMOVED,
    Agent,
    ApiToken,
    Language,
    Member,
    Runtime,
    TokenOwner,
    User,
    Visibility,
    Workspace,
)

Q = load("directory.sql", TokenOwner, User, Workspace, Member, Agent, Runtime, ApiToken)


class PostgresDirectoryStore:
    """Implements `work.people.directory.DirectoryStore` on a pool that the caller owns.

    Each method is one transaction.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def touch_token(self, hashed: str) -> TokenOwner | None:
        async with self._pool.connection() as conn:
            owner: TokenOwner | None = await Q.touch_token(conn, hashed=hashed)
            return owner

    async def user_by_email(self, email: str) -> User | None:
        async with self._pool.connection() as conn:
            user: User | None = await Q.user_by_email(conn, email=email)
            return user

    async def workspace(self, reference: str) -> Workspace | None:
        async with self._pool.connection() as conn:
            workspace: Workspace | None = await Q.workspace(conn, reference=reference)
            return workspace

    async def member(self, workspace_id: UUID, user_id: UUID) -> Member | None:
        async with self._pool.connection() as conn:
            member: Member | None = await Q.member(conn, workspace_id=workspace_id, user_id=user_id)
            return member

    async def first_owner(self, workspace_id: UUID) -> UUID | None:
        async with self._pool.connection() as conn:
            owner_id: UUID | None = await Q.first_owner(conn, workspace_id=workspace_id)
            return owner_id

    async def agent(self, agent_id: UUID) -> Agent | None:
        async with self._pool.connection() as conn:
            agent: Agent | None = await Q.agent(conn, agent_id=agent_id)
            return agent

    async def runtime(self, workspace_id: UUID, runtime_id: UUID) -> Runtime | None:
        async with self._pool.connection() as conn:
            runtime: Runtime | None = await Q.runtime(conn, workspace_id=workspace_id, runtime_id=runtime_id)
            return runtime

    async def add_user(self, *, user_id: UUID, email: str, name: str, password_hash: str | None) -> User:
        async with self._pool.connection() as conn:
            user: User = await Q.add_user(conn, user_id=user_id, email=email, name=name, password_hash=password_hash)
            return user

    async def add_workspace(
        self, *, workspace_id: UUID, name: str, slug: str, prefix: str, language: Language, owner_id: UUID
    ) -> Workspace:
        async with self._pool.connection() as conn:
            workspace: Workspace = await Q.add_workspace(
                conn,
                workspace_id=workspace_id,
                name=name,
                slug=slug,
                prefix=prefix,
                language=language,
                owner_id=owner_id,
            )
            return workspace

    async def set_workspace_language(self, workspace_id: UUID, language: Language) -> Workspace | None:
        async with self._pool.connection() as conn:
            workspace: Workspace | None = await Q.set_workspace_language(
                conn, workspace_id=workspace_id, language=language
            )
            return workspace

    async def add_member(self, *, workspace_id: UUID, user_id: UUID, role: Role) -> Member:
        async with self._pool.connection() as conn:
            member: Member = await Q.add_member(conn, workspace_id=workspace_id, user_id=user_id, role=role)
            return member

    async def set_password(self, user_id: UUID, password_hash: str) -> bool:
        async with self._pool.transaction() as conn:
            changed: int = await Q.set_password(conn, user_id=user_id, password_hash=password_hash)
            await Q.end_sessions(conn, user_id=user_id)
            return changed > 0

    async def remove_member(self, workspace_id: UUID, user_id: UUID) -> bool:
        async with self._pool.transaction() as conn:
            if await Q.lock_owners(conn, workspace_id=workspace_id) == [(user_id,)]:
                raise StoreConflict("the only owner stays", constraint=LAST_OWNER)
            deleted: int = await Q.delete_member(conn, workspace_id=workspace_id, user_id=user_id)
            await unbind_member(conn, workspace_id, user_id)
            if deleted:
                event = {"event": MEMBER_REMOVED, "workspace_id": workspace_id, "user_id": user_id}
                await Q.announce_membership(conn, payload=msgspec.json.encode(event).decode())
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
        async with self._pool.connection() as conn:
            agent: Agent = await Q.add_agent(
                conn,
                agent_id=agent_id,
                workspace_id=workspace_id,
                name=name,
                owner_id=owner_id,
                runtime_id=runtime_id,
                visibility=visibility,
            )
            return agent

    async def set_agent(
        self, *, agent_id: UUID, workspace_id: UUID, runtime_id: UUID | None, archived: bool
    ) -> Agent | None:
        async with self._pool.connection() as conn:
            agent: Agent | None = await Q.set_agent(
                conn, agent_id=agent_id, workspace_id=workspace_id, runtime_id=runtime_id, archived=archived
            )
            return agent

    async def add_user_token(self, *, token_id: UUID, user_id: UUID, name: str, hashed: str) -> ApiToken:
        async with self._pool.connection() as conn:
            token: ApiToken = await Q.add_user_token(conn, token_id=token_id, user_id=user_id, name=name, hashed=hashed)
            return token

    async def add_runtime(
        self, *, runtime_id: UUID, workspace_id: UUID, name: str, token_id: UUID, hashed: str
    ) -> Runtime:
        async with self._pool.connection() as conn:
            runtime: Runtime = await Q.add_runtime(
                conn, runtime_id=runtime_id, workspace_id=workspace_id, name=name, token_id=token_id, hashed=hashed
            )
            return runtime
