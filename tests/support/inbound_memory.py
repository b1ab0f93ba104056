"""The inbound path's store in memory: the same promises as Postgres, for tests that need neither server nor time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import trio

from gateway.core.claim import ClaimAnswer, ClaimRow, ClaimStep, answer_to_refused, step
from gateway.errors import RemoteProtocolError
from gateway.inbound.ports import (
    PROMPT_SECONDS,
    Confirmed,
    Conversation,
    Drop,
    HeldCommand,
    Identity,
    InboundInstallation,
    MessageClaim,
    PlainMessage,
    SessionGone,
    UserMessage,
)
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.sessions import Queueing, judge_queueing
from support.inbound_backend import Bot, StoredIssue, StoredMessage, StoredNotice, StoredSession, StoredTask
from support.issue_memory import MemoryIssues


@dataclass
class _Agent:
    has_runtime: bool
    archived: bool
    heard: bool = True
    changes: int = 0
    """Whatever comes or goes begins another absence, or none."""

    @property
    def absence(self) -> tuple[str, int] | None:
        if self.archived:
            return "archived", self.changes
        if not self.has_runtime:
            return "no runtime", self.changes
        return None if self.heard else ("silent", self.changes)


@dataclass
class _Session:
    stored: StoredSession
    installation: InboundInstallation
    archived: bool = False
    generation: int = 0
    told: tuple[str, int] | None = None


@dataclass
class _Held:
    message_id: UUID
    words: str
    at: datetime
    quoted_id: str


@dataclass
class MemoryInbound:
    """Both the store (gateway.inbound.ports.InboundStore) and what is around it (inbound_backend.InboundBackend).

    Every call is a checkpoint first and then one step that nothing interrupts, which is what a transaction looks like
    from outside.
    """

    window_seconds: float = 3.0
    now: datetime = datetime(2026, 1, 5, 9, tzinfo=UTC)
    installations: dict[tuple[str, str], InboundInstallation] = field(default_factory=dict)
    agents: dict[UUID, _Agent] = field(default_factory=dict)
    bindings: dict[tuple[UUID, str], UUID] = field(default_factory=dict)
    members: set[tuple[UUID, UUID]] = field(default_factory=set)
    conversations: dict[tuple[UUID, str], UUID] = field(default_factory=dict)
    session_rows: dict[UUID, _Session] = field(default_factory=dict)
    claim_rows: dict[tuple[UUID, str], ClaimRow] = field(default_factory=dict)
    audit: list[Drop] = field(default_factory=list)
    prompt_rows: list[tuple[UUID, str]] = field(default_factory=list)
    prompted_at: dict[tuple[UUID, str], datetime] = field(default_factory=dict)
    message_rows: list[StoredMessage] = field(default_factory=list)
    task_rows: list[StoredTask] = field(default_factory=list)
    row_ids: list[UUID] = field(default_factory=list)
    own_messages: set[tuple[UUID, str]] = field(default_factory=set)
    held: dict[tuple[UUID, UUID], _Held] = field(default_factory=dict)
    issues: MemoryIssues = field(default_factory=MemoryIssues)

    def __post_init__(self) -> None:
        self.issues.queueing_of = self._queueing

    @property
    def store(self) -> MemoryInbound:
        return self

    # the store

    async def find_installation(self, channel_type: str, app_id: str) -> InboundInstallation | None:
        await trio.lowlevel.checkpoint()
        return self.installations.get((channel_type, app_id))

    async def claim(self, claim: MessageClaim) -> ClaimAnswer:
        await trio.lowlevel.checkpoint()
        return ClaimAnswer.TAKEN if self._step(claim, ClaimStep.CLAIM) else answer_to_refused(self._row(claim))

    async def is_processed(self, claim: MessageClaim) -> bool:
        await trio.lowlevel.checkpoint()
        return answer_to_refused(self._row(claim)) is ClaimAnswer.PROCESSED

    async def release(self, claim: MessageClaim) -> bool:
        await trio.lowlevel.checkpoint()
        return self._step(claim, ClaimStep.RELEASE)

    async def record_drop(self, drop: Drop, claim: MessageClaim | None) -> bool:
        await trio.lowlevel.checkpoint()
        if claim is not None and not self._step(claim, ClaimStep.MARK):
            return False
        self.audit.append(drop)
        self._ask(drop)
        return True

    def _ask(self, drop: Drop) -> None:
        if drop.asked_to_bind is None or drop.installation_id is None:
            return
        key = (drop.installation_id, drop.asked_to_bind)
        if key in self.prompted_at and self.now - self.prompted_at[key] < timedelta(seconds=PROMPT_SECONDS):
            return
        self.prompted_at[key] = self.now
        self.prompt_rows.append(key)

    async def is_own_message(self, installation_id: UUID, message_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        return (installation_id, message_id) in self.own_messages

    async def find_identity(self, installation: InboundInstallation, sender_id: str) -> Identity | None:
        await trio.lowlevel.checkpoint()
        user_id = self.bindings.get((installation.id, sender_id))
        return None if user_id is None else Identity(user_id, (installation.workspace_id, user_id) in self.members)

    async def ensure_session(self, conversation: Conversation) -> UUID:
        await trio.lowlevel.checkpoint()
        key = (conversation.installation.id, conversation.key)
        session_id = self.conversations.get(key)
        if session_id is None or session_id not in self.session_rows:
            session_id = self.conversations[key] = uuid4()
            self.session_rows[session_id] = _Session(_stored(session_id, conversation), conversation.installation)
        return session_id

    async def append(
        self, message: UserMessage, claim: MessageClaim | None, notices: Mapping[Queueing, Notice]
    ) -> Queueing | None:
        await trio.lowlevel.checkpoint()
        _check(message.text)
        if not self._begin(message.session_id, claim):
            return None
        queueing = self._append(message)
        if queueing in notices and self._untold(self.session_rows[message.session_id]):
            self._send(notices[queueing])
        return queueing

    def _untold(self, session: _Session) -> bool:
        before, session.told = session.told, self.agents[session.installation.agent_id].absence
        return session.told != before

    async def append_command(
        self, message: UserMessage, claim: MessageClaim | None, *, notice: Notice | None, held_words: str | None
    ) -> bool:
        await trio.lowlevel.checkpoint()
        _check(message.text)
        if not self._begin(message.session_id, claim):
            return False
        self._write(message, "channel_command")
        if held_words is not None:
            self.held[(message.session_id, message.author_id)] = _Held(
                message.id, held_words, self.now, message.quoted_id
            )
        if notice is not None:
            self._send(notice)
        return True

    async def start_fresh(self, session_id: UUID, author_id: UUID, claim: MessageClaim | None, notice: Notice) -> bool:
        await trio.lowlevel.checkpoint()
        if not self._begin(session_id, claim):
            return False
        self.session_rows[session_id].generation += 1
        self.held.pop((session_id, author_id), None)
        self._send(notice)
        return True

    async def confirm(
        self, message: UserMessage, claim: MessageClaim | None, *, held_seconds: float, otherwise: Notice
    ) -> Confirmed | None:
        await trio.lowlevel.checkpoint()
        if not self._begin(message.session_id, claim):
            return None
        held = self._take_held(message, held_seconds)
        self._write(message, "channel_command")
        if held is None:
            self._send(otherwise)
        return Confirmed(held)

    async def find_former_words(self, session_id: UUID, author_id: UUID, *, before: UUID | None) -> str:
        await trio.lowlevel.checkpoint()
        rows = self.message_rows if before is None else self.message_rows[: self.row_ids.index(before)]
        said = [row.content for row in rows if (row.session_id, row.author_id) == (session_id, author_id)]
        return said[-1] if said else ""

    async def age_of(self, sent_at: datetime) -> float:
        await trio.lowlevel.checkpoint()
        return (self.now - sent_at).total_seconds()

    def _begin(self, session_id: UUID, claim: MessageClaim | None) -> bool:
        if session_id not in self.session_rows:
            raise SessionGone("the session was deleted before its message could be written")
        return claim is None or self._step(claim, ClaimStep.MARK)

    def _take_held(self, message: UserMessage, held_seconds: float) -> HeldCommand | None:
        held = self.held.pop((message.session_id, message.author_id), None)
        if held is None or (self.now - held.at).total_seconds() >= held_seconds:
            return None
        place = self.row_ids.index(held.message_id)
        said_since = {(row.session_id, row.author_id) for row in self.message_rows[place + 1 :]}
        if (message.session_id, message.author_id) in said_since:
            return None
        return HeldCommand(held.message_id, held.words, self.message_rows[place].content, held.quoted_id)

    def _send(self, notice: Notice) -> None:
        self.issues.notices.setdefault(notice.key, notice)

    async def ingest(self, messages: Sequence[PlainMessage]) -> Mapping[UUID, Queueing]:
        await trio.lowlevel.checkpoint()
        for message in messages:
            _check(message.text)
        taken = ((message.token, self._ingest(message)) for message in messages)
        return {token: queueing for token, queueing in taken if queueing is not None}

    def _ingest(self, message: PlainMessage) -> Queueing | None:
        installation = self.installations.get((message.channel_type, message.app_id))
        if installation is None or installation.revoked:
            return None
        user_id = self.bindings.get((installation.id, message.sender_id))
        session_id = self.conversations.get((installation.id, message.session_key))
        session = self.session_rows.get(session_id) if session_id else None
        if user_id is None or session_id is None or session is None or session.archived:
            return None
        agent = self.agents[installation.agent_id]
        member = (installation.workspace_id, user_id) in self.members
        claim = MessageClaim(installation.id, message.message_id, message.token)
        if not member or agent.archived or not agent.has_runtime or self._row(claim) is not None:
            return None
        if agent.absence not in {None, session.told}:
            return None
        self.claim_rows[(claim.installation_id, claim.message_id)] = ClaimRow(message.token, self.now, self.now)
        return self._append(
            UserMessage(
                message.token,
                session_id,
                user_id,
                message.text,
                message.message_id,
                message.thread_id,
                message.sent_at,
            )
        )

    def _append(self, message: UserMessage) -> Queueing:
        session = self.session_rows[message.session_id]
        self._write(message, "text")
        queueing = self._queueing(session.installation.agent_id, session_archived=session.archived)
        if queueing in {Queueing.QUEUED, Queueing.RUNTIME_SILENT, Queueing.AGENT_OFFLINE}:
            self._enqueue(message)
        return queueing

    def _write(self, message: UserMessage, kind: str) -> None:
        session = self.session_rows[message.session_id]
        session.generation += message.fresh
        self.message_rows.append(
            StoredMessage(message.session_id, message.author_id, message.text, kind, session.generation)
        )
        self.row_ids.append(message.id)
        if message.message_id:
            session.stored = replace(
                session.stored, last_message_id=message.message_id, last_thread_id=message.thread_id or None
            )

    def _queueing(self, agent_id: UUID, *, session_archived: bool = False) -> Queueing:
        agent = self.agents[agent_id]
        return judge_queueing(
            agent_archived=agent.archived,
            session_archived=session_archived,
            has_runtime=agent.has_runtime,
            runtime_heard=agent.heard,
        )

    def _enqueue(self, message: UserMessage) -> None:
        task = StoredTask(message.session_id, message.author_id, "queued", self.window_seconds)
        for index, row in enumerate(self.task_rows):
            if row.session_id == message.session_id and row.status == "queued":
                self.task_rows[index] = task
                return
        self.task_rows.append(task)

    def _row(self, claim: MessageClaim) -> ClaimRow | None:
        return self.claim_rows.get((claim.installation_id, claim.message_id))

    def _step(self, claim: MessageClaim, action: ClaimStep) -> bool:
        row, changed = step(self._row(claim), action, claim.token, now=self.now)
        key = (claim.installation_id, claim.message_id)
        if row is None:
            self.claim_rows.pop(key, None)
        else:
            self.claim_rows[key] = row
        return changed

    # what is around the store

    async def add_bot(
        self,
        app_id: str = "cli_a",
        *,
        revoked: bool = False,
        allow_bots: bool = False,
        has_runtime: bool = True,
        archived: bool = False,
        language: str = "en",
    ) -> Bot:
        installer = uuid4()
        installation = InboundInstallation(uuid4(), uuid4(), uuid4(), installer, revoked, allow_bots, language)
        self.issues.prefixes[installation.workspace_id] = "W"
        self.installations[("feishu", app_id)] = installation
        self.agents[installation.agent_id] = _Agent(has_runtime, archived)
        return Bot(installation.id, installation.workspace_id, installation.agent_id, installer, app_id)

    async def bind(self, bot: Bot, sender_id: str, *, member: bool = True) -> UUID:
        user_id = uuid4()
        self.bindings[(bot.installation_id, sender_id)] = user_id
        if member:
            self.members.add((bot.workspace_id, user_id))
        return user_id

    async def speak(self, bot: Bot, message_id: str) -> None:
        self.own_messages.add((bot.installation_id, message_id))

    async def remove_member(self, bot: Bot, user_id: UUID) -> None:
        self.members.discard((bot.workspace_id, user_id))

    async def archive_agent(self, bot: Bot, *, archived: bool = True) -> None:
        self._change(bot).archived = archived

    async def set_runtime(self, bot: Bot, *, there: bool) -> None:
        self._change(bot).has_runtime = there

    async def hear_runtime(self, bot: Bot, *, heard: bool) -> None:
        self._change(bot).heard = heard

    def _change(self, bot: Bot) -> _Agent:
        agent = self.agents[bot.agent_id]
        agent.changes += 1
        return agent

    async def archive_sessions(self) -> None:
        for session in self.session_rows.values():
            session.archived = True

    async def delete_sessions(self) -> None:
        self.session_rows.clear()
        self.message_rows.clear()
        self.row_ids.clear()
        self.task_rows.clear()

    async def start_tasks(self) -> None:
        self.task_rows = [replace(task, status="running") for task in self.task_rows]

    async def age_claims(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def age_held(self, seconds: float) -> None:
        for held in self.held.values():
            held.at -= timedelta(seconds=seconds)

    async def sent(self, seconds_ago: float) -> datetime:
        return self.now - timedelta(seconds=seconds_ago)

    async def claims(self) -> dict[tuple[UUID, str], ClaimRow]:
        return dict(self.claim_rows)

    async def drops(self) -> list[tuple[UUID | None, str, str]]:
        return [(drop.installation_id, drop.message_id, drop.reason.value) for drop in self.audit]

    async def age_prompts(self, seconds: float) -> None:
        self.prompted_at = {key: at - timedelta(seconds=seconds) for key, at in self.prompted_at.items()}

    async def prompts(self) -> list[tuple[UUID, str]]:
        return list(self.prompt_rows)

    async def messages(self) -> list[StoredMessage]:
        return list(self.message_rows)

    async def sessions(self) -> list[StoredSession]:
        return [session.stored for session in self.session_rows.values()]

    async def tasks(self) -> list[StoredTask]:
        return list(self.task_rows)

    async def filed(self) -> list[StoredIssue]:
        runs = [issue_id for issue_id, _ in self.issues.runs]
        return [
            StoredIssue(
                issue.number, draft.title, draft.description, draft.creator_id, draft.origin_id, runs.count(issue.id)
            )
            for draft, issue in self.issues.issues
        ]

    async def notices(self) -> list[StoredNotice]:
        return [
            StoredNotice(notice.chat_id, notice.message_id, notice.thread_id, notice.text)
            for notice in self.issues.notices.values()
        ]


def _stored(session_id: UUID, conversation: Conversation) -> StoredSession:
    return StoredSession(
        id=session_id,
        creator_id=conversation.creator_id,
        title=conversation.title,
        key=conversation.key,
        config={} if conversation.chat_id == conversation.key else {"chat_id": conversation.chat_id},
        last_message_id=None,
        last_thread_id=None,
    )


def _check(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RemoteProtocolError("not Unicode") from None
    if "\0" in text:
        raise RemoteProtocolError("a NUL")
