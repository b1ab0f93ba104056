"""Agents, squads and projects of a workspace, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.people.directory import Agent
from gateway.work.people.teams import AgentChange, Project, Squad

_Q = load("team.sql", Agent, Project, Squad)


class PostgresTeamStore:
    """Implements gateway.work.people.teams.TeamStore on a pool that the caller owns. Each method is a transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def agents(
        self, workspace_id: UUID, owner_id: UUID | None, *, all_private: bool, limit: int, offset: int
    ) -> tuple[list[Agent], int]:
        place = {"workspace_id": workspace_id, "owner_id": owner_id, "all_private": all_private}
        async with self._pool.connection() as conn:
            found: list[Agent] = await _Q.list_agents(conn, **place, limit=limit, offset=offset)
            total: int = await _Q.count_agents(conn, **place)
            return found, total

    async def squads(self, workspace_id: UUID, *, limit: int, offset: int) -> tuple[list[Squad], int]:
        async with self._pool.connection() as conn:
            found: list[Squad] = await _Q.list_squads(conn, workspace_id=workspace_id, limit=limit, offset=offset)
            total: int = await _Q.count_squads(conn, workspace_id=workspace_id)
            return found, total

    async def projects(self, workspace_id: UUID, *, limit: int, offset: int) -> tuple[list[Project], int]:
        async with self._pool.connection() as conn:
            found: list[Project] = await _Q.list_projects(conn, workspace_id=workspace_id, limit=limit, offset=offset)
            total: int = await _Q.count_projects(conn, workspace_id=workspace_id)
            return found, total

    async def change_agent(self, agent: Agent, change: AgentChange) -> Agent | None:
        async with self._pool.connection() as conn:
            changed: Agent | None = await _Q.change_agent(
                conn,
                id=agent.id,
                workspace_id=agent.workspace_id,
                name=change.name,
                sets_runtime=change.sets_runtime,
                runtime_id=change.runtime_id,
                archived=change.archived,
            )
            return changed

    async def add_squad(self, squad_id: UUID, workspace_id: UUID, name: str, leader_agent_id: UUID | None) -> Squad:
        async with self._pool.connection() as conn:
            squad: Squad = await _Q.insert_squad(
                conn, id=squad_id, workspace_id=workspace_id, name=name, leader_agent_id=leader_agent_id
            )
            return squad

    async def add_project(self, project_id: UUID, workspace_id: UUID, name: str) -> Project:
        async with self._pool.connection() as conn:
            project: Project = await _Q.insert_project(conn, id=project_id, workspace_id=workspace_id, name=name)
            return project
