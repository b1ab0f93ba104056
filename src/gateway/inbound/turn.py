"""A member's message, with its conversation, about to be appended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from gateway.channel.message import ChatType, InboundMessage, Source
from gateway.core.replies import Reply, say
from gateway.inbound.ports import InboundInstallation, MessageClaim, UserMessage
from gateway.work.tasks.notices import Notice, notice_key
from gateway.work.tasks.ports import ConversationPlace
from gateway.work.tasks.sessions import Queueing


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything known about a message just before it is appended. `row_id` is the id of the row that it becomes."""

    message: InboundMessage
    installation: InboundInstallation
    author_id: UUID
    session_id: UUID
    claim: MessageClaim | None
    row_id: UUID

    @property
    def place(self) -> ConversationPlace:
        """The conversation, for look-ups of its messages."""
        source = self.message.source
        return ConversationPlace(
            installation_id=self.installation.id,
            channel_type=source.channel_type,
            chat_id=source.chat_id,
            thread_id=thread_of(source),
            is_group=source.chat_type is ChatType.GROUP,
        )

    def entry(self) -> UserMessage:
        """Return the message in the form in which it is appended."""
        return UserMessage(
            id=self.row_id,
            session_id=self.session_id,
            author_id=self.author_id,
            text=self.message.text,
            message_id=self.message.message_id,
            thread_id=thread_of(self.message.source),
            sent_at=self.message.sent_at,
            quoted_id=quoted_by(self.message),
            bundle=self.message.bundle,
            media=self.message.media,
        )

    def say(self, reply: Reply, **values: object) -> Notice:
        """Make a reply to the message, in the workspace's language."""
        return self.notice(say(reply, self.installation.language, **values))

    def notice(self, text: str) -> Notice:
        message_id = self.message.message_id
        return Notice(
            workspace_id=self.installation.workspace_id,
            installation_id=self.installation.id,
            session_id=self.session_id,
            chat_id=self.message.source.chat_id,
            thread_id=thread_of(self.message.source),
            message_id=message_id,
            key=notice_key(self.installation.id, message_id) if message_id else self.row_id,
            text=text,
        )

    def absence_notices(self) -> dict[Queueing, Notice]:
        """Return the notices for a conversation whose agent is absent. An archived conversation gets no notice."""
        return {
            Queueing.RUNTIME_SILENT: replace(self.say(Reply.AGENT_OFFLINE), headed=True),
            Queueing.AGENT_OFFLINE: replace(self.say(Reply.AGENT_OFFLINE), headed=True),
            Queueing.AGENT_ARCHIVED: replace(self.say(Reply.AGENT_ARCHIVED), headed=True),
        }


def words_of(message: InboundMessage) -> str:
    """Return the sender's own words. Commands are parsed from these."""
    return message.command_text or message.text


def quoted_by(message: InboundMessage) -> str:
    """Return the platform's id of the message that this one quotes, or "" when it quotes none.

    Inside a topic every message refers to the topic's first one. Such a reference names the topic and is no quote. A
    message whose words were withheld counts as quoting itself, so that they are looked up.
    """
    if message.withheld:
        return message.message_id
    reply = message.reply_to
    if reply is None or (thread_of(message.source) and reply.message_id == reply.root_id):
        return ""
    return reply.message_id


def thread_of(source: Source) -> str:
    """Return the id of the group topic that an answer belongs to, or "" outside a topic.

    A direct chat has no topics: a stray thread id is ignored there, as it is in the session key.
    """
    return source.thread_id if source.chat_type is ChatType.GROUP else ""
