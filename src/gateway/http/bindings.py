"""Which person an account of a chat platform is: redeeming a link, and looking after the bindings of a bot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Quart, Response

from gateway.errors import RejectedRequest
from gateway.http.auth import require_user
from gateway.http.body import PersonBody, json_response, no_content, read_json
from gateway.ids import parse_id
from gateway.work.bindings import BoundPerson

if TYPE_CHECKING:
    from gateway.http.app import People

TOKEN_BODY_BYTES_MAX = 4_096
MAY_UNBIND = frozenset({"owner", "admin"})


class RedeemBody(PersonBody):
    token: str


def add_routes(app: Quart, people: People) -> None:
    bindings, directory = people.bindings, people.directory
    of_bot = "/api/workspaces/<workspace>/lark/installations/<installation_id>/bindings"

    @app.post("/api/lark/binding/redeem")
    async def redeem_binding() -> Response:
        user = await require_user()
        if not people.platforms:
            raise RejectedRequest(503, "lark_off", "no bots are served here: secret_key is unset")
        body = await read_json(RedeemBody, TOKEN_BODY_BYTES_MAX)
        binding = await bindings.redeem(body.token, user.user_id)
        return json_response(
            {
                "workspace_id": binding.workspace_id,
                "installation_id": binding.installation_id,
                "lark_open_id": binding.channel_user_id,
            }
        )

    @app.get(of_bot)
    async def list_bindings(workspace: str, installation_id: str) -> Response:
        user = await require_user()
        member = await directory.membership(workspace, user.user_id)
        found = await bindings.people(member.workspace_id, parse_id(installation_id, field="installation_id"))
        return json_response({"bindings": [_view(person) for person in found]})

    @app.delete(f"{of_bot}/<binding_id>")
    async def delete_binding(workspace: str, installation_id: str, binding_id: str) -> Response:
        user = await require_user()
        member = await directory.membership(workspace, user.user_id)
        if member.role not in MAY_UNBIND:
            raise RejectedRequest(403, "role_too_low", "only owners and admins of the workspace can do this")
        await bindings.delete(
            member.workspace_id,
            parse_id(installation_id, field="installation_id"),
            parse_id(binding_id, field="binding_id"),
        )
        return no_content()


def _view(person: BoundPerson) -> dict[str, object]:
    return {
        "id": person.id,
        "installation_id": person.installation_id,
        "lark_open_id": person.channel_user_id,
        "user_id": person.user_id,
        "email": person.email,
        "name": person.name,
        "bound_at": person.bound_at,
    }
