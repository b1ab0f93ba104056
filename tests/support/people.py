"""The HTTP application for people, in process: a workspace, a bot, and browsers that keep cookies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from argon2 import PasswordHasher
from quart.typing import TestClientProtocol

from gateway.concurrency import Topics
from gateway.core.introduction import Introduction
from gateway.http.app import JsonApp, People, Services, Workplace, create_app
from gateway.http.console.language import words_of
from gateway.lark.chat.channel import TITLES
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.postgres.account_store import PostgresAccountStore
from gateway.postgres.autopilot_store import PostgresAutopilotStore
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.chat_store import PostgresChatStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.dispatch_store import PostgresDispatchStore
from gateway.postgres.issue_page_store import PostgresIssuePages
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.outgoing_store import PostgresOutgoingStore
from gateway.postgres.pool import Pool
from gateway.postgres.task_store import PostgresTaskStore
from gateway.postgres.team_store import PostgresTeamStore
from gateway.work.autopilots.autopilots import AutopilotService
from gateway.work.autopilots.dispatch import AutopilotDispatcher
from gateway.work.feed import Feed
from gateway.work.issues.issues import IssueService
from gateway.work.people.accounts import Accounts
from gateway.work.people.binding_prompts import BindingPrompts
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Directory, User
from gateway.work.people.teams import TeamService
from gateway.work.tasks.attachments import Attachments
from gateway.work.tasks.chats import ChatService
from gateway.work.tasks.outgoing import OutgoingService
from gateway.work.tasks.tasks import TaskService
from support.lark_directory import Place, add_installation, add_member, add_place
from support.rows import query

PASSWORD = "not-a-real-password"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HOST = "gateway.example"


@dataclass
class Browser:
    """One person's browser. `origin` is what it says it is looking at, `peer` the address that connects to us."""

    client: TestClientProtocol
    origin: str | None = f"http://{HOST}"
    headers: dict[str, str] = field(default_factory=dict)
    peer: str | None = None

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        response = await self.send(method, path, body, **headers)
        data = await response.get_data()
        return response.status_code, msgspec.json.decode(data) if data else None

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        sent = {"Host": HOST, **self.headers, **headers}
        if self.origin is not None and method != "GET":
            sent["Origin"] = self.origin
        data = body if isinstance(body, bytes) else msgspec.json.encode(body) if body is not None else b""
        scope = {} if self.peer is None else {"client": (self.peer, 1)}
        return await self.client.open(path, method=method, headers=sent, data=data, scope_base=scope)  # type: ignore[call-arg] # `json` is optional in truth

    async def sign_in(self, email: str, password: str = PASSWORD) -> int:
        status, _ = await self.ask("POST", "/api/auth/login", {"email": email, "password": password})
        return status


@dataclass
class Office:
    """A workspace with a bot. Its owner is ann@acme.example."""

    pool: Pool
    place: Place
    installation_id: UUID
    people: People
    app: JsonApp
    metrics: Metrics

    def browser(self, **options: Any) -> Browser:
        return Browser(self.app.test_client(), **options)

    async def add_person(self, email: str, role: str | None = "member") -> User:
        person = await self.people.directory.add_user(email, "Somebody")
        await self.sql("update app_user set password_hash = %s where id = %s", QUICK.hash(PASSWORD), person.id)
        if role is not None:
            await add_member(self.pool, self.place.workspace_id, person.id, role)
        return person

    async def signed_in(self, email: str, role: str | None = "member") -> Browser:
        await self.add_person(email, role)
        browser = self.browser()
        assert await browser.sign_in(email) == 200
        return browser

    async def link_token(self, account: str = "ou_eve") -> str:
        prompts = BindingPrompts(PostgresBindingStore(self.pool), public_url="https://gateway.example")
        question = await prompts.compose(self.installation_id, account)
        assert question is not None
        return question.text.rpartition("token=")[2]

    async def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await query(self.pool, statement, *values)


def page_words(language: str) -> dict[str, str]:
    """What the pages say where Lark is the only platform."""
    name = TITLES.get(language, TITLES["en"])
    return {key: text.replace("{platform}", name) for key, text in words_of(language).items()}


def open_workplace(pool: Pool, metrics: Metrics) -> Workplace:
    issues = IssueService(PostgresIssueStore(pool))
    dispatcher = AutopilotDispatcher(PostgresDispatchStore(pool), issues, recorder=metrics)
    autopilots = AutopilotService(PostgresAutopilotStore(pool), dispatcher, recorder=metrics)
    return Workplace(TeamService(PostgresTeamStore(pool), PostgresDirectoryStore(pool)), autopilots)


@dataclass
class Introductions:
    """What the platform tells of names, and who was asked about."""

    told: Introduction = field(default_factory=Introduction)
    asked: list[tuple[str, UUID, str]] = field(default_factory=list)

    async def of(self, channel_type: str, installation_id: UUID, account_id: str) -> Introduction:
        self.asked.append((channel_type, installation_id, account_id))
        return self.told


async def open_office(
    pool: Pool,
    *,
    introductions: Introductions | None = None,
    platforms: Sequence[Mapping[str, str]] = (TITLES,),
    attachments: Attachments | None = None,
    **settings: Any,
) -> Office:
    place = await add_place(pool)
    directory = Directory(PostgresDirectoryStore(pool))
    accounts = Accounts(PostgresAccountStore(pool), passwords=QUICK)
    metrics = Metrics()
    chats = ChatService(PostgresChatStore(pool), recorder=metrics)
    people = People(
        accounts,
        directory,
        bindings=BindingService(PostgresBindingStore(pool), (introductions or Introductions()).of),
        chats=chats,
        outgoing=OutgoingService(PostgresOutgoingStore(pool)),
        issues=PostgresIssuePages(pool),
        feed=Feed(),
        workplace=open_workplace(pool, metrics),
        platforms=platforms,
        **settings,
    )
    tasks = TaskService(PostgresTaskStore(pool), Topics())
    app = create_app(Services(directory.authenticate, tasks, Readiness(), metrics, people, attachments))
    return Office(pool, place, await add_installation(pool, place), people, app, metrics)
