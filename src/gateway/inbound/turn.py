"""One message of a member in its conversation, about to be appended."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from gateway.channel.message import ChatType, InboundMessage, Source
from gateway.core.replies import Reply, say
from gateway.inbound.ports import Claim, Installation, UserMessage
from gateway.work.tasks.notices import Notice, notice_key
from gateway.work.tasks.sessions import Queueing


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything that is known of the message by now. `row_id` is the id of the row it becomes."""

    message: InboundMessage
    installation: Installation
    author_id: UUID
    session_id: UUID
    claim: Claim | None
    row_id: UUID

    def entry(self) -> UserMessage:
        """The message as it is appended."""
        return UserMessage(
            id=self.row_id,
            session_id=self.session_id,
            author_id=self.author_id,
            text=self.message.text,
            message_id=self.message.message_id,
            thread_id=thread_of(self.message.source),
            sent_at=self.message.sent_at,
            fresh=self.message.force_fresh,
            quoted_id=quoted_by(self.message),
            bundle=self.message.bundle,
            media=self.message.media,
        )

    def say(self, reply: Reply, **values: object) -> Notice:
        """A reply to the message in the workspace's language."""
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

    def obstacles(self) -> dict[Queueing, Notice]:
        """What the conversation is told when nobody takes its messages up. One that was put away stays silent."""
        return {
            Queueing.RUNTIME_SILENT: self.say(Reply.AGENT_OFFLINE),
            Queueing.AGENT_OFFLINE: self.say(Reply.AGENT_OFFLINE),
            Queueing.AGENT_ARCHIVED: self.say(Reply.AGENT_ARCHIVED),
        }


def words_of(message: InboundMessage) -> str:
    """The sender's own words: what a command is read from."""
    return message.command_text or message.text


def quoted_by(message: InboundMessage) -> str:
    """The platform's id of the message that this one answers to, "" when it answers to none.

    Inside a topic everything hangs on the topic's first message: that is the place, not a quote.
    """
    reply = message.reply_to
    if reply is None or (thread_of(message.source) and reply.message_id == reply.root_id):
        return ""
    return reply.message_id


def thread_of(source: Source) -> str:
    """Where an answer belongs: a topic of a group. In a direct chat a stray thread id is ignored, as in its key."""
    return source.thread_id if source.chat_type is ChatType.GROUP else ""
