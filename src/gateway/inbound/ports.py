"""The store interfaces of the inbound path, and the records that pass through them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.channel.message import MediaRef
from gateway.core.claim import ClaimAnswer
from gateway.core.inbound import DropReason
from gateway.errors import StoreConflict
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.ports import ConversationPlace
from gateway.work.tasks.sessions import Queueing

PROMPT_SECONDS = 300.0
"""A sender who is not bound is asked to bind at most once in this time."""


@dataclass(frozen=True, slots=True)
class InboundInstallation:
    """The fields of a bot that the inbound path reads."""

    id: UUID
    workspace_id: UUID
    agent_id: UUID
    installer_user_id: UUID | None
    revoked: bool
    allow_bots: bool
    language: str = "en"
    """The workspace's language, used for everything the gateway says to its people."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that a platform account is bound to. `is_member`: they belong to the workspace at this moment."""

    user_id: UUID
    is_member: bool


@dataclass(frozen=True, slots=True)
class MessageClaim:
    """A claim held by this worker. Only the holder of `token` can mark or release it."""

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
    """The sender's platform account, if the sender is to be asked to bind it. None when no question is sent."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The fields that a session is found by or created from.

    `key` names the conversation. `chat_id` is the platform's chat, which differs from the key for a topic of a group.
    """

    installation: InboundInstallation
    channel_type: str
    key: str
    chat_id: str
    group: bool
    creator_id: UUID | None
    title: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A message to append to a session. An empty `message_id` leaves the session's reply target alone.

    A `fresh` message begins a new generation of the conversation. `quoted_id` names the message that it quotes. A
    `bundle` contains forwarded messages. Both are looked up when a run takes the message in. `media` are the files of
    the message, which are fetched later. With `media_of` the message also takes over the files of that earlier message.
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
    """A stored command: the id of its message, the sender's own words, and the text of the whole message.

    `quoted_id` names the message that it answers, "" if it answers none.
    """

    message_id: UUID
    words: str = field(repr=False)
    body: str = field(repr=False)
    quoted_id: str = ""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The command that a `/confirm` found. None when none was held, or when its sender said something in between."""

    held: HeldCommand | None


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """A message that one statement can take in, if its sender, session and claim allow it.

    `token` is a new id. It becomes both the claim's token and the id of the message's row.
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
    """The conversation's session was deleted before the message was written. Nothing was written."""


class IngestStore(Protocol):
    """The store of the fused path, which takes in many messages in one statement."""

    async def ingest(self, messages: Sequence[PlainMessage]) -> Mapping[UUID, Queueing]:
        """Take in every message that can be taken in, in one atomic statement. Return those, by token.

        A message that is missing from the answer left no trace. It is a duplicate, or it is to be dropped, or it has no
        session yet, or its session is locked. The two-phase path decides which. Within a session the given order is
        kept. Raises StoreUnavailable. Raises StoreConflict when another transaction held a row lock for longer than the
        other messages can wait. Raises RemoteProtocolError when a text is not Unicode. After any error no message was
        taken in.
        """


class InboundStore(IngestStore, Protocol):
    """The store of the two-phase path. Every call is a transaction of its own and raises StoreUnavailable.

    A cancelled call leaves no open transaction behind. It is then unknown if the call committed.
    """

    async def find_installation(self, channel_type: str, app_id: str) -> InboundInstallation | None: ...

    async def claim(self, claim: MessageClaim) -> ClaimAnswer:
        """Insert the claim, or take over one that was left in flight for STALE_AFTER by the database clock."""

    async def is_processed(self, claim: MessageClaim) -> bool:
        """True if the message's outcome is committed, by this worker or another one."""

    async def release(self, claim: MessageClaim) -> bool:
        """Give the claim back. False when this worker no longer holds it, or when it is already processed."""

    async def record_drop(self, drop: Drop, claim: MessageClaim | None) -> bool:
        """Write the audit row, mark the claim and queue the question to bind, all or none.

        False when the claim was lost. A sender is asked at most once in PROMPT_SECONDS by the database clock, and never
        while the last question to that sender still waits to be sent.
        """

    async def is_own_message(self, installation_id: UUID, message_id: str) -> bool:
        """True if the bot sent the message with this id of the platform, as far as its messages are still kept."""

    async def find_identity(self, installation: InboundInstallation, sender_id: str) -> Identity | None:
        """Find the user that the sender's account is bound to. None when it is not bound."""

    async def ensure_session(self, conversation: Conversation) -> UUID:
        """Find the conversation's session or create it. Two callers that race get the same session."""

    async def append(
        self, message: UserMessage, claim: MessageClaim | None, notices: Mapping[Queueing, Notice]
    ) -> Queueing | None:
        """Write the message, the session's reply target, the claim's mark, the run and its notice, in one transaction.

        `notices` holds the notice for each absence of the agent. A notice is written only for the first message that
        meets the absence. The conversation is told again only if the agent came back in between.
        None when the claim was lost. Nothing was written then.
        Raises SessionGone, as every method does that writes to a session.
        """

    async def append_command(
        self, message: UserMessage, claim: MessageClaim | None, *, notice: Notice | None, held_words: str | None
    ) -> bool:
        """Write a message that no run consumes, otherwise as `append`. False when the claim was lost.

        With `held_words` the command is held for its sender in this session, in place of one that was held before.
        """

    async def start_fresh(self, session_id: UUID, author_id: UUID, claim: MessageClaim | None, notice: Notice) -> bool:
        """Begin a new generation without a message, and drop the author's held command.

        False when the claim was lost.
        """

    async def confirm(
        self, message: UserMessage, claim: MessageClaim | None, *, held_seconds: float, otherwise: Notice
    ) -> Confirmed | None:
        """Append the confirmation as a command, and take the command that is held for its author.

        The held command counts if it is at most `held_seconds` old and its author has said nothing since. If there is
        no such command, the notice `otherwise` is written. None when the claim was lost.
        """

    async def find_former_words(self, session_id: UUID, author_id: UUID, *, before: UUID | None) -> str:
        """Return the author's last words in the session, or the last before the message `before`.

        "" if there are none.
        """

    async def age_of(self, sent_at: datetime) -> float:
        """Return the seconds since `sent_at`, by the database's clock."""


QuoteOf = Callable[[ConversationPlace, str], Awaitable[str]]
"""(place, message id) → the words of that message, "" if they cannot be had. It takes 1.5 s at most, and never fails.

They are other people's words: they are stored only where a member asks for that.
"""


class TextCommitter(Protocol):
    """The pipeline's interface to the fused path."""

    async def submit(self, message: PlainMessage) -> Queueing | None:
        """Hand in a message. None when it was not taken in; it left no trace then.

        Raises the error that the store raised for this message.
        """
