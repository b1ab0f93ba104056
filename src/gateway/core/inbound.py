"""What is decided about an inbound message, without I/O.

The order of the steps is the pipeline's; here is what each step says. A refusal is a value: the message is dropped for
a reason of a closed vocabulary, and the reason is all that is kept of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a message."""

    DROPPED = "dropped"
    NEEDS_BINDING = "needs_binding"
    INGESTED = "ingested"
    AGENT_OFFLINE = "agent_offline"
    AGENT_ARCHIVED = "agent_archived"
    ISSUE_USAGE = "issue_usage"
    FRESH_PENDING = "fresh_pending"
    COMMAND_HELD = "command_held"


class DropReason(StrEnum):
    """Why a message was not taken in: the audit's vocabulary."""

    UNBOUND_USER = "unbound_user"
    NON_WORKSPACE_MEMBER = "non_workspace_member"
    NOT_ADDRESSED_IN_GROUP = "not_addressed_in_group"
    DUPLICATE = "duplicate"
    REVOKED_INSTALLATION = "revoked_installation"
    INVALID_EVENT = "invalid_event"
    SENDER_IS_BOT = "sender_is_bot"


@dataclass(frozen=True, slots=True)
class Settlement:
    """A decided message.

    `mark` tells that its claim is still to be marked, together with the audit row: an append has done that itself, and
    a lost claim is not ours to touch. Nothing settled is ever released; only a failure gives a claim back.
    `settled` is False when the message has to be delivered again.
    """

    outcome: Outcome
    reason: DropReason | None = None
    mark: bool = False
    settled: bool = True


def dropped(reason: DropReason) -> Settlement:
    """A message that is not taken in, for good: a redelivery would be dropped for the same reason."""
    outcome = Outcome.NEEDS_BINDING if reason is DropReason.UNBOUND_USER else Outcome.DROPPED
    return Settlement(outcome, reason, mark=True)


def duplicate(*, processed: bool) -> Settlement:
    """A message that another worker took. Only when its outcome is committed may the platform forget it."""
    return Settlement(Outcome.DROPPED, DropReason.DUPLICATE, settled=processed)


def asks_to_bind(reason: DropReason, *, from_bot: bool) -> bool:
    """Whether the sender of a dropped message is asked who they are here. A bot never is: it could not answer."""
    return reason is DropReason.UNBOUND_USER and not from_bot


def refuse_installation(*, known: bool, revoked: bool) -> DropReason | None:
    if not known:
        return DropReason.INVALID_EVENT
    return DropReason.REVOKED_INSTALLATION if revoked else None


def refuse_message(
    *, complete: bool, from_bot: bool, bots_allowed: bool, group: bool, addressed: bool
) -> DropReason | None:
    """Judge what the envelope alone says. `complete` means that it names a conversation and a sender.

    A bot that is not wanted need not say who it is: platforms do not give every bot the id that a person has.
    """
    if from_bot and not bots_allowed:
        return DropReason.SENDER_IS_BOT
    if not complete:
        return DropReason.INVALID_EVENT
    if group and not addressed:
        return DropReason.NOT_ADDRESSED_IN_GROUP
    return None


def refuse_sender(*, bound: bool, member: bool) -> DropReason | None:
    """Judge the person as they are now: a binding outlives a membership."""
    if not bound:
        return DropReason.UNBOUND_USER
    return None if member else DropReason.NON_WORKSPACE_MEMBER
