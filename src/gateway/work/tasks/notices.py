"""Notices: messages of the gateway itself to a chat.

A notice is written in the transaction of the change it reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import NAMESPACE_OID, UUID, uuid5


@dataclass(frozen=True, slots=True)
class Notice:
    """A reply to one message. With an empty `message_id` it is a message of its own, not a reply.

    `key` identifies the notice for ever. `chat_id` is the platform's chat, `thread_id` a topic of it.
    """

    workspace_id: UUID
    installation_id: UUID
    session_id: UUID
    chat_id: str
    thread_id: str
    message_id: str
    key: UUID
    text: str = field(repr=False)
    headed: bool = False
    """True if the agent's name stands above the words, where a platform can show that."""


def notice_key(installation_id: UUID, message_id: str) -> UUID:
    """Return the key of a message's only notice. It is the same each time, also after a crash or a redelivery."""
    return uuid5(NAMESPACE_OID, f"notice|{installation_id}|{message_id}")
