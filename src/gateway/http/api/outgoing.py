"""Messages to platforms: listing them, for example the failed ones, and sending one again."""

from __future__ import annotations

from dataclasses import asdict

from quart import Blueprint, Response

from gateway.http.auth import Callers
from gateway.http.body import NoBody, json_response, read_json
from gateway.http.paging import PAGED, listing, read_page
from gateway.http.query import given, one_of, takes
from gateway.ids import parse_id
from gateway.work.people.directory import Directory
from gateway.work.tasks.outgoing import STATUSES, OutgoingService


def routes(outgoing: OutgoingService, directory: Directory, callers: Callers) -> Blueprint:
    blueprint = Blueprint("outgoing", __name__)

    @blueprint.get("/api/workspaces/<workspace>/outbound")
    @takes(**PAGED, status=one_of(*STATUSES))
    async def list_outgoing(workspace: str) -> Response:
        user = await callers.user()
        page = read_page()
        member = await directory.membership(workspace, user.user_id)
        found, total = await outgoing.list(member, given("status"), limit=page.limit, offset=page.offset)
        return listing("messages", [asdict(message) for message in found], page, total)

    @blueprint.post("/api/outbound/<id>/resend")
    async def resend(id: str) -> Response:
        user = await callers.user()
        await read_json(NoBody)
        return json_response(asdict(await outgoing.resend(parse_id(id, field="id"), user.user_id)))

    return blueprint
