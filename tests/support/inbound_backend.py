"""What the inbound suite needs around a store, whichever it is: to prepare it, and to look at what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import trio

from gateway.channel.message import ChatType, InboundMessage, MessageType, Source
from gateway.core.claim import ClaimRow
from gateway.core.inbound import DropReason, InboundOutcome, Settlement
from gateway.inbound.commands import CommandService
from gateway.inbound.committer import Committer, run_committer
from gateway.inbound.pipeline import InboundPipeline
from gateway.inbound.ports import InboundStore
from gateway.work.issues.issues import IssueService, IssueStore
from gateway.work.tasks.ports import ConversationPlace
from support.recording import Recording


@dataclass(frozen=True)
class Bot:
    installation_id: UUID
    workspace_id: UUID
    agent_id: UUID
    installer_id: UUID
    app_id: str


@dataclass(frozen=True)
class StoredMessage:
    session_id: UUID
    author_id: UUID | None
    content: str
    kind: str = "text"
    generation: int = 0


@dataclass(frozen=True)
class StoredIssue:
    number: int
    title: str
    description: str
    creator_id: UUID | None
    origin_id: UUID | None
    runs: int


@dataclass(frozen=True)
class StoredNotice:
    chat_id: str
    reply_to: str
    thread_id: str
    text: str


@dataclass(frozen=True)
class StoredSession:
    id: UUID
    creator_id: UUID | None
    title: str
    key: str
    config: dict[str, Any]
    last_message_id: str | None
    last_thread_id: str | None


@dataclass(frozen=True)
class StoredTask:
    session_id: UUID
    initiator_id: UUID | None
    status: str
    wait_seconds: float


class InboundBackend(Protocol):
    """A store, and what is around it. Tasks and messages come back in the order they were written."""

    @property
    def store(self) -> InboundStore: ...

    @property
    def issues(self) -> IssueStore: ...

    async def add_bot(
        self,
        app_id: str = "cli_a",
        *,
        revoked: bool = False,
        allow_bots: bool = False,
        has_runtime: bool = True,
        archived: bool = False,
        language: str = "en",
    ) -> Bot: ...

    async def bind(self, bot: Bot, sender_id: str, *, member: bool = True) -> UUID: ...
    async def speak(self, bot: Bot, message_id: str) -> None:
        """The bot has sent a message, which the platform gave this id."""

    async def remove_member(self, bot: Bot, user_id: UUID) -> None: ...
    async def archive_agent(self, bot: Bot, *, archived: bool = True) -> None: ...
    async def set_runtime(self, bot: Bot, *, there: bool) -> None:
        """The agent gets a runtime that lives, or has its runtime taken away."""

    async def hear_runtime(self, bot: Bot, *, heard: bool) -> None:
        """The agent's runtime gives a sign of life, or gave its last one longer ago than the silence limit."""

    async def archive_sessions(self) -> None: ...
    async def delete_sessions(self) -> None: ...
    async def start_tasks(self) -> None: ...
    async def age_claims(self, seconds: float) -> None: ...
    async def age_held(self, seconds: float) -> None: ...

    async def sent(self, seconds_ago: float) -> datetime:
        """A time that is so long ago by the store's clock."""

    async def claims(self) -> dict[tuple[UUID, str], ClaimRow]: ...
    async def drops(self) -> list[tuple[UUID | None, str, str]]: ...
    async def age_prompts(self, seconds: float) -> None:
        """Let time pass for those who were asked to bind, and their questions be sent."""

    async def prompts(self) -> list[tuple[UUID, str]]:
        """Who was asked to bind: (installation, account), oldest first."""

    async def messages(self) -> list[StoredMessage]: ...
    async def sessions(self) -> list[StoredSession]: ...
    async def tasks(self) -> list[StoredTask]:
        """The runs of conversations."""

    async def filed(self) -> list[StoredIssue]: ...
    async def notices(self) -> list[StoredNotice]: ...


class _Watched(InboundPipeline):
    """A pipeline that keeps the outcomes it decided."""

    def __init__(self, *services: Any, **options: Any) -> None:
        super().__init__(*services, **options)
        self.outcomes: list[tuple[InboundOutcome, DropReason | None]] = []

    async def decide(self, message: InboundMessage) -> Settlement:
        settlement = await super().decide(message)
        self.outcomes.append((settlement.outcome, settlement.reason))
        return settlement


class ObservedPipeline:
    """A pipeline, the outcomes it decided, what it counted, and the ids of the messages that it gave to runs."""

    def __init__(
        self, store: InboundStore, committer: Committer | None, commands: CommandService | None = None
    ) -> None:
        self.ingested: list[str] = []
        self.recorder = Recording()
        pipeline = _Watched(store, committer, commands, recorder=self.recorder, ingested=self._ingest)
        self.outcomes = pipeline.outcomes
        self.receive = pipeline.receive

    def _ingest(self, message: InboundMessage) -> None:
        self.ingested.append(message.message_id)


@asynccontextmanager
async def open_pipeline(
    store: InboundStore, *, fused: bool, issues: IssueStore | None = None, quotes: Mapping[str, str] | None = None
) -> AsyncIterator[ObservedPipeline]:
    """A pipeline on `store`, with a committer behind it when `fused`, that takes commands when given `issues`.

    `quotes` are the words that the platform gives for messages, by their ids.
    """
    async with trio.open_nursery() as nursery:
        committer = None
        if fused:
            committer = Committer()
            await nursery.start(run_committer, committer, store)
        yield ObservedPipeline(store, committer, None if issues is None else _commands(store, issues, quotes or {}))
        nursery.cancel_scope.cancel()


def _commands(store: InboundStore, issues: IssueStore, quotes: Mapping[str, str]) -> CommandService:
    async def quote_of(place: ConversationPlace, message_id: str) -> str:
        await trio.lowlevel.checkpoint()
        return quotes.get(message_id, "")

    return CommandService(store, IssueService(issues), public_url="https://gateway.example.test", quote_of=quote_of)


def direct(message_id: str = "om_1", text: str = "hello", *, sender: str = "ou_ann", **changes: Any) -> InboundMessage:
    """A text in a conversation of two."""
    fields: dict[str, Any] = {
        "app_id": "cli_a",
        "event_id": f"ev_{message_id}",
        "message_id": message_id,
        "source": Source("feishu", f"oc_{sender}", ChatType.P2P, sender),
        "type": MessageType.TEXT,
        "text": text,
        "event_type": "im.message.receive_v1",
        **changes,
    }
    return InboundMessage(**fields)


def grouped(message_id: str = "om_1", text: str = "hello", *, thread: str = "", **changes: Any) -> InboundMessage:
    """A text in a group, addressed to the bot unless said otherwise."""
    source = Source("feishu", "oc_team", ChatType.GROUP, changes.pop("sender", "ou_ann"), thread_id=thread)
    return direct(message_id, text, **{"source": source, "addressed_to_bot": True, **changes})
