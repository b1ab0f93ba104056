"""Agents, squads and projects of a workspace, in Postgres."""

from __future__ import annotations

from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.people.directory import Agent
from gateway.work.people.teams import Project, Squad

_SQL = SqlFile("team.sql")
_LIST_AGENTS = _SQL.many("list_agents", Agent)
_COUNT_AGENTS = _SQL.value("count_agents", int)
_LIST_SQUADS = _SQL.many("list_squads", Squad)
_COUNT_SQUADS = _SQL.value("count_squads", int)
_LIST_PROJECTS = _SQL.many("list_projects", Project)
_COUNT_PROJECTS = _SQL.value("count_projects", int)
_INSERT_SQUAD = _SQL.one("insert_squad", Squad)
_INSERT_PROJECT = _SQL.one("insert_project", Project)


class PostgresTeamStore:
    """Implements gateway.work.people.teams.TeamStore on a pool that the caller owns. Each method is a transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def agents(
        self, workspace_id: UUID, owner_id: UUID | None, *, all_private: bool, limit: int, offset: int
    ) -> tuple[list[Agent], int]:
        place = {"workspace_id": workspace_id, "owner_id": owner_id, "all_private": all_private}
        async with self._pool.connection() as conn:
            found = await _LIST_AGENTS(conn, **place, limit=limit, offset=offset)
            return found, await _COUNT_AGENTS(conn, **place)

    async def squads(self, workspace_id: UUID, *, limit: int, offset: int) -> tuple[list[Squad], int]:
        async with self._pool.connection() as conn:
            found = await _LIST_SQUADS(conn, workspace_id=workspace_id, limit=limit, offset=offset)
            return found, await _COUNT_SQUADS(conn, workspace_id=workspace_id)

    async def projects(self, workspace_id: UUID, *, limit: int, offset: int) -> tuple[list[Project], int]:
        async with self._pool.connection() as conn:
            found = await _LIST_PROJECTS(conn, workspace_id=workspace_id, limit=limit, offset=offset)
            return found, await _COUNT_PROJECTS(conn, workspace_id=workspace_id)

    async def add_squad(self, squad_id: UUID, workspace_id: UUID, name: str, leader_agent_id: UUID | None) -> Squad:
        return await _INSERT_SQUAD(
            self._pool, id=squad_id, workspace_id=workspace_id, name=name, leader_agent_id=leader_agent_id
        )

    async def add_project(self, project_id: UUID, workspace_id: UUID, name: str) -> Project:
        return await _INSERT_PROJECT(self._pool, id=project_id, workspace_id=workspace_id, name=name)
