"""The HTTP application: routes, the shape of errors, and what is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import structlog
import trio
from quart import Blueprint, Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from gateway.channel.push import TakePushed
from gateway.http.api import (
    attachments,
    autopilots,
    bindings,
    chats,
    deliveries,
    events,
    health,
    identity,
    installations,
    outgoing,
    runtimes,
    tasks,
    teams,
    triggers,
)
from gateway.http.api.autopilots import TriggerViews
from gateway.http.api.bindings import BindingLinks
from gateway.http.api.identity import SignIn
from gateway.http.api.installations import Installs
from gateway.http.auth import Authenticate, Callers
from gateway.http.bounds import DELIVERIES, SMALL, body_bounds, bound_of
from gateway.http.client import ProxyNetwork
from gateway.http.console import issues as issue_pages
from gateway.http.console import pages
from gateway.http.errors import answer_to, error_response
from gateway.http.ingress import lark_events, webhooks
from gateway.http.places import PlaceLimits, Places
from gateway.http.query import judge_queries
from gateway.http.requests import BoundedConnection, BoundedRequest, refuse_many_parameters, too_large
from gateway.http.session import Sessions, mount_path
from gateway.http.throttle import LoginThrottle
from gateway.observe.health import Readiness
from gateway.recorder import Recorder
from gateway.webhooks.log import DeliveryLog
from gateway.webhooks.replay import BulkReplays, Replayer
from gateway.webhooks.triggers import TriggerService
from gateway.work.autopilots.autopilots import AutopilotService
from gateway.work.feed import Feed
from gateway.work.issues.pages import IssuePages
from gateway.work.people.accounts import Accounts
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Directory
from gateway.work.people.teams import TeamService
from gateway.work.tasks.attachments import Attachments
from gateway.work.tasks.chats import ChatService
from gateway.work.tasks.outgoing import OutgoingService
from gateway.work.tasks.tasks import TaskService

logger = structlog.get_logger(__name__)

UNCOUNTED_PATHS = frozenset({"/healthz", "/readyz"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BODY_SECONDS = 30.0
"""The longest time that a route waits for a body to arrive."""
CLIENT_CLOSED_REQUEST = 499
"""Counted for a request whose client left before its answer was ready."""

_VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


@dataclass(frozen=True, slots=True)
class Hooks:
    """The services behind the routes for people who manage webhooks."""

    triggers: TriggerService
    log: DeliveryLog
    replayer: Replayer
    bulk: BulkReplays


@dataclass(frozen=True, slots=True)
class Workplace:
    """The services behind the routes for agents, squads, projects and autopilots.

    `triggers` returns the views of an autopilot's triggers.
    """

    team: TeamService
    autopilots: AutopilotService
    triggers: TriggerViews | None = None
    hooks: Hooks | None = None


@dataclass(frozen=True, slots=True)
class People:
    """The services behind the routes for people: signing in, bots, binding accounts, conversations, live events.

    `installs` is None where no bot can be connected. `lark_on` is true if Lark bots can be served. `platforms` holds
    the display name of each served platform, by language. `public_url` is the address at which people reach this
    server. `trusted_proxies` are the proxies whose X-Forwarded-For and X-Real-IP are believed.
    """

    accounts: Accounts
    directory: Directory
    bindings: BindingService
    chats: ChatService
    outgoing: OutgoingService
    issues: IssuePages
    feed: Feed
    installs: Installs | None = None
    lark_on: bool = True
    platforms: Sequence[Mapping[str, str]] = ()
    public_url: str | None = None
    trusted_proxies: tuple[ProxyNetwork, ...] = ()
    workplace: Workplace | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """The services behind the routes. The application owns none of them. Without `people` it serves runtimes only.

    `attachments` is None if files can be fetched from none of the served platforms.
    `take_lark_event` is None while Lark is off.
    """

    authenticate: Authenticate
    tasks: TaskService
    health: Readiness
    recorder: Recorder
    people: People | None = None
    attachments: Attachments | None = None
    take_lark_event: TakePushed | None = None
    webhooks: webhooks.Ingress | None = None
    body_bytes_max: int = 1_048_576
    place_limits: PlaceLimits = field(default_factory=PlaceLimits)


def create_app(services: Services) -> JsonApp:
    """Build the application with every route of the API. Each module of routes gets only the services that it uses."""
    deliveries_max = None if services.webhooks is None else services.webhooks.body_bytes_max
    bounds = body_bounds(reports=services.body_bytes_max, deliveries=deliveries_max)
    prefix = mount_path(None if services.people is None else services.people.public_url)
    app = JsonApp("gateway.http", recorder=services.recorder, bounds=bounds, mounted_at=prefix)
    judge_queries(app)
    for blueprint in _routes(services):
        app.register_blueprint(blueprint)
    return app


def _routes(services: Services) -> Iterator[Blueprint]:
    people, limits = services.people, services.place_limits
    sessions = None if people is None else Sessions(people.accounts.owner, people.public_url)
    callers = Callers(services.authenticate, sessions)
    waits = Places("claims", total=limits.claims, each=limits.claims_of_runtime)
    yield health.routes(services.health)
    yield runtimes.routes(services.tasks, waits, callers)
    yield tasks.routes(services.tasks, callers)
    yield attachments.task_routes(services.tasks, services.attachments, callers)
    yield lark_events.routes(services.take_lark_event, () if people is None else people.trusted_proxies)
    if services.webhooks is not None:
        yield webhooks.routes(services.webhooks)
    if people is not None and sessions is not None:
        yield from _routes_of_people(people, sessions, callers)
        streams = Places("live streams", total=limits.streams, each=limits.streams_of_person)
        yield events.routes(people.directory, people.feed, streams, callers)
        downloads = Places("downloads", total=limits.downloads, each=limits.downloads_of_person)
        yield attachments.people_routes(services.attachments, people.directory, people.chats, downloads, callers)


def _routes_of_people(people: People, sessions: Sessions, callers: Callers) -> Iterator[Blueprint]:
    directory = people.directory
    sign_in = SignIn(people.accounts, LoginThrottle(), people.trusted_proxies)
    links = BindingLinks(people.bindings, bots_served=bool(people.platforms))
    yield identity.routes(people.accounts, sessions, sign_in, callers)
    yield pages.routes(people.accounts, sessions, sign_in, links, people.platforms)
    yield issue_pages.routes(people.issues, sessions)
    yield bindings.routes(people.bindings, links, directory, callers)
    yield installations.routes(
        people.installs, directory, callers, lark_on=people.lark_on, public_url=people.public_url
    )
    yield chats.routes(people.chats, directory, callers)
    yield outgoing.routes(people.outgoing, directory, callers)
    if people.workplace is not None:
        yield from _routes_of_work(people.workplace, directory, callers)


def _routes_of_work(workplace: Workplace, directory: Directory, callers: Callers) -> Iterator[Blueprint]:
    yield teams.routes(workplace.team, directory, callers)
    yield autopilots.routes(workplace.autopilots, directory, workplace.triggers, callers)
    if (hooks := workplace.hooks) is not None:
        yield deliveries.routes(
            hooks.log, hooks.replayer, hooks.bulk, workplace.autopilots, directory=directory, callers=callers
        )
        yield triggers.routes(hooks.triggers, callers)


class JsonApp(QuartTrio):
    """A Quart application that answers every error as JSON and counts each request by its route's pattern."""

    request_class = BoundedRequest
    asgi_http_class = BoundedConnection

    def __init__(
        self,
        name: str,
        *,
        recorder: Recorder,
        bounds: Mapping[str, int] = MappingProxyType({}),
        body_bytes_max: int = SMALL,
        counted: bool = True,
        mounted_at: str = "",
    ) -> None:
        """`bounds` maps a route's rule to the most bytes of its request body.

        Routes without an entry take at most `body_bytes_max`. Requests are counted only if `counted`. `mounted_at` is
        the path of `http.public_url`, under which people reach every route.
        """
        super().__init__(name, static_folder=None)
        self.recorder = recorder
        self.counted = counted
        self.bounds = bounds
        self._in_flight = 0
        self._body_bytes_max = body_bytes_max
        self._mounted_at = mounted_at
        # Werkzeug corrects a slash with an absolute redirect, built from the Host header, which any client can forge.
        # So a path either matches as it is or gives 404.
        self.url_map.strict_slashes = False
        self.url_map.merge_slashes = False
        # Quart's own bound stays off: BoundedRequest bounds the body once its route is known.
        self.config["MAX_CONTENT_LENGTH"] = None
        self.config["BODY_TIMEOUT"] = BODY_SECONDS

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._mounted_at and scope["type"] == "http":
            scope = mounted(scope, self._mounted_at)
        await super().__call__(scope, receive, send)

    def create_url_adapter(self, request: Any) -> Any:
        """Match by the path alone. The Host header, which the client chooses, can neither select nor break a route."""
        if request is None:
            return None
        return self.url_map.bind("localhost", default_method=request.method, path_info=request.path)

    async def preprocess_request(self, request_context: Any = None) -> Any:
        request: BoundedRequest = request_context.request
        if request.url_rule is None:
            request.drop()
        elif request.method != "POST" or request.url_rule.rule not in DELIVERIES:
            request.admit(bound_of(request.method, request.url_rule.rule, self.bounds, self._body_bytes_max))
        refuse_many_parameters(request.query_string)
        return await super().preprocess_request(request_context)

    async def handle_request(self, request: Any) -> Any:
        if not self.counted or request.path in UNCOUNTED_PATHS:
            return await self._answer(request)
        with self._counted(request) as outcome:
            response = await self._answer(request)
            outcome.status = response.status_code
        return response

    async def _answer(self, request: BoundedRequest) -> Any:
        """Return the route's answer with the headers that every answer carries.

        A body above its bound cancels `request.answering`; the answer is then 413. A body that its route never admitted
        is dropped.
        """
        response: Any = None
        with request.answering:
            response = await super().handle_request(request)
        if response is None:
            response = answer_to(too_large(request.bytes_max))
        if not request.admitted.is_set():
            request.drop()
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    async def handle_user_exception(self, error: Exception | BaseExceptionGroup[BaseException]) -> Any:
        """Turn an exception of a request into its answer.

        One request is one unit of work, so its exception touches nothing else. A group that holds a cancellation is
        raised again.
        """
        if isinstance(error, BaseExceptionGroup) and error.subgroup(trio.Cancelled) is not None:
            raise error
        cause = _only_leaf(error)
        if isinstance(cause, HTTPException) and (cause.code or 500) < 400:
            return cause
        return answer_to(cause) or self._unexpected(cause)

    def _unexpected(self, error: BaseException) -> Response:
        logger.error("http_request_failed", exc_info=error)
        self.recorder.count("unexpected_errors", unit="http")
        return error_response(500, "internal_error", "an unexpected error occurred; the log has its traceback")

    @contextmanager
    def _counted(self, request: BoundedRequest) -> Iterator[_Outcome]:
        outcome = _Outcome(CLIENT_CLOSED_REQUEST)
        started = trio.current_time()
        self._in_flight += 1
        self.recorder.set("http_in_flight", self._in_flight)
        try:
            yield outcome
        finally:
            self._in_flight -= 1
            self.recorder.set("http_in_flight", self._in_flight)
            # A client can invent methods. Each label value is a time series that lives as long as the process does.
            method = request.method if request.method in METHODS else "other"
            route, status, elapsed = route_pattern(request), str(outcome.status), trio.current_time() - started
            self.recorder.count("http_requests", method=method, route=route, status=status)
            self.recorder.observe("http_request_duration_seconds", elapsed, method=method, route=route, status=status)


@dataclass(slots=True)
class _Outcome:
    status: int


def route_pattern(request: BoundedRequest) -> str:
    """Return the matched route in `{name}` form, or `unmatched`. A raw path would put ids and tokens into a label."""
    rule = request.url_rule
    return "unmatched" if rule is None else _VARIABLE.sub(r"{\1}", rule.rule)


def mounted(scope: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the ASGI scope of a request to an application that is mounted at `prefix`.

    Some proxies pass the prefix on and others remove it, and a client on this machine never writes it. So a path
    without the prefix means the same as the path with it. `request.root_path` is the prefix in both cases, and links
    begin with it.
    """
    path = scope["path"]
    has_prefix = path == prefix or path.startswith(f"{prefix}/")
    return {**scope, "root_path": prefix, "path": path if has_prefix else f"{prefix}{path}"}


def _only_leaf(error: BaseException) -> BaseException:
    """Unwrap nested groups that hold one exception each. Any other error is returned as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
