"""Control calls for apps and their secrets, people, chats and their members."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from gateway.simulator.callbacks import ANSWER_SHOWN_MAX, Unreachable
from gateway.simulator.control.calls import Body, Calls, read
from gateway.simulator.exchange import Request
from gateway.simulator.platform import App, Person, SimChat, open_id, set_options
from gateway.simulator.simulator import Simulator


class AppOptions(Body):
    connections_max: int | None = None
    hears_all_group_messages: bool | None = None
    hears_bots: bool | None = None
    shows_user_ids: bool | None = None
    shows_names: bool | None = None
    forbidden: bool | None = None
    region: str | None = None
    event_mode: str | None = None
    event_url: str | None = None
    encrypt_key: str | None = None
    verification_token: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that the caller gave."""
        options = ((name, getattr(self, name)) for name in AppOptions.__struct_fields__)
        return {name: value for name, value in options if value is not None}


class NewAppBody(AppOptions):
    name: str = ""
    app_id: str = ""
    app_secret: str = ""


class RotateSecretBody(Body):
    overlap_seconds: float = 0.0
    app_secret: str = ""


class NewPerson(Body):
    name: str


class NewGroup(Body):
    name: str
    apps: list[str] = msgspec.field(default_factory=list)
    people: list[str] = msgspec.field(default_factory=list)


def calls(simulator: Simulator) -> Calls:
    people = PeopleCalls(simulator)
    return [
        ("GET", "apps", people.list_apps),
        ("POST", "apps", people.create_app),
        ("PATCH", "apps/{app}", people.change_app),
        ("POST", "apps/{app}/rotate-secret", people.rotate_secret),
        ("POST", "apps/{app}/revoke-tokens", people.revoke_tokens),
        ("POST", "apps/{app}/verify-url", people.verify_url),
        ("GET", "people", people.list_people),
        ("POST", "people", people.create_person),
        ("GET", "chats", people.list_chats),
        ("POST", "groups", people.create_group),
        ("DELETE", "chats/{chat}/apps/{app}", people.remove_bot),
    ]


class PeopleCalls:
    """Has one method for each call."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._platform = simulator.platform

    async def list_apps(self, _request: Request) -> object:
        return [self._app(app) for app in self._platform.apps.values()]

    async def create_app(self, request: Request) -> object:
        """Create an app. Only this answer shows its secrets; a rotation's answer shows the new app secret."""
        new = read(request, NewAppBody)
        app = self._simulator.create_app(new.name, app_id=new.app_id, secret=new.app_secret, **new.given())
        secrets = {
            "app_secret": app.secret,
            "encrypt_key": app.encrypt_key,
            "verification_token": app.verification_token,
        }
        return self._app(app) | secrets

    async def change_app(self, request: Request) -> object:
        app = self._platform.app(request.params["app"])
        set_options(app, read(request, AppOptions).given())
        return self._app(app)

    async def rotate_secret(self, request: Request) -> object:
        app = self._platform.app(request.params["app"])
        rotation = read(request, RotateSecretBody)
        secret = self._simulator.rotate_secret(
            app, overlap_seconds=rotation.overlap_seconds, secret=rotation.app_secret
        )
        return {"app_id": app.app_id, "app_secret": secret}

    async def revoke_tokens(self, request: Request) -> object:
        return {"revoked": self._simulator.revoke_tokens(self._platform.app(request.params["app"]))}

    async def verify_url(self, request: Request) -> object:
        """Send a challenge to the app's address, as the developer console does before it accepts an address."""
        app = self._platform.app(request.params["app"])
        try:
            with trio.fail_after(self._simulator.delivery.ack_seconds):
                reply, proved = await self._simulator.callbacks.verify(app)
        except (Unreachable, trio.TooSlowError) as error:
            return {"verified": False, "status": 0, "answer": "", "complaint": f"{type(error).__name__} {error}"}
        answer = reply.body[:ANSWER_SHOWN_MAX].decode(errors="replace")
        return {"verified": proved, "status": reply.status, "answer": answer, "complaint": ""}

    async def list_people(self, _request: Request) -> object:
        return [self._person(person) for person in self._platform.people.values()]

    async def create_person(self, request: Request) -> object:
        new = read(request, NewPerson)
        if not new.name.strip():
            raise ValueError("a person needs a name")
        return self._person(self._simulator.create_person(new.name.strip()))

    async def list_chats(self, request: Request) -> object:
        """List every chat, or those that `person` has or could have: one with each bot, and the person's groups."""
        handle = request.argument("person")
        if not handle:
            return [self._chat(chat) for chat in self._platform.chats.values()]
        person = self._platform.person(handle)
        direct = [self._platform.direct_chat(person, app) for app in self._platform.apps.values()]
        groups = [chat for chat in self._platform.chats.values() if chat.chat_type == "group"]
        return [self._chat(chat) for chat in (*direct, *groups) if person.union_id in chat.union_ids]

    async def create_group(self, request: Request) -> object:
        new = read(request, NewGroup)
        apps = [self._platform.app(handle) for handle in new.apps]
        people = [self._platform.person(handle) for handle in new.people]
        return self._chat(self._simulator.create_group(new.name, apps, people))

    async def remove_bot(self, request: Request) -> object:
        chat = self._platform.chat(request.params["chat"])
        self._platform.remove_from_chat(chat, self._platform.app(request.params["app"]))
        return self._chat(chat)

    def _app(self, app: App) -> dict[str, Any]:
        return {
            "app_id": app.app_id,
            "name": app.name,
            "bot_open_id": app.open_id,
            "bot_union_id": app.union_id,
            "connections_max": app.connections_max,
            "hears_all_group_messages": app.hears_all_group_messages,
            "hears_bots": app.hears_bots,
            "shows_user_ids": app.shows_user_ids,
            "shows_names": app.shows_names,
            "forbidden": app.forbidden,
            "region": app.region,
            "event_mode": app.event_mode,
            "event_url": app.event_url,
            "live": len(self._simulator.connections(app)),
            "most_live": self._simulator.most_live(app),
        }

    def _person(self, person: Person) -> dict[str, Any]:
        open_ids = {app_id: open_id(app_id, person.union_id) for app_id in self._platform.apps}
        return {"name": person.name, "union_id": person.union_id, "user_id": person.user_id, "open_ids": open_ids}

    def _chat(self, chat: SimChat) -> dict[str, Any]:
        names = self._platform.names()
        apps = {app_id: self._platform.apps[app_id].name for app_id in chat.app_ids}
        people = {union_id: names[union_id] for union_id in chat.union_ids}
        return {"chat_id": chat.chat_id, "chat_type": chat.chat_type, "name": chat.name, "apps": apps, "people": people}
