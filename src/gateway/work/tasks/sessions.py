"""Rules for conversations: the owner and the title of a new one, and the result of queueing a run for a message."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID


class Queueing(StrEnum):
    """The result of queueing a run for a message. The message itself is stored in every case."""

    QUEUED = "queued"
    """A queued task of the session will take the message in."""
    RUNTIME_SILENT = "runtime_silent"
    """Queued too, but the agent's runtime has been silent for too long. The task can be claimed once it is back."""
    AGENT_OFFLINE = "agent_offline"
    """Queued too, but the agent has no runtime. The task can be claimed once one is attached."""
    AGENT_ARCHIVED = "agent_archived"
    """No task, because the agent takes no more work."""
    SESSION_ARCHIVED = "session_archived"
    """No task, because the conversation was archived. It gets no notice either."""


def judge_queueing(
    *, agent_archived: bool, session_archived: bool, has_runtime: bool, runtime_heard: bool = True
) -> Queueing:
    """Decide the result of queueing. `runtime_heard`: the agent's runtime sent a heartbeat within the silence limit."""
    if agent_archived:
        return Queueing.AGENT_ARCHIVED
    if session_archived:
        return Queueing.SESSION_ARCHIVED
    if not has_runtime:
        return Queueing.AGENT_OFFLINE
    return Queueing.QUEUED if runtime_heard else Queueing.RUNTIME_SILENT


def creator_of(*, group: bool, installer: UUID | None, sender: UUID) -> UUID | None:
    """Return the owner of a new conversation: the sender in a direct chat, the bot's installer in a group.

    The installer is used because it does not change with the sender.
    """
    return installer if group else sender


def title_of(*, group: bool) -> str:
    return "Group chat" if group else "Direct chat"
