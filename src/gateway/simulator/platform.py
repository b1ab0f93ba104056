"""The state of the simulated platform: apps, people, chats, credentials, tokens and connection tickets.

Nothing here waits or reads a clock; every `now` is an argument in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gateway.simulator.exchange import Refusal

T = TypeVar("T")

REGIONS = ("feishu", "lark")
"""The two clouds. They have the same calls, and neither knows the other's data."""
EVENT_MODES = ("socket", "http")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TENANT_KEY = "15f2a7c0d4e8b9a1"
TOKEN_SECONDS = 7200.0
TOKEN_REUSE_SECONDS = 1800.0
"""The same tenant token is handed out again until less than this time is left of it."""
TICKET_SECONDS = 60.0
CONNECTIONS_MAX = 50
"""The most connections of one app, unless its `connections_max` says otherwise."""

APP_OPTIONS = frozenset(
    {
        "connections_max",
        "hears_all_group_messages",
        "hears_bots",
        "shows_user_ids",
        "shows_names",
        "forbidden",
        "region",
        "event_mode",
        "event_url",
        "encrypt_key",
        "verification_token",
    }
)
"""The options of an app that may be given when it is created, and changed later."""

BAD_APP_ID = 10003
BAD_APP_SECRET = 10014
TOKEN_MISSING = 99991661
TOKEN_MALFORMED = 99991671
TOKEN_INVALID = 99991663


def derive(prefix: str, *parts: str, digits: int = 32) -> str:
    """Return an id that is always the same for the same parts."""
    return prefix + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:digits]


@dataclass(slots=True)
class App:
    """A self-built app and its bot. `union_id` is the bot's; its open_id differs for each app that looks at it.

    `hears_all_group_messages` stands for the scope to read every group message; without it only messages that mention
    the bot arrive. `hears_bots` stands for the scope to receive messages of other bots that mention it.
    `shows_user_ids` and `shows_names` stand for the scopes to see people's tenant ids and their names. With
    `event_mode` http the events are posted to `event_url`, and none arrive on the app's long connections, though it may
    still open some.
    """

    app_id: str
    name: str
    secret: str = field(repr=False)
    union_id: str
    service_id: int
    connections_max: int = CONNECTIONS_MAX
    hears_all_group_messages: bool = True
    hears_bots: bool = False
    shows_user_ids: bool = False
    shows_names: bool = True
    forbidden: bool = False
    region: str = REGIONS[0]
    event_mode: str = "socket"
    event_url: str = ""
    encrypt_key: str = field(default="", repr=False)
    verification_token: str = field(default="", repr=False)
    old_secret: str = field(default="", repr=False)
    old_secret_until: float = 0.0

    @property
    def open_id(self) -> str:
        """Return the bot's open_id as its own app sees it."""
        return open_id(self.app_id, self.union_id)

    def accepts(self, secret: str, now: float) -> bool:
        return secret == self.secret or bool(secret and secret == self.old_secret and now < self.old_secret_until)


@dataclass(frozen=True, slots=True)
class Person:
    """A person in the tenant. `union_id` identifies a person in this simulator; the open_id differs for each app."""

    name: str
    union_id: str
    user_id: str


@dataclass(slots=True)
class SimChat:
    """A conversation of one person with one bot, or a group. Members are app ids and people's union ids."""

    chat_id: str
    chat_type: str
    name: str
    app_ids: list[str]
    union_ids: list[str]


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to open one connection, once, before `expires_at`."""

    app_id: str
    device_id: str
    expires_at: float


def open_id(app_id: str, union_id: str) -> str:
    """Return the id by which one app names a person or a bot."""
    return derive("ou_", app_id, union_id)


class SimPlatform:
    """Apps, people and chats, and their rights. A handle is an id or, where it is unique, a name."""

    def __init__(self, *, token_seconds: float = TOKEN_SECONDS) -> None:
        self.apps: dict[str, App] = {}
        self.people: dict[str, Person] = {}
        self.chats: dict[str, SimChat] = {}
        self._token_seconds = token_seconds
        self._tokens: dict[str, tuple[str, float]] = {}
        self._tickets: dict[str, Ticket] = {}
        self._minted = 0

    # -- apps and people

    def add_app(self, name: str = "", app_id: str = "", secret: str = "", **options: Any) -> App:
        """Register an app. Raises ValueError if its id is taken, or an option is unknown or invalid."""
        number = len(self.apps) + 1
        app_id = app_id or derive("cli_", "app", str(number), digits=16)
        if app_id in self.apps:
            raise ValueError(f"app {app_id} exists already")
        app = App(
            app_id=app_id,
            name=name or f"Bot {number}",
            secret=secret or derive("simulated-", "secret", app_id, digits=22),
            union_id=derive("on_", "bot", app_id),
            service_id=33554432 + number,
            verification_token=derive("", "verification", app_id),
        )
        set_options(app, options)
        self.apps[app_id] = app
        return app

    def rotate_secret(self, app: App, now: float, overlap_seconds: float = 0.0, secret: str = "") -> str:
        """Give the app a new secret and return it. The old one works for `overlap_seconds` more."""
        app.old_secret, app.old_secret_until = app.secret, now + overlap_seconds
        app.secret = secret or derive("simulated-", "secret", app.app_id, app.secret, digits=22)
        return app.secret

    def add_person(self, name: str) -> Person:
        """Return the person of this name, who is registered at the first call."""
        union_id = derive("on_", "person", name)
        person = Person(name, union_id, derive("", "user", name, digits=8))
        return self.people.setdefault(union_id, person)

    def app(self, handle: str) -> App:
        """Return an app by id or name. Raises LookupError."""
        return self.apps.get(handle) or _only(handle, (app for app in self.apps.values() if app.name == handle))

    def person(self, handle: str) -> Person:
        """Return a person by union id or name. Raises LookupError."""
        return self.people.get(handle) or _only(handle, (one for one in self.people.values() if one.name == handle))

    def names(self) -> dict[str, str]:
        """Return the display names of people and bots by union id."""
        people = {person.union_id: person.name for person in self.people.values()}
        return people | {app.union_id: app.name for app in self.apps.values()}

    def resolve_open_id(self, app: App, handle: str) -> Person | None:
        """Return the person whose open_id for this app is `handle`, or None."""
        return next((one for one in self.people.values() if open_id(app.app_id, one.union_id) == handle), None)

    # -- chats

    def direct_chat(self, person: Person, app: App) -> SimChat:
        """Return the one direct chat of this person with this bot, and create it at the first call."""
        chat_id = derive("oc_", person.union_id, app.app_id)
        chat = self.chats.get(chat_id)
        if chat is None:
            chat = self.chats[chat_id] = SimChat(chat_id, "p2p", app.name, [app.app_id], [person.union_id])
        return chat

    def add_group(self, name: str, apps: list[App], people: list[Person]) -> SimChat:
        chat_id = derive("oc_", "group", name, str(len(self.chats)))
        chat = SimChat(chat_id, "group", name, [app.app_id for app in apps], [one.union_id for one in people])
        self.chats[chat_id] = chat
        return chat

    def chat(self, chat_id: str) -> SimChat:
        """Return a chat by id. Raises LookupError."""
        return self.chats.get(chat_id) or _only(chat_id, iter(()))

    def remove_from_chat(self, chat: SimChat, app: App) -> None:
        """Remove the bot from the chat. From then on its messages there are refused."""
        if app.app_id in chat.app_ids:
            chat.app_ids.remove(app.app_id)

    # -- tenant tokens

    def grant_token(self, app_id: str, secret: str, now: float) -> tuple[str, int]:
        """Return a tenant token and its remaining seconds. Raises Refusal for wrong credentials."""
        app = self.apps.get(app_id)
        if app is None:
            raise Refusal(BAD_APP_ID, "invalid app_id")
        if not app.accepts(secret, now):
            raise Refusal(BAD_APP_SECRET, "app secret invalid")
        self._tokens = {token: held for token, held in self._tokens.items() if held[1] > now}
        for token, (owner, expires_at) in self._tokens.items():
            if owner == app_id and expires_at - now >= TOKEN_REUSE_SECONDS:
                return token, int(expires_at - now)
        self._minted += 1
        token = derive("t-simulated-", app_id, str(self._minted), str(now))
        self._tokens[token] = (app_id, now + self._token_seconds)
        return token, int(self._token_seconds)

    def authenticate(self, authorization: str, now: float) -> App:
        """Return the app whose token an Authorization header holds. Raises Refusal."""
        if not authorization:
            raise Refusal(TOKEN_MISSING, "Missing access token for authorization. Please make a request with token.")
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token.startswith("t-"):
            raise Refusal(TOKEN_MALFORMED, "Invalid access token format.")
        app_id, expires_at = self._tokens.get(token, ("", 0.0))
        if app_id not in self.apps or expires_at <= now:
            raise Refusal(TOKEN_INVALID, "Invalid access token for authorization. Please make a request with token.")
        return self.apps[app_id]

    def token_holder(self, authorization: str) -> str:
        """Return the id of the app whose token this is, also if it has expired; "" for an unknown token."""
        return self._tokens.get(authorization.removeprefix("Bearer "), ("", 0.0))[0]

    def revoke_tokens(self, app: App) -> int:
        """Make every token of the app invalid at once. Returns their number."""
        kept = {token: held for token, held in self._tokens.items() if held[0] != app.app_id}
        revoked = len(self._tokens) - len(kept)
        self._tokens = kept
        return revoked

    # -- connection tickets

    def grant_ticket(self, app: App, now: float) -> tuple[str, Ticket]:
        """Issue a new ticket. Returns its text and the ticket itself."""
        self._tickets = {text: held for text, held in self._tickets.items() if held.expires_at > now}
        self._minted += 1
        text = derive("", "ticket", app.app_id, str(self._minted), str(now))
        ticket = Ticket(app.app_id, str(7_000_000_000_000_000_000 + self._minted), now + TICKET_SECONDS)
        self._tickets[text] = ticket
        return text, ticket

    def redeem_ticket(self, text: str, now: float) -> Ticket | None:
        """Use a ticket up and return it; None if it is unknown, used or expired."""
        ticket = self._tickets.pop(text, None)
        return ticket if ticket is not None and ticket.expires_at > now else None


def set_options(app: App, options: dict[str, Any]) -> None:
    """Change options of an app. Raises ValueError for an unknown option or an invalid value."""
    unknown = options.keys() - APP_OPTIONS
    if unknown:
        raise ValueError(f"an app has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(APP_OPTIONS))}")
    if options.get("region", app.region) not in REGIONS:
        raise ValueError(f"an app lives in one of {', '.join(REGIONS)}, not {options['region']!r}")
    if options.get("event_mode", app.event_mode) not in EVENT_MODES:
        raise ValueError(f"an app takes its events by {' or '.join(EVENT_MODES)}, not {options['event_mode']!r}")
    if options.get("event_url"):
        _check_url(options["event_url"])
    for name, value in options.items():
        setattr(app, name, value)


def _check_url(url: str) -> None:
    """Check that an address is on this machine: the simulator contacts no other. Raises ValueError if it is not."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        raise ValueError(f"events are posted to http on {', '.join(LOOPBACK)} only, not to {url!r}")


def _only(handle: str, found: Iterator[T]) -> T:
    matches = list(found)
    if len(matches) != 1:
        raise LookupError(f"{handle!r} names {len(matches)} things here, not one")
    return matches[0]
