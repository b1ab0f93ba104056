"""Bindings of chat accounts to people: reading and redeeming a binding link, and managing a bot's bindings."""

from __future__ import annotations

from uuid import UUID

from quart import Blueprint, Response

from gateway.errors import Unavailable
from gateway.http.auth import Callers
from gateway.http.body import PersonBody, json_response, no_content, read_json
from gateway.http.throttle import attempts_limit
from gateway.ids import parse_id
from gateway.work.people.access import require_leader
from gateway.work.people.bindings import Binding, BindingService, BoundPerson, LinkPreview
from gateway.work.people.directory import Directory

LINKS_PER_PERSON = 30
"""The number of links that one person may read or redeem in a minute. Each reading asks the platform for names."""


class LinkBody(PersonBody):
    token: str


class BindingLinks:
    """Reads and redeems binding links, throttled by person. The API and the page share it."""

    def __init__(self, bindings: BindingService, *, bots_served: bool) -> None:
        self._bindings = bindings
        self._bots_served = bots_served
        self._of_person = attempts_limit("links opened", LINKS_PER_PERSON)

    def require_on(self) -> None:
        """Check that bots are served here. Raises Unavailable if not."""
        if not self._bots_served:
            raise Unavailable("lark_off", "no bots are served here: secret_key is unset")

    async def preview(self, token: str, user_id: UUID) -> LinkPreview:
        """Do what BindingService.preview does. Raises TooMany, Unavailable besides."""
        self._admit(user_id)
        return await self._bindings.preview(token, user_id)

    async def redeem(self, token: str, user_id: UUID) -> Binding:
        """Do what BindingService.redeem does. Raises TooMany, Unavailable besides."""
        self._admit(user_id)
        return await self._bindings.redeem(token, user_id)

    def _admit(self, user_id: UUID) -> None:
        self.require_on()
        self._of_person.hit(str(user_id))


ACCOUNT = "lark_open_id"
"""The API's name for a person's account on any platform. The first platform's name for it has stayed."""


def routes(bindings: BindingService, links: BindingLinks, directory: Directory, callers: Callers) -> Blueprint:

    blueprint = Blueprint("bindings", __name__)
    of_bot = "/api/workspaces/<workspace>/lark/installations/<installation_id>/bindings"

    @blueprint.post("/api/lark/binding/preview")
    async def preview_binding() -> Response:
        """Return which account would be bound to which bot. The link stays valid."""
        user = await callers.user()
        links.require_on()
        body = await read_json(LinkBody)
        preview = await links.preview(body.token, user.user_id)
        return json_response(preview.public(ACCOUNT), headers={"Cache-Control": "no-store"})

    @blueprint.post("/api/lark/binding/redeem")
    async def redeem_binding() -> Response:
        user = await callers.user()
        links.require_on()
        body = await read_json(LinkBody)
        binding = await links.redeem(body.token, user.user_id)
        return json_response(
            {
                "workspace_id": binding.workspace_id,
                "installation_id": binding.installation_id,
                ACCOUNT: binding.channel_user_id,
            }
        )

    @blueprint.get(of_bot)
    async def list_bindings(workspace: str, installation_id: str) -> Response:
        user = await callers.user()
        member = await directory.membership(workspace, user.user_id)
        found = await bindings.people(member.workspace_id, parse_id(installation_id, field="installation_id"))
        return json_response({"bindings": [_view(person) for person in found]})

    @blueprint.delete(f"{of_bot}/<binding_id>")
    async def delete_binding(workspace: str, installation_id: str, binding_id: str) -> Response:
        user = await callers.user()
        member = await directory.membership(workspace, user.user_id)
        require_leader(member.role)
        await bindings.delete(
            member.workspace_id,
            parse_id(installation_id, field="installation_id"),
            parse_id(binding_id, field="binding_id"),
        )
        return no_content()

    return blueprint


def _view(person: BoundPerson) -> dict[str, object]:
    return {
        "id": person.id,
        "installation_id": person.installation_id,
        ACCOUNT: person.channel_user_id,
        "user_id": person.user_id,
        "email": person.email,
        "name": person.name,
        "bound_at": person.bound_at,
    }
