"""The agents, squads and projects of a workspace, as members see and create them.

A private agent is visible only to its owner, and to owners and admins of the workspace. Ownership counts by the rules
of `work.people.access`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NoReturn, Protocol
from uuid import UUID

from gateway.core.naming import checked_name
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, StoreConflict
from gateway.ids import new_id
from gateway.work.people.access import leads, may_manage_agent, may_use_agent, may_write, require_writer
from gateway.work.people.directory import Agent, AgentChange, DirectoryStore, Member, Visibility


@dataclass(frozen=True, slots=True)
class Squad:
    id: UUID
    workspace_id: UUID
    name: str
    leader_agent_id: UUID | None
    archived_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Project:
    id: UUID
    workspace_id: UUID
    name: str
    created_at: datetime


class TeamStore(Protocol):
    """The store of agents, squads and projects. Every call raises StoreUnavailable.

    Writes raise StoreConflict for a name that is taken. Lists are pages, ordered by name, with the number of all rows.
    """

    async def agents(
        self, workspace_id: UUID, owner_id: UUID | None, *, all_private: bool, limit: int, offset: int
    ) -> tuple[list[Agent], int]:
        """Return a page of agents. Private agents of other owners are left out, unless `all_private`."""

    async def squads(self, workspace_id: UUID, *, limit: int, offset: int) -> tuple[list[Squad], int]: ...

    async def projects(self, workspace_id: UUID, *, limit: int, offset: int) -> tuple[list[Project], int]: ...

    async def add_squad(self, squad_id: UUID, workspace_id: UUID, name: str, leader_agent_id: UUID | None) -> Squad: ...

    async def add_project(self, project_id: UUID, workspace_id: UUID, name: str) -> Project: ...


class TeamService:
    """The actions of members.

    Raises Invalid with the field, Forbidden, NotFound, and Conflict for a name that is taken.
    """

    def __init__(self, store: TeamStore, directory: DirectoryStore, *, mint: Callable[[], UUID] = new_id) -> None:
        self._store = store
        self._directory = directory
        self._mint = mint

    async def agents(self, member: Member, *, limit: int, offset: int) -> tuple[list[Agent], int]:
        """Return a page of the agents that the member may see, and their total number."""
        owner_id = member.user_id if may_write(member.role) else None
        return await self._store.agents(
            member.workspace_id, owner_id, all_private=leads(member.role), limit=limit, offset=offset
        )

    async def squads(self, member: Member, *, limit: int, offset: int) -> tuple[list[Squad], int]:
        return await self._store.squads(member.workspace_id, limit=limit, offset=offset)

    async def projects(self, member: Member, *, limit: int, offset: int) -> tuple[list[Project], int]:
        return await self._store.projects(member.workspace_id, limit=limit, offset=offset)

    async def add_agent(
        self, member: Member, name: str, *, runtime_id: UUID | None = None, visibility: Visibility = "workspace"
    ) -> Agent:
        """Add an agent that belongs to the member."""
        require_writer(member.role)
        await self._check_runtime(member.workspace_id, runtime_id)
        with _named_once("agent"):
            return await self._directory.add_agent(
                agent_id=self._mint(),
                workspace_id=member.workspace_id,
                name=checked_name(name),
                owner_id=member.user_id,
                runtime_id=runtime_id,
                visibility=visibility,
            )

    async def change_agent(self, agent_id: UUID, user_id: UUID, change: AgentChange) -> Agent:
        """Change an agent. Only its owner, and owners and admins of the workspace, may do this."""
        agent = await self._writable_agent(agent_id, user_id)
        await self._check_runtime(agent.workspace_id, change.runtime_id)
        if change.name is not None:
            change = replace(change, name=checked_name(change.name))
        with _named_once("agent"):
            changed = await self._directory.change_agent(agent, change)
        return changed or _absent()

    async def _writable_agent(self, agent_id: UUID, user_id: UUID) -> Agent:
        agent = await self._directory.agent(agent_id)
        member = None if agent is None else await self._directory.member(agent.workspace_id, user_id)
        if agent is None or member is None or not _may_see(agent, member):
            return _absent()
        if not may_manage_agent(owner_id=agent.owner_id, user_id=user_id, role=member.role):
            message = "only the agent's owner, and owners and admins of the workspace, can do this"
            raise Forbidden("role_too_low", message)
        return agent

    async def add_squad(self, member: Member, name: str, leader_agent_id: UUID | None) -> Squad:
        require_writer(member.role)
        leader = None if leader_agent_id is None else await self._directory.agent(leader_agent_id)
        hidden = leader is None or leader.workspace_id != member.workspace_id or not _may_see(leader, member)
        if leader_agent_id is not None and hidden:
            message = f"this workspace has no agent {leader_agent_id}"
            raise Invalid("unknown_agent", message, field="leader_agent_id")
        with _named_once("squad"):
            return await self._store.add_squad(self._mint(), member.workspace_id, checked_name(name), leader_agent_id)

    async def add_project(self, member: Member, name: str) -> Project:
        require_writer(member.role)
        return await self._store.add_project(self._mint(), member.workspace_id, checked_name(name))

    async def _check_runtime(self, workspace_id: UUID, runtime_id: UUID | None) -> None:
        if runtime_id is not None and await self._directory.runtime(workspace_id, runtime_id) is None:
            message = f"this workspace has no runtime {runtime_id}"
            raise Invalid("unknown_runtime", message, field="runtime_id")


def _may_see(agent: Agent, member: Member) -> bool:
    return may_use_agent(visibility=agent.visibility, owner_id=agent.owner_id, user_id=member.user_id, role=member.role)


def _absent() -> NoReturn:
    raise NotFound("agent_not_found", "there is no such agent")


@contextmanager
def _named_once(what: Literal["agent", "squad"]) -> Iterator[None]:
    try:
        yield
    except StoreConflict as error:
        if error.constraint != f"{what}_name_key":
            raise
        message = f"this workspace has a {what} of that name"
        raise Conflict(f"duplicate_{what}", message, field="name") from error
