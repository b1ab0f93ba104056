"""Conversations: who a new one belongs to, what it is called, and whether a message in it waits for a run."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID


class Queueing(StrEnum):
    """What became of the run that a message asks for. The message itself is kept in every case."""

    QUEUED = "queued"
    """One queued task of the session has it."""
    RUNTIME_SILENT = "runtime_silent"
    """Queued too, but the agent's runtime was not heard of for too long: claimable as soon as it is back."""
    AGENT_OFFLINE = "agent_offline"
    """Queued too, but the agent has no runtime: claimable as soon as one is attached."""
    AGENT_ARCHIVED = "agent_archived"
    """No task: the agent takes no more work."""
    SESSION_ARCHIVED = "session_archived"
    """No task: the conversation was put away, and stays silent."""


def judge_queueing(
    *, agent_archived: bool, session_archived: bool, has_runtime: bool, runtime_heard: bool = True
) -> Queueing:
    """`runtime_heard`: the agent's runtime gave a sign of life within the silence limit."""
    if agent_archived:
        return Queueing.AGENT_ARCHIVED
    if session_archived:
        return Queueing.SESSION_ARCHIVED
    if not has_runtime:
        return Queueing.AGENT_OFFLINE
    return Queueing.QUEUED if runtime_heard else Queueing.RUNTIME_SILENT


def creator_of(*, group: bool, installer: UUID | None, sender: UUID) -> UUID | None:
    """Whose conversation it is: the sender's in a direct chat; in a group the installer's, who does not change."""
    return installer if group else sender


def title_of(*, group: bool) -> str:
    return "Group chat" if group else "Direct chat"
