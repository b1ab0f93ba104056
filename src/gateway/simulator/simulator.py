"""The simulated platform as one object, for tests and the control API to call."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import trio

from gateway.simulator import registration
from gateway.simulator.callbacks import Callbacks
from gateway.simulator.clock import SimulatorClock
from gateway.simulator.composing import compose, place_attachments
from gateway.simulator.connections import Bytes, SocketConnection, SocketConnections
from gateway.simulator.delivery import ACK_SECONDS, EventDelivery, EventRecord, PushPlan
from gateway.simulator.events import MESSAGE_RECEIVED, envelope, message_event
from gateway.simulator.exchange import Answer, ConnectionLost, Request, Router, json_answer
from gateway.simulator.faults import CallFault, Faults, HandshakeFault, PushFault
from gateway.simulator.limits import SimLimits
from gateway.simulator.messages import FORWARDED, Message, MessageDraft, MessageStore, PlacedMention, place_mentions
from gateway.simulator.platform import REGIONS, App, Person, SimChat, SimPlatform, derive
from gateway.simulator.resources import Attachment, ResourceStore
from gateway.simulator.rest import add_routes
from gateway.simulator.scans import Scans
from gateway.simulator.sockets import SocketDoor
from gateway.simulator.world import World

CLIENT_CONFIG = {"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 30, "PingInterval": 120}
"""The default client configuration that the platform hands out; intervals are in seconds."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a person writes.

    - Each `@Name` of a chat member in `text` becomes a mention. `mentions` that the text does not name are added in
      front.
    - `content` replaces the text for other message types.
    - One of the `attachments` without text is a message of its kind. With text, or several, they make a post. In a
      given `content`, an `image_key` or `file_key` that is an attachment's name becomes its key.
    - `forwards` are ids of messages that this one bundles, instead of words.
    - `age_seconds` dates the message back.
    - `plan` says in which parts and order the event is sent.
    """

    text: str = ""
    message_type: str = "text"
    content: dict[str, Any] | str | None = None
    mentions: Sequence[App | Person] = ()
    attachments: Sequence[Attachment] = ()
    forwards: Sequence[str] = ()
    reply_to: str = ""
    in_thread: bool = False
    plan: PushPlan = field(default_factory=PushPlan)
    age_seconds: float = 0.0
    message_id: str = ""
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class SaidMessage:
    """A person's message and the events that it caused, one for each bot that may receive it."""

    message: Message
    events: tuple[EventRecord, ...]

    @property
    def event(self) -> EventRecord:
        """Return the event of the first bot. Raises LookupError if no bot receives this message."""
        if not self.events:
            raise LookupError("no bot hears this message")
        return self.events[0]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call in the log, without query, headers and bodies. `outcome`: answered · planned failure · lost."""

    at: int
    method: str
    path: str
    app_id: str
    status: int
    code: int
    elapsed_ms: float
    outcome: str = "answered"
    region: str = REGIONS[0]


class Simulator:
    """A Lark platform in memory. `open_simulator` serves it on sockets.

    Without sockets, call `respond` for HTTP and the `serve` method of `door` for byte streams. Its clock is trio's, so
    it must be made inside a trio run. `redelivery_scale` multiplies the redelivery delays. `seed` makes its random
    choices (the connection that gets an event, frame numbers) repeatable.
    """

    def __init__(
        self,
        *,
        redelivery_scale: float = 1.0,
        ack_seconds: float = ACK_SECONDS,
        rate_limits: bool = True,
        client_config: dict[str, Any] | None = None,
        seed: int | None = None,
        history_max: int = 10_000,
    ) -> None:
        self.clock = SimulatorClock()
        self.faults = Faults()
        self.limits = SimLimits(enabled=rate_limits)
        self.platform = SimPlatform()
        self.calls: deque[Call] = deque(maxlen=history_max)
        self.call_counts: Counter[str] = Counter()
        self._entropy = random.Random(seed)  # noqa: S311  (which connection gets an event is no secret)
        self._events = itertools.count(1)
        self._changed = trio.Event()
        self.resources = ResourceStore()
        self.scans = Scans(self.platform, changed=self._touch)
        self.messages = MessageStore(history_max=history_max, changed=self._touch)
        self.connection_log = SocketConnections(self.clock, history_max=history_max, changed=self._touch)
        self.callbacks = Callbacks(self.platform, self.clock, self._entropy, self.faults)
        self.delivery = EventDelivery(
            self.connection_log,
            self.callbacks,
            self.clock,
            self._entropy,
            redelivery_scale=redelivery_scale,
            ack_seconds=ack_seconds,
            history_max=history_max,
        )
        config = dict(CLIENT_CONFIG if client_config is None else client_config)
        self.door = SocketDoor(
            self.platform,
            self.connection_log,
            self.delivery,
            faults=self.faults,
            clock=self.clock,
            client_config=config,
        )
        self.world = World(
            platform=self.platform,
            messages=self.messages,
            resources=self.resources,
            scans=self.scans,
            connections=self.connection_log,
            limits=self.limits,
            clock=self.clock,
            ws_url="ws://simulator.invalid",
            client_config=config,
            heard=self._let_bots_hear,
        )
        self.router = Router()
        add_routes(self.router, self.world)
        registration.add_routes(self.router, self.scans, self.clock)
        self.base_urls = {region: f"http://{region}.simulator.invalid" for region in REGIONS}

    @property
    def base_url(self) -> str:
        """Return the URL of the Feishu cloud. The control API answers on both clouds; by default it is called here."""
        return self.base_urls[REGIONS[0]]

    # -- setting the scene

    def create_app(self, name: str = "", *, app_id: str = "", secret: str = "", **options: Any) -> App:
        """Create a self-built app with its bot. The options are those of `App`. Raises ValueError."""
        return self.platform.add_app(name, app_id, secret, **options)

    def create_person(self, name: str) -> Person:
        return self.platform.add_person(name)

    def create_group(self, name: str, apps: Sequence[App], people: Sequence[Person]) -> SimChat:
        return self.platform.add_group(name, list(apps), list(people))

    def direct_chat(self, person: Person, app: App) -> SimChat:
        return self.platform.direct_chat(person, app)

    def rotate_secret(self, app: App, *, overlap_seconds: float = 0.0, secret: str = "") -> str:
        """Give the app a new secret and return it. The old one is refused at once, or after `overlap_seconds`."""
        return self.platform.rotate_secret(app, self.clock.now(), overlap_seconds, secret)

    def revoke_tokens(self, app: App) -> int:
        return self.platform.revoke_tokens(app)

    def configure_client(self, config: dict[str, Any], *, replace: bool = False) -> None:
        """Change the client configuration in bootstraps and pongs. With `replace`, other members are removed."""
        if replace:
            self.world.client_config.clear()
        self.world.client_config.update(config)

    # -- events

    def say(self, person: Person, to: App | SimChat, said: Utterance | str) -> SaidMessage:
        """Write as a person, in the direct chat with an app or in a group. Each bot that may receive it gets an event.

        Raises Refusal for a replied or forwarded message that does not exist. Raises ValueError for attachments that no
        message can hold, and for a forwarded message of a chat that the person is not in.
        """
        if isinstance(said, str):
            said = Utterance(said)
        chat = to if isinstance(to, SimChat) else self.platform.direct_chat(person, to)
        originals = [self._seen_by(person, message_id) for message_id in said.forwards]
        draft, mentioned = self._draft(said, chat)
        sent_at = self.clock.wall_ms() - round(said.age_seconds * 1000)
        message = self.messages.write(person, chat, draft, mentioned, now_ms=sent_at, message_id=said.message_id)
        if originals:
            self.messages.forward(message, originals)
        hearing = [app for app in self._bots(chat) if _hears(app, chat, message)]
        return SaidMessage(
            message, tuple(self._push_message(app, message, said.plan, said.event_id) for app in hearing)
        )

    def _draft(self, said: Utterance, chat: SimChat) -> tuple[MessageDraft, tuple[PlacedMention, ...]]:
        text = _name_first(said.text, said.mentions)
        text, mentioned = place_mentions(text, [*self._candidates(said.mentions), *self._members(chat)])
        message_type, content = said.message_type, said.content
        if said.forwards:
            message_type, content = "merge_forward", FORWARDED
        elif content is None:
            message_type, content = compose(self.resources, message_type, text, mentioned, said.attachments)
        elif said.attachments and isinstance(content, dict):
            content = place_attachments(self.resources, content, said.attachments)
        body = content if isinstance(content, str) else msgspec.json.encode(content).decode()
        return MessageDraft(message_type, body, reply_to=said.reply_to, in_thread=said.in_thread), mentioned

    def _seen_by(self, person: Person, message_id: str) -> Message:
        message = self.messages.get(message_id)
        if person.union_id not in self.platform.chats[message.chat_id].union_ids:
            raise ValueError(f"{person.name} is not in the chat of message {message_id}")
        return message

    def push_event(
        self, app: App, event_type: str, event: dict[str, Any], *, chunks: int = 1, event_id: str = ""
    ) -> EventRecord:
        """Push an event of any type, in a proper envelope."""
        event_id = event_id or self._next_event_id()
        payload = envelope(app, event_type, event, event_id=event_id, now_ms=self.clock.wall_ms())
        return self._submit(app, event_type, payload, PushPlan(chunks), event_id)

    def push_payload(
        self, app: App, payload: bytes, *, chunks: int = 1, order: Sequence[int] | None = None
    ) -> EventRecord:
        """Push exactly these bytes as the payload of an event, whether they are JSON or not."""
        plan = PushPlan(chunks, None if order is None else tuple(order))
        return self._submit(app, "", payload, plan, self._next_event_id())

    def push_raw(self, connection: SocketConnection, data: bytes, *, text: bool = False) -> bool:
        """Send exactly these bytes as one WebSocket message, without a frame. False if it cannot be queued."""
        return connection.queue(Bytes(data, text))

    def redeliver(self, event_id: str) -> EventRecord:
        """Push an event once more, now. Raises LookupError."""
        return self.delivery.redeliver(event_id)

    def event(self, event_id: str) -> EventRecord:
        """Return the record of an event. Raises LookupError if it is not remembered."""
        if event_id not in self.delivery.records:
            raise LookupError(f"event {event_id} is not remembered")
        return self.delivery.records[event_id]

    # -- looking

    def sent(self, chat: SimChat | str) -> list[Message]:
        """Return the messages of bots in a chat, without recalled ones, the oldest first."""
        return self.messages.in_chat(chat if isinstance(chat, str) else chat.chat_id, "app")

    def connections(self, app: App | None = None) -> list[SocketConnection]:
        """Return the live connections of one app, or of all apps."""
        apps = self.platform.apps if app is None else [app.app_id]
        return [connection for app_id in apps for connection in self.connection_log.live(app_id)]

    async def wait_connected(self, app: App, count: int = 1) -> list[SocketConnection]:
        """Wait until the app has exactly `count` live connections."""
        while len(live := self.connections(app)) != count:
            with trio.move_on_after(0.05):  # the kernel may know of a peer's end before any task is woken by it
                await self._changed.wait()
        return live

    def most_live(self, app: App) -> int:
        """Return the most connections of this app that were ever live at the same time."""
        return self.connection_log.most_live.get(app.app_id, 0)

    async def until(self, look: Callable[[], T | None]) -> T:
        """Wait until `look` returns something, and return it. It is called again after every visible change."""
        while (found := look()) is None:
            await self._changed.wait()
        return found

    # -- failures

    def fail_next(self, path: str, times: int = 1, **how: Any) -> CallFault:
        """Let the next `times` calls of `path` fail; see `CallFault`."""
        fault = CallFault(path, times, **how)
        self.faults.plan(fault)
        return fault

    def reject_handshakes(self, times: int = 1, **how: Any) -> HandshakeFault:
        """Refuse or delay the next `times` WebSocket handshakes; see `HandshakeFault`."""
        fault = HandshakeFault(times, **how)
        self.faults.plan(fault)
        return fault

    def spoil_pushes(self, how: str, times: int = 1, **more: Any) -> PushFault:
        """Put a fault into the next `times` events pushed over HTTP; see `PushFault`."""
        fault = PushFault(how, times, **more)
        self.faults.plan(fault)
        return fault

    # -- HTTP

    async def respond(self, request: Request) -> Answer:
        """Answer one HTTP call, planned failures included. Raises ConnectionLost if there is to be no answer."""
        started = self.clock.now()
        outcome, answer = "answered", Answer(0)
        try:
            fault = self.faults.next_call(request.method, request.path)
            if fault is None:
                answer = await self._dispatch(request)
            else:
                outcome, answer = await self._fail(fault, request)
        finally:
            self._log_call(request, answer, started, outcome if answer.status else "lost")
        if outcome == "lost":
            raise ConnectionLost
        return answer

    async def _fail(self, fault: CallFault, request: Request) -> tuple[str, Answer]:
        await trio.sleep(fault.hang_seconds)
        if fault.lose_answer:
            return "lost", await self._dispatch(request)
        if fault.reset:
            return "lost", Answer(0)
        if fault.body is not None:
            return "planned failure", Answer(fault.status or 502, fault.body.encode(), fault.headers)
        if not fault.status and not fault.code:
            return "answered", await self._dispatch(request)
        status = fault.status or (200 if request.path == "/callback/ws/endpoint" else 400)
        document = {"code": fault.code, "msg": fault.msg, "error": {"log_id": derive("", "fault", digits=20)}}
        return "planned failure", json_answer(document, status=status, headers=fault.headers)

    async def _dispatch(self, request: Request) -> Answer:
        found = self.router.find(request)
        if found is None:
            return Answer(404, b"404 page not found", (("content-type", "text/plain"),))
        route, request = found
        return await route.responder(request)

    def _log_call(self, request: Request, answer: Answer, started: float, outcome: str) -> None:
        if not request.path.startswith(("/open-apis/", "/callback/", "/oauth/")):
            return
        found = self.router.find(request)
        elapsed_ms = round((self.clock.now() - started) * 1000, 3)
        app_id = self._caller(request)
        self.calls.append(
            Call(
                self.clock.wall_ms(),
                request.method,
                request.path,
                app_id,
                answer.status,
                answer.code,
                elapsed_ms,
                outcome,
                request.region,
            )
        )
        self.call_counts[f"{request.method} {found[0].pattern if found else 'unknown'} {answer.status}"] += 1

    def _caller(self, request: Request) -> str:
        """Return the id of the calling app for the log: by its token, or as a call for credentials claims it."""
        holder = self.platform.token_holder(request.headers.get("authorization", ""))
        if holder:
            return holder
        try:
            document = msgspec.json.decode(request.body or b"{}")
        except msgspec.DecodeError:
            return ""
        claimed = (document.get("AppID") or document.get("app_id")) if isinstance(document, dict) else ""
        return claimed if claimed in self.platform.apps else ""

    # -- inside

    def _touch(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _next_event_id(self) -> str:
        return derive("", "event", str(next(self._events)), str(self.clock.wall_ms()))

    def _submit(self, app: App, event_type: str, payload: bytes, plan: PushPlan, event_id: str) -> EventRecord:
        return self.delivery.submit(EventRecord(event_id, app.app_id, event_type, payload, plan))

    def _push_message(self, app: App, message: Message, plan: PushPlan, event_id: str = "") -> EventRecord:
        event_id = event_id or self._next_event_id()
        event = message_event(self.platform, app, message)
        payload = envelope(app, MESSAGE_RECEIVED, event, event_id=event_id, now_ms=self.clock.wall_ms())
        record = EventRecord(event_id, app.app_id, MESSAGE_RECEIVED, payload, plan, message.message_id)
        return self.delivery.submit(record)

    def _let_bots_hear(self, sender: App, message: Message) -> None:
        """Push a bot's message to the other bots in the chat that it mentions, if they may receive messages of bots."""
        chat = self.platform.chats[message.chat_id]
        mentioned = {mention.union_id for mention in message.mentions}
        for app in self._bots(chat):
            if app is not sender and app.hears_bots and app.union_id in mentioned:
                self._push_message(app, message, PushPlan())

    def _bots(self, chat: SimChat) -> list[App]:
        return [self.platform.apps[app_id] for app_id in chat.app_ids]

    def _members(self, chat: SimChat) -> list[tuple[str, str, bool]]:
        people = [self.platform.people[union_id] for union_id in chat.union_ids]
        return self._candidates([*self._bots(chat), *people])

    def _candidates(self, members: Sequence[App | Person]) -> list[tuple[str, str, bool]]:
        return [(member.name, member.union_id, isinstance(member, App)) for member in members]


def _name_first(text: str, mentions: Sequence[App | Person]) -> str:
    unnamed = [member for member in mentions if f"@{member.name}" not in text]
    return " ".join([*(f"@{member.name}" for member in unnamed), text]) if unnamed else text


def _hears(app: App, chat: SimChat, message: Message) -> bool:
    if chat.chat_type == "p2p" or app.hears_all_group_messages:
        return True
    return any(mention.union_id == app.union_id for mention in message.mentions)
