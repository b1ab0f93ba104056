"""What the gateway itself says in a chat, addressed and ready to be written with whatever caused it."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import NAMESPACE_OID, UUID, uuid5


@dataclass(frozen=True, slots=True)
class Notice:
    """A reply to one message. An empty `message_id` makes it a message of its own; `key` names it for ever.

    `chat_id` is the platform's chat, `thread_id` a topic of it.
    """

    workspace_id: UUID
    installation_id: UUID
    session_id: UUID
    chat_id: str
    thread_id: str
    message_id: str
    key: UUID
    text: str = field(repr=False)


def notice_key(installation_id: UUID, message_id: str) -> UUID:
    """The key of a message's one reply: whoever makes it again, after a crash or a redelivery, makes the same."""
    return uuid5(NAMESPACE_OID, f"notice|{installation_id}|{message_id}")
