"""The bots of a workspace: connecting one by scanning a code, reading the state of each, and disconnecting them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from quart import Blueprint, Response

from gateway.channel.installation import DroppedMessage, InstallationView
from gateway.channel.installs import ScanRequest, ScanStatus
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from gateway.http.auth import Callers
from gateway.http.body import PersonBody, json_response, no_content, read_json
from gateway.http.paging import Paging
from gateway.http.query import takes
from gateway.ids import parse_id
from gateway.work.people.access import may_follow_scan, may_manage_agent
from gateway.work.people.directory import Agent, Directory, Member

REGION_DEFAULT = "feishu"
AUDIT = Paging(20, 100)


class BeginBody(PersonBody):
    agent_id: str
    region: str | None = None
    replace: bool | None = None


class Begun(Protocol):
    """A scan that has begun, as the person who began it sees it."""

    def public(self) -> dict[str, Any]:
        """Return the JSON object of the API."""


class Installs(Protocol):
    """The operations on bots that the web pages offer."""

    async def begin(self, request: ScanRequest) -> Begun:
        """Begin a scan.

        Raises Invalid for a bad region, TooMany for too many scans at once, UpstreamFailed if the platform refuses, and
        Conflict if the agent has a live bot that the request does not replace.
        """

    async def status(self, session_id: UUID, workspace_id: UUID) -> ScanStatus | None: ...

    async def list(self, workspace_id: UUID) -> Sequence[InstallationView]:
        """Return the installations of a workspace, oldest first.

        Revoked ones are included, and those whose agent is gone.
        """

    async def find(self, workspace_id: UUID, installation_id: UUID) -> InstallationView:
        """Return an installation. Raises NotFound."""

    async def revoke(self, workspace_id: UUID, installation_id: UUID) -> InstallationView:
        """Revoke an installation. Raises NotFound."""

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        """Return the messages that a bot dropped, with the reasons, newest first."""

    def shown(self, view: InstallationView, public_url: str | None) -> dict[str, Any]:
        """Return the JSON object of the API, with the platform's details of the bot and its links."""


def routes(
    installs: Installs | None, directory: Directory, callers: Callers, *, lark_on: bool, public_url: str | None
) -> Blueprint:
    """Build the routes of a workspace's bots.

    Without `installs` no bot can be connected. `lark_on` is true if Lark bots can be served.
    """
    blueprint = Blueprint("installations", __name__)
    of_workspace = "/api/workspaces/<workspace>/lark"

    def require_installs() -> Installs:
        if not lark_on:
            raise Unavailable("lark_off", "Lark is off on this server: secret_key is unset")
        if installs is None:
            raise Unavailable("install_unsupported", "this server has no way to connect bots")
        return installs

    async def the_member(workspace: str) -> Member:
        return await directory.membership(workspace, (await callers.user()).user_id)

    async def managed(workspace: str, installation_id: str) -> tuple[Installs, Member, InstallationView]:
        """Return a bot that the caller may manage, as an owner or admin of the workspace or as the agent's owner.

        Raises Forbidden if the caller may not, NotFound for an unknown workspace or bot.
        """
        await callers.user()
        service = require_installs()
        member = await the_member(workspace)
        view = await service.find(member.workspace_id, parse_id(installation_id, field="installation_id"))
        # A deleted agent has no owner. Only the workspace's owners and admins may manage its bot.
        _require_manager(member, await _find_agent(directory, view.agent_id))
        return service, member, view

    @blueprint.get(f"{of_workspace}/installations")
    async def list_installations(workspace: str) -> Response:
        member = await the_member(workspace)
        service = installs if lark_on else None
        views = [] if service is None else await service.list(member.workspace_id)
        return json_response(
            {
                "installations": [] if service is None else [service.shown(view, public_url) for view in views],
                "configured": lark_on,
                "install_supported": service is not None,
            }
        )

    @blueprint.post(f"{of_workspace}/install/begin")
    async def begin_install(workspace: str) -> Response:
        await callers.user()
        service = require_installs()
        member = await the_member(workspace)
        body = await read_json(BeginBody)
        agent = await _agent(directory, member, parse_id(body.agent_id, field="agent_id"))
        _require_manager(member, agent)
        if agent.archived_at is not None:
            raise Conflict("agent_archived", f"agent {agent.id} is archived", field="agent_id")
        region = body.region or REGION_DEFAULT
        request = ScanRequest(
            member.workspace_id, agent.id, agent.name, member.user_id, region, replaces=bool(body.replace)
        )
        begun = await service.begin(request)
        return json_response(begun.public())

    @blueprint.get(f"{of_workspace}/install/<session_id>/status")
    async def install_status(workspace: str, session_id: str) -> Response:
        await callers.user()
        service = require_installs()
        member = await the_member(workspace)
        status = await service.status(_session_id(session_id), member.workspace_id)
        if status is None or not may_follow_scan(
            initiator_id=status.initiator_user_id, user_id=member.user_id, role=member.role
        ):
            raise _no_session()
        return json_response(status.public())

    @blueprint.delete(f"{of_workspace}/installations/<installation_id>")
    async def revoke_installation(workspace: str, installation_id: str) -> Response:
        service, member, view = await managed(workspace, installation_id)
        await service.revoke(member.workspace_id, view.id)
        return no_content()

    @blueprint.get(f"{of_workspace}/installations/<installation_id>/audit")
    @takes(**AUDIT.parameters)
    async def list_audit(workspace: str, installation_id: str) -> Response:
        service, _, view = await managed(workspace, installation_id)
        page = AUDIT.read()
        drops = await service.drops(view.id, page.limit, page.offset)
        return json_response({"audit": [drop.public() for drop in drops], "limit": page.limit, "offset": page.offset})

    return blueprint


async def _agent(directory: Directory, member: Member, agent_id: UUID) -> Agent:
    """Return an agent of the member's workspace. Raises NotFound for any other agent."""
    agent = await _find_agent(directory, agent_id)
    if agent is None or agent.workspace_id != member.workspace_id:
        raise NotFound("agent_not_found", f"there is no agent {agent_id}", field="agent_id")
    return agent


async def _find_agent(directory: Directory, agent_id: UUID) -> Agent | None:
    try:
        return await directory.agent(agent_id)
    except NotFound:
        return None


def _require_manager(member: Member, agent: Agent | None) -> None:
    owner_id = agent.owner_id if agent is not None and agent.workspace_id == member.workspace_id else None
    if not may_manage_agent(owner_id=owner_id, user_id=member.user_id, role=member.role):
        message = "only owners and admins of the workspace, and the agent's owner, can do this"
        raise Forbidden("role_too_low", message)


def _session_id(text: str) -> UUID:
    """Parse the id of an install session. A malformed id and an unknown one give the same 404."""
    try:
        return parse_id(text)
    except Invalid:
        raise _no_session() from None


def _no_session() -> NotFound:
    return NotFound("session_not_found", "there is no such session, or it ended too long ago")
