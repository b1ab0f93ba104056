"""The agents, squads and projects of a workspace: listing, adding and changing them."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

import msgspec
from quart import Blueprint, Response

from gateway.http.auth import Callers
from gateway.http.body import PersonBody, json_response, read_json
from gateway.http.paging import PAGED, listing, read_page
from gateway.http.query import takes
from gateway.ids import parse_id
from gateway.work.people.directory import AgentChange, Directory, Member, Visibility
from gateway.work.people.teams import TeamService


class AgentBody(PersonBody):
    name: str
    runtime_id: UUID | None = None
    visibility: Visibility = "workspace"


class AgentChangeBody(PersonBody):
    name: str | msgspec.UnsetType = msgspec.UNSET
    runtime_id: UUID | msgspec.UnsetType | None = msgspec.UNSET
    archived: bool | msgspec.UnsetType = msgspec.UNSET


class SquadBody(PersonBody):
    name: str
    leader_agent_id: UUID | None = None


class ProjectBody(PersonBody):
    name: str


def routes(team: TeamService, directory: Directory, callers: Callers) -> Blueprint:
    blueprint = Blueprint("teams", __name__)

    async def the_member(workspace: str) -> Member:
        return await directory.membership(workspace, (await callers.user()).user_id)

    @blueprint.get("/api/workspaces/<workspace>/agents")
    @takes(**PAGED)
    async def list_agents(workspace: str) -> Response:
        member, page = await the_member(workspace), read_page()
        found, total = await team.agents(member, limit=page.limit, offset=page.offset)
        return listing("agents", [asdict(agent) for agent in found], page, total)

    @blueprint.post("/api/workspaces/<workspace>/agents")
    async def create_agent(workspace: str) -> Response:
        member, body = await the_member(workspace), await read_json(AgentBody)
        agent = await team.add_agent(member, body.name, runtime_id=body.runtime_id, visibility=body.visibility)
        return json_response(asdict(agent), 201)

    @blueprint.patch("/api/agents/<id>")
    async def change_agent(id: str) -> Response:
        user, body = await callers.user(), await read_json(AgentChangeBody)
        change = AgentChange(
            name=None if body.name is msgspec.UNSET else body.name,
            sets_runtime=body.runtime_id is not msgspec.UNSET,
            runtime_id=None if body.runtime_id is msgspec.UNSET else body.runtime_id,
            archived=None if body.archived is msgspec.UNSET else body.archived,
        )
        return json_response(asdict(await team.change_agent(parse_id(id, field="agent_id"), user.user_id, change)))

    @blueprint.get("/api/workspaces/<workspace>/squads")
    @takes(**PAGED)
    async def list_squads(workspace: str) -> Response:
        member, page = await the_member(workspace), read_page()
        found, total = await team.squads(member, limit=page.limit, offset=page.offset)
        return listing("squads", [asdict(squad) for squad in found], page, total)

    @blueprint.post("/api/workspaces/<workspace>/squads")
    async def create_squad(workspace: str) -> Response:
        member, body = await the_member(workspace), await read_json(SquadBody)
        return json_response(asdict(await team.add_squad(member, body.name, body.leader_agent_id)), 201)

    @blueprint.get("/api/workspaces/<workspace>/projects")
    @takes(**PAGED)
    async def list_projects(workspace: str) -> Response:
        member, page = await the_member(workspace), read_page()
        found, total = await team.projects(member, limit=page.limit, offset=page.offset)
        return listing("projects", [asdict(project) for project in found], page, total)

    @blueprint.post("/api/workspaces/<workspace>/projects")
    async def create_project(workspace: str) -> Response:
        member, body = await the_member(workspace), await read_json(ProjectBody)
        return json_response(asdict(await team.add_project(member, body.name)), 201)

    return blueprint
