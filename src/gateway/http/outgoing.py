"""Messages to platforms: which did not arrive, and sending one again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from quart import Quart, Response, request

from gateway.http.auth import require_user
from gateway.http.body import json_response
from gateway.http.paging import read_page
from gateway.ids import parse_id

if TYPE_CHECKING:
    from gateway.http.app import People


def add_routes(app: Quart, people: People) -> None:
    outgoing, directory = people.outgoing, people.directory

    @app.get("/api/workspaces/<workspace>/outbound")
    async def list_outgoing(workspace: str) -> Response:
        user = await require_user()
        page = read_page()
        member = await directory.membership(workspace, user.user_id)
        status = request.args.get("status")
        found, total = await outgoing.list(member, status, limit=page.limit, offset=page.offset)
        rows = [asdict(message) for message in found]
        return json_response({"messages": rows, "total": total, "limit": page.limit, "offset": page.offset})

    @app.post("/api/outbound/<id>/resend")
    async def resend(id: str) -> Response:
        user = await require_user()
        return json_response(asdict(await outgoing.resend(parse_id(id, field="id"), user.user_id)))
