"""What the inbound path needs from a store, and the records they exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.channel.message import MediaRef
from gateway.core.claim import ClaimAnswer
from gateway.core.inbound import DropReason, Outcome
from gateway.errors import StoreConflict
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.sessions import Queueing

OutcomeObserver = Callable[[str, Outcome, DropReason | None], None]
"""Told of every decided message, and its channel type, for metrics. Must not raise."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A bot, as far as the inbound path cares."""

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    installer_user_id: UUID | None
    revoked: bool
    allow_bots: bool
    language: str = "en"
    """The workspace's, in which people of it are spoken to."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a platform's person is here, and whether they belong to the workspace at this moment."""

    user_id: UUID
    is_member: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim held by this worker. Only `token` may finish it."""

    installation_id: UUID
    message_id: str
    token: UUID


@dataclass(frozen=True, slots=True)
class Drop:
    """An audit row. Names and ids only: there is no field for content."""

    installation_id: UUID | None
    channel_type: str
    chat_id: str
    event_type: str
    event_id: str
    message_id: str
    reason: DropReason
    asked_to_bind: str | None = None
    """The sender, where they are to be asked to bind their account; None: nobody is asked."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a session is found by, or made from.

    `key` names the conversation; `chat_id` is the platform's chat, which differs from the key for a topic of a group.
    """

    installation: Installation
    channel_type: str
    key: str
    chat_id: str
    group: bool
    creator_id: UUID | None
    title: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A message to append to a session. An empty `message_id` leaves the session's reply target alone.

    A `fresh` one begins a new generation of the conversation. `quoted_id` names the message it answers to, a `bundle`
    wraps forwarded ones: both are looked up when a run takes the message in. `media` are the files it carries, which
    are fetched later; with `media_of` it also takes over those of that former message.
    """

    id: UUID
    session_id: UUID
    author_id: UUID
    text: str = field(repr=False)
    message_id: str
    thread_id: str
    sent_at: datetime | None
    fresh: bool = False
    quoted_id: str = ""
    bundle: bool = False
    media: tuple[MediaRef, ...] = ()
    media_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class HeldCommand:
    """A command as it was kept: the row it came with, the sender's own words, and the whole message."""

    message_id: UUID
    words: str = field(repr=False)
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a confirmation found; None when nothing was held, or something was said in between."""

    held: HeldCommand | None


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """A message that can be taken in by one statement, if its sender, session and claim allow it.

    `token` is fresh: the claim's, and the id of the row it becomes.
    """

    token: UUID
    channel_type: str
    app_id: str
    message_id: str
    session_key: str
    sender_id: str
    thread_id: str
    text: str = field(repr=False)
    sent_at: datetime | None
    quoted_id: str = ""
    bundle: bool = False


class SessionGone(StoreConflict):
    """The conversation's session was deleted before anything could be written to it; nothing was."""


class IngestStore(Protocol):
    """The fused path's store."""

    async def ingest(self, messages: Sequence[PlainMessage]) -> Mapping[UUID, Queueing]:
        """Take in what can be taken in, all of it in one atomic statement; by token, those that were.

        A message that is missing from the answer left no trace: it is a duplicate, is to be dropped, lacks a session,
        or its session is busy. The two-phase path decides which. Order within a session is the order given.
        Raises StoreUnavailable; StoreConflict when somebody stood in the way for longer than all the others can wait;
        RemoteProtocolError when a text is not Unicode. Any error means none was taken in.
        """


class InboundStore(IngestStore, Protocol):
    """The two-phase path's store. Every call is one transaction of its own and raises StoreUnavailable.

    A cancelled call leaves no open transaction behind; whether it committed is then unknown.
    """

    async def find_installation(self, channel_type: str, app_id: str) -> Installation | None: ...

    async def claim(self, claim: Claim) -> ClaimAnswer:
        """Insert the claim, or retake one that was left in flight for 60 s by the database clock."""

    async def is_processed(self, claim: Claim) -> bool:
        """Whether the message's outcome is committed, by whichever worker."""

    async def release(self, claim: Claim) -> bool:
        """Give the claim back; False when it is not ours any more, or already processed."""

    async def record_drop(self, drop: Drop, claim: Claim | None) -> bool:
        """Write the audit row, mark the claim and queue the question to bind: all or nothing; False for a lost claim.

        Nobody is asked again within 5 min by the database clock, nor while their last question waits to be sent.
        """

    async def find_identity(self, installation: Installation, sender_id: str) -> Identity | None:
        """None when the sender is not bound to anybody."""

    async def ensure_session(self, conversation: Conversation) -> UUID:
        """Find the conversation's session or make it. Two that race get the same one."""

    async def append(
        self, message: UserMessage, claim: Claim | None, notices: Mapping[Queueing, Notice]
    ) -> Queueing | None:
        """In one transaction: the message, the session's reply target, the mark, the queued run, the notice for it.

        A notice is written for the first message that meets an absence of the agent: a conversation is told once that
        nobody runs it, and once again only if somebody did in between. None when the claim was lost: then nothing was
        written. Raises SessionGone, as all do that write to a session.
        """

    async def append_command(
        self, message: UserMessage, claim: Claim | None, *, notice: Notice | None, held_words: str | None
    ) -> bool:
        """As `append`, for a message that no run consumes. False when the claim was lost.

        With `held_words` the command is held for its sender in this session, in place of an earlier one.
        """

    async def start_fresh(self, session_id: UUID, author_id: UUID, claim: Claim | None, notice: Notice) -> bool:
        """Begin a new generation without a message. What the author has held is dropped. False: the claim was lost."""

    async def confirm(
        self, message: UserMessage, claim: Claim | None, *, held_seconds: float, otherwise: Notice
    ) -> Confirmed | None:
        """Append the confirmation as a command, and take what its author has held for at most `held_seconds`.

        Only if nothing was said by them since; else the notice is written. None when the claim was lost.
        """

    async def find_former_words(self, session_id: UUID, author_id: UUID, *, before: UUID | None) -> str:
        """What the author said last in the session, or last before that message; empty when nothing."""

    async def age_of(self, sent_at: datetime) -> float:
        """Seconds since then, by the database's clock."""


class TextCommitter(Protocol):
    """The fused path, as the pipeline sees it."""

    async def submit(self, message: PlainMessage) -> Queueing | None:
        """None when it was not taken in and left no trace. Raises what the store raised for this message."""
