"""The JSON API under /_sim/ that drives a simulator from another process.

Apps, people and chats in paths and bodies are ids, or names where those are unique. Bodies with a member that the
call does not know are refused: a misspelt option must not pass for one that works. Errors are {code, msg}.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import trio

from gateway.simulator.connections import Connection
from gateway.simulator.delivery import EventRecord
from gateway.simulator.exchange import Answer, Refusal, Request, json_answer
from gateway.simulator.messages import Message, readable
from gateway.simulator.platform import App, Chat, Person, open_id
from gateway.simulator.simulator import Simulator

WAIT_SECONDS_MAX = 60.0
LISTED_MAX = 1000
RAW_BYTES_MAX = 64 * 1024 * 1024

T = TypeVar("T")
Respond = Callable[[Request], Awaitable[object]]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    pass


class AppOptions(_Body):
    connections_max: int | None = None
    hears_all_group_messages: bool | None = None
    hears_bots: bool | None = None
    shows_user_ids: bool | None = None
    forbidden: bool | None = None

    def given(self) -> dict[str, Any]:
        """The options that the caller named."""
        options = ((name, getattr(self, name)) for name in AppOptions.__struct_fields__)
        return {name: value for name, value in options if value is not None}


class NewApp(AppOptions):
    name: str = ""
    app_id: str = ""
    app_secret: str = ""


class Rotation(_Body):
    overlap_seconds: float = 0.0
    app_secret: str = ""


class NewPerson(_Body):
    name: str


class NewGroup(_Body):
    name: str
    apps: list[str] = []
    people: list[str] = []


class NewMessage(_Body):
    """`to` is an app (the direct chat) or a chat id. `wait_seconds` waits for every event to be settled."""

    sender: str
    to: str
    text: str = ""
    message_type: str = "text"
    content: dict[str, Any] | str | None = None
    mentions: list[str] = []
    reply_to: str = ""
    in_thread: bool = False
    chunks: int = 1
    order: list[int] | None = None
    age_seconds: float = 0.0
    message_id: str = ""
    event_id: str = ""
    wait_seconds: float = 0.0


class NewEvent(_Body):
    """Either `event_type` and `event`, which get an envelope, or the whole payload as text or base64."""

    app: str
    event_type: str = ""
    event: dict[str, Any] = {}
    payload: str | None = None
    payload_base64: str | None = None
    chunks: int = 1
    order: list[int] | None = None
    event_id: str = ""
    wait_seconds: float = 0.0


class RawMessage(_Body):
    """One WebSocket message to every live connection of `target`: given bytes, or `size` zero bytes."""

    target: str
    base64: str = ""
    size: int = 0
    text: bool = False


class Drop(_Body):
    how: str = "close"
    code: int = 1000


class PlannedCall(_Body):
    path: str
    times: int = 1
    method: str = ""
    status: int = 0
    code: int = 0
    msg: str = "simulated failure"
    body: str | None = None
    headers: dict[str, str] = {}
    hang_seconds: float = 0.0
    lose_answer: bool = False
    reset: bool = False


class PlannedHandshake(_Body):
    times: int = 1
    http_status: int = 403
    status: str = "403"
    msg: str = "simulated refusal"
    autherrcode: str = ""
    hang_seconds: float = 0.0
    app: str = ""


class Settings(_Body):
    """`client_config` members replace those of the same name, or with `replace_client_config` all of them."""

    client_config: dict[str, Any] | None = None
    replace_client_config: bool = False
    answers_pings: bool | None = None
    rate_limits: bool | None = None
    redelivery_scale: float | None = None
    ack_seconds: float | None = None


def add_routes(simulator: Simulator) -> None:
    """Add the control calls to the simulator's router."""
    api = ControlApi(simulator)
    calls: list[tuple[str, str, Respond]] = [
        ("GET", "status", api.status),
        ("PUT", "settings", api.change_settings),
        ("GET", "apps", api.list_apps),
        ("POST", "apps", api.create_app),
        ("PATCH", "apps/{app}", api.change_app),
        ("POST", "apps/{app}/rotate-secret", api.rotate_secret),
        ("POST", "apps/{app}/revoke-tokens", api.revoke_tokens),
        ("GET", "people", api.list_people),
        ("POST", "people", api.create_person),
        ("GET", "chats", api.list_chats),
        ("POST", "groups", api.create_group),
        ("DELETE", "chats/{chat}/apps/{app}", api.remove_bot),
        ("GET", "chats/{chat}/messages", api.list_messages),
        ("POST", "messages", api.say),
        ("GET", "events", api.list_events),
        ("POST", "events", api.push_event),
        ("GET", "events/{event}", api.read_event),
        ("POST", "events/{event}/redeliver", api.redeliver),
        ("GET", "connections", api.list_connections),
        ("POST", "connections/{target}/drop", api.drop),
        ("POST", "connections/{target}/freeze", api.freeze),
        ("POST", "connections/{target}/thaw", api.thaw),
        ("POST", "raw-messages", api.push_raw),
        ("GET", "faults", api.list_faults),
        ("POST", "faults", api.plan_call),
        ("POST", "handshake-faults", api.plan_handshake),
        ("DELETE", "faults", api.clear_faults),
        ("GET", "calls", api.list_calls),
        ("DELETE", "calls", api.clear_calls),
    ]
    for method, path, call in calls:
        simulator.router.add(method, f"/_sim/{path}", _guarded(simulator, call))


def _guarded(simulator: Simulator, call: Respond) -> Callable[[Request], Awaitable[Answer]]:
    async def respond(request: Request) -> Answer:
        _refuse_strangers(request)
        try:
            return json_answer(await call(request))
        except LookupError as error:
            raise Refusal(404, str(error), status=404) from error
        except (ValueError, msgspec.ValidationError) as error:
            raise Refusal(400, str(error)) from error
        except trio.WouldBlock as error:
            raise Refusal(503, "too many events are pending", status=503) from error

    return respond


def _refuse_strangers(request: Request) -> None:
    """A web page of another origin, or one that rebinds its name to loopback, has no business here."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin", "")
    if host not in ("127.0.0.1", "::1", "localhost", ""):
        raise Refusal(403, f"host {host} is not loopback", status=403)
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal(403, "another origin", status=403)


class ControlApi:
    """One method per call; returns what becomes JSON."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._platform = simulator.platform

    # -- the whole

    async def status(self, _request: Request) -> object:
        return {
            "http": self._simulator.base_url,
            "ws": self._simulator.world.ws_url,
            "apps": len(self._platform.apps),
            "connections": len(self._simulator.connections()),
            "client_config": self._simulator.world.client_config,
            "redelivery_scale": self._simulator.delivery.redelivery_scale,
            "ack_seconds": self._simulator.delivery.ack_seconds,
            "rate_limits": self._simulator.limits.enabled,
            "answers_pings": self._simulator.door.answers_pings,
        }

    async def change_settings(self, request: Request) -> object:
        settings = _read(request, Settings)
        simulator = self._simulator
        if settings.client_config is not None:
            simulator.configure_client(settings.client_config, replace=settings.replace_client_config)
        if settings.answers_pings is not None:
            simulator.door.answers_pings = settings.answers_pings
        if settings.rate_limits is not None:
            simulator.limits.enabled = settings.rate_limits
        if settings.redelivery_scale is not None:
            simulator.delivery.redelivery_scale = settings.redelivery_scale
        if settings.ack_seconds is not None:
            simulator.delivery.ack_seconds = settings.ack_seconds
        return await self.status(request)

    # -- apps and people

    async def list_apps(self, _request: Request) -> object:
        return [self._app(app) for app in self._platform.apps.values()]

    async def create_app(self, request: Request) -> object:
        """The only answers that show the secret are this one and that of its rotation."""
        new = _read(request, NewApp)
        app = self._simulator.create_app(new.name, app_id=new.app_id, secret=new.app_secret, **new.given())
        return self._app(app) | {"app_secret": app.secret}

    async def change_app(self, request: Request) -> object:
        app = self._platform.app(request.params["app"])
        for name, value in _read(request, AppOptions).given().items():
            setattr(app, name, value)
        return self._app(app)

    async def rotate_secret(self, request: Request) -> object:
        app = self._platform.app(request.params["app"])
        rotation = _read(request, Rotation)
        secret = self._simulator.rotate_secret(
            app, overlap_seconds=rotation.overlap_seconds, secret=rotation.app_secret
        )
        return {"app_id": app.app_id, "app_secret": secret}

    async def revoke_tokens(self, request: Request) -> object:
        return {"revoked": self._simulator.revoke_tokens(self._platform.app(request.params["app"]))}

    async def list_people(self, _request: Request) -> object:
        return [self._person(person) for person in self._platform.people.values()]

    async def create_person(self, request: Request) -> object:
        new = _read(request, NewPerson)
        if not new.name.strip():
            raise ValueError("a person needs a name")
        return self._person(self._simulator.create_person(new.name.strip()))

    # -- chats

    async def list_chats(self, request: Request) -> object:
        """Every chat, or the chats that `person` has or could have: one with each bot, and their groups."""
        handle = request.argument("person")
        if not handle:
            return [self._chat(chat) for chat in self._platform.chats.values()]
        person = self._platform.person(handle)
        direct = [self._platform.direct_chat(person, app) for app in self._platform.apps.values()]
        groups = [chat for chat in self._platform.chats.values() if chat.chat_type == "group"]
        return [self._chat(chat) for chat in (*direct, *groups) if person.union_id in chat.union_ids]

    async def create_group(self, request: Request) -> object:
        new = _read(request, NewGroup)
        apps = [self._platform.app(handle) for handle in new.apps]
        people = [self._platform.person(handle) for handle in new.people]
        return self._chat(self._simulator.create_group(new.name, apps, people))

    async def remove_bot(self, request: Request) -> object:
        chat = self._platform.chat(request.params["chat"])
        self._platform.remove_from_chat(chat, self._platform.app(request.params["app"]))
        return self._chat(chat)

    async def list_messages(self, request: Request) -> object:
        """Messages of a chat; `sender_type=app` are the bots'. `wait_count` waits up to `wait_seconds` for so many."""
        chat = self._platform.chat(request.params["chat"])
        sender_type = request.argument("sender_type")
        wanted = int(request.argument("wait_count", "0"))

        def look() -> list[Message] | None:
            found = self._simulator.messages.in_chat(chat.chat_id, sender_type, include_deleted=True)
            return found if len(found) >= wanted else None

        with trio.move_on_after(_seconds(request.argument("wait_seconds", "0"))):
            await self._simulator.until(look)
        found = self._simulator.messages.in_chat(chat.chat_id, sender_type, include_deleted=True)
        return [self._message(message) for message in found[-LISTED_MAX:]]

    async def say(self, request: Request) -> object:
        new = _read(request, NewMessage)
        said = self._simulator.say(
            self._platform.person(new.sender),
            self._receiver(new.to),
            new.text,
            message_type=new.message_type,
            content=new.content,
            mentions=[self._member(handle) for handle in new.mentions],
            reply_to=new.reply_to,
            in_thread=new.in_thread,
            chunks=new.chunks,
            order=new.order,
            age_seconds=new.age_seconds,
            message_id=new.message_id,
            event_id=new.event_id,
        )
        with trio.move_on_after(_seconds(new.wait_seconds)):
            for record in said.events:
                await record.settled()
        return self._message(said.message) | {"events": [_event(record) for record in said.events]}

    # -- events

    async def list_events(self, request: Request) -> object:
        app_id = request.argument("app")
        records = [one for one in self._simulator.delivery.records.values() if app_id in ("", one.app_id)]
        return [_event(record) for record in records[-LISTED_MAX:]]

    async def push_event(self, request: Request) -> object:
        new = _read(request, NewEvent)
        app = self._platform.app(new.app)
        payload = new.payload.encode() if new.payload is not None else None
        if new.payload_base64 is not None:
            payload = _unbase64(new.payload_base64)
        if payload is not None:
            record = self._simulator.push_payload(app, payload, chunks=new.chunks, order=new.order)
        else:
            record = self._simulator.push_event(
                app, new.event_type, new.event, chunks=new.chunks, event_id=new.event_id
            )
        return await self._settled(record, new.wait_seconds)

    async def read_event(self, request: Request) -> object:
        record = self._simulator.event(request.params["event"])
        return await self._settled(record, _seconds(request.argument("wait_seconds", "0")))

    async def redeliver(self, request: Request) -> object:
        """Push once more and wait for the outcome of that push."""
        record = self._simulator.redeliver(request.params["event"])
        with trio.move_on_after(_seconds(request.argument("wait_seconds", "0"))):
            await record.answered(len(record.pushes))
        return _event(record)

    # -- connections

    async def list_connections(self, request: Request) -> object:
        """Connections open and closed, and the most that each app ever had live at once.

        With `app` and `live_count` it waits up to `wait_seconds` for exactly so many live ones.
        """
        app_id = request.argument("app")
        if request.argument("live_count"):
            with trio.move_on_after(_seconds(request.argument("wait_seconds", "0"))):
                await self._simulator.wait_connected(self._platform.app(app_id), int(request.argument("live_count")))
        history = self._simulator.connection_log.history(app_id)[-LISTED_MAX:]
        return {
            "connections": [_connection(one) for one in history],
            "most_live": self._simulator.connection_log.most_live,
        }

    async def drop(self, request: Request) -> object:
        drop = _read(request, Drop)
        targets = self._targets(request.params["target"])
        for connection in targets:
            connection.drop(drop.how, drop.code)
        return [_connection(connection) for connection in targets]

    async def freeze(self, request: Request) -> object:
        targets = self._targets(request.params["target"])
        for connection in targets:
            connection.valve.freeze()
        return [_connection(connection) for connection in targets]

    async def thaw(self, request: Request) -> object:
        targets = self._targets(request.params["target"])
        for connection in targets:
            connection.valve.thaw()
        return [_connection(connection) for connection in targets]

    async def push_raw(self, request: Request) -> object:
        raw = _read(request, RawMessage)
        if not 0 <= raw.size <= RAW_BYTES_MAX:
            raise ValueError(f"size is {raw.size}, at most {RAW_BYTES_MAX} bytes are sent")
        data = _unbase64(raw.base64) or bytes(raw.size)
        targets = self._targets(raw.target)
        return {"queued": sum(self._simulator.push_raw(one, data, text=raw.text) for one in targets)}

    # -- failures and the call log

    async def list_faults(self, _request: Request) -> object:
        faults = self._simulator.faults
        return {
            "calls": [asdict(one) for one in faults.calls],
            "handshakes": [asdict(one) for one in faults.handshakes],
        }

    async def plan_call(self, request: Request) -> object:
        planned = msgspec.structs.asdict(_read(request, PlannedCall))
        planned["headers"] = tuple(planned["headers"].items())
        return asdict(self._simulator.fail_next(planned.pop("path"), planned.pop("times"), **planned))

    async def plan_handshake(self, request: Request) -> object:
        planned = msgspec.structs.asdict(_read(request, PlannedHandshake))
        handle = planned.pop("app")
        planned["app_id"] = self._platform.app(handle).app_id if handle else ""
        return asdict(self._simulator.reject_handshakes(planned.pop("times"), **planned))

    async def clear_faults(self, request: Request) -> object:
        self._simulator.faults.clear()
        return await self.list_faults(request)

    async def list_calls(self, request: Request) -> object:
        app_id = request.argument("app")
        calls = [asdict(call) for call in self._simulator.calls if app_id in ("", call.app_id)]
        return {"counts": self._simulator.call_counts, "calls": calls[-LISTED_MAX:]}

    async def clear_calls(self, _request: Request) -> object:
        self._simulator.calls.clear()
        self._simulator.call_counts.clear()
        return {}

    # -- handles

    def _receiver(self, handle: str) -> App | Chat:
        return self._platform.chats.get(handle) or self._platform.app(handle)

    def _member(self, handle: str) -> App | Person:
        try:
            return self._platform.app(handle)
        except LookupError:
            return self._platform.person(handle)

    def _targets(self, handle: str) -> list[Connection]:
        if handle.startswith("conn-"):
            return [self._simulator.connection_log.get(handle)]
        return self._simulator.connections(self._platform.app(handle))

    # -- forms

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
            "forbidden": app.forbidden,
            "live": len(self._simulator.connections(app)),
            "most_live": self._simulator.most_live(app),
        }

    def _person(self, person: Person) -> dict[str, Any]:
        open_ids = {app_id: open_id(app_id, person.union_id) for app_id in self._platform.apps}
        return {"name": person.name, "union_id": person.union_id, "user_id": person.user_id, "open_ids": open_ids}

    def _chat(self, chat: Chat) -> dict[str, Any]:
        names = self._platform.names()
        apps = {app_id: self._platform.apps[app_id].name for app_id in chat.app_ids}
        people = {union_id: names[union_id] for union_id in chat.union_ids}
        return {"chat_id": chat.chat_id, "chat_type": chat.chat_type, "name": chat.name, "apps": apps, "people": people}

    def _message(self, message: Message) -> dict[str, Any]:
        sender = self._platform.apps.get(message.sender_id) or self._platform.people[message.sender_id]
        shown = {
            "message_id": message.message_id,
            "chat_id": message.chat_id,
            "sender_type": message.sender_type,
            "sender_id": message.sender_id,
            "sender_name": sender.name,
            "message_type": message.message_type,
            "text": readable(message),
            "content": message.content,
            "create_time": message.create_time,
            "parent_id": message.parent_id,
            "root_id": message.root_id,
            "thread_id": message.thread_id,
            "uuid": message.uuid,
            "calls": message.calls,
            "deleted": message.deleted,
            "updated": message.updated,
            "reactions": [emoji for _, emoji in message.reactions.values()],
        }
        return shown | ({"text": "", "content": ""} if message.deleted else {})

    async def _settled(self, record: EventRecord, wait_seconds: float) -> dict[str, Any]:
        with trio.move_on_after(_seconds(wait_seconds)):
            await record.settled()
        return _event(record)


def _read(request: Request, kind: type[T]) -> T:
    return msgspec.convert(request.document(), kind)


def _seconds(text: str | float) -> float:
    return min(max(float(text), 0.0), WAIT_SECONDS_MAX)


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _event(record: EventRecord) -> dict[str, Any]:
    return {
        "event_id": record.event_id,
        "app_id": record.app_id,
        "event_type": record.event_type,
        "message_id": record.message_id,
        "state": record.state,
        "pushes": [asdict(push) for push in record.pushes],
    }


def _connection(connection: Connection) -> dict[str, Any]:
    return {
        "connection_id": connection.connection_id,
        "app_id": connection.app_id,
        "device_id": connection.device_id,
        "user_agent": connection.user_agent,
        "opened_at": connection.opened_at,
        "closed_at": connection.closed_at,
        "live": connection.live,
        "frozen": connection.valve.frozen,
        "closing": connection.closing,
        "frames_in": connection.frames_in,
        "pings": connection.pings,
        "last_frame_at": connection.last_frame_at,
    }
