"""Decisions about an inbound message, without I/O.

The pipeline sets the order of the steps. This module says what each step decides. A refusal is a value: the message is
dropped with a reason from a closed vocabulary, and only the reason is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class InboundOutcome(StrEnum):
    """The outcome of an inbound message."""

    DROPPED = "dropped"
    NEEDS_BINDING = "needs_binding"
    INGESTED = "ingested"
    AGENT_OFFLINE = "agent_offline"
    AGENT_ARCHIVED = "agent_archived"
    ISSUE_USAGE = "issue_usage"
    FRESH_PENDING = "fresh_pending"
    COMMAND_HELD = "command_held"


class DropReason(StrEnum):
    """The reason why a message was dropped. All but DUPLICATE are written into the audit."""

    UNBOUND_USER = "unbound_user"
    NON_WORKSPACE_MEMBER = "non_workspace_member"
    NOT_ADDRESSED_IN_GROUP = "not_addressed_in_group"
    DUPLICATE = "duplicate"
    REVOKED_INSTALLATION = "revoked_installation"
    INVALID_EVENT = "invalid_event"
    SENDER_IS_BOT = "sender_is_bot"


@dataclass(frozen=True, slots=True)
class Settlement:
    """The decision about one message.

    `mark` is True when its claim is still to be marked as processed, together with the audit row. It is False after an
    append, which has marked the claim itself, and for a claim that another worker holds. A settled claim is never
    released: only a failure releases a claim. `settled` is False when the message has to be delivered again.
    """

    outcome: InboundOutcome
    reason: DropReason | None = None
    mark: bool = False
    settled: bool = True


def dropped(reason: DropReason) -> Settlement:
    """Drop a message for good: a redelivery would be dropped for the same reason."""
    outcome = InboundOutcome.NEEDS_BINDING if reason is DropReason.UNBOUND_USER else InboundOutcome.DROPPED
    return Settlement(outcome, reason, mark=True)


def duplicate(*, processed: bool) -> Settlement:
    """Drop a message that another worker claimed. It counts as settled only once that worker's outcome is committed."""
    return Settlement(InboundOutcome.DROPPED, DropReason.DUPLICATE, settled=processed)


def asks_to_bind(reason: DropReason, *, from_bot: bool) -> bool:
    """True if the sender of a dropped message is asked to bind their account. A bot never is: it could not do so."""
    return reason is DropReason.UNBOUND_USER and not from_bot


def refuse_event(*, known: bool, revoked: bool, usable: bool) -> DropReason | None:
    """Judge an event before anything is claimed for it, by its installation and by whether it is a usable message.

    None means that it is not refused.
    """
    if not known:
        return DropReason.INVALID_EVENT
    if revoked:
        return DropReason.REVOKED_INSTALLATION
    return None if usable else DropReason.INVALID_EVENT


def refuse_message(
    *, complete: bool, from_bot: bool, bots_allowed: bool, group: bool, addressed: bool
) -> DropReason | None:
    """Judge a message by its envelope alone. `complete` means that it names a conversation and a sender.

    An unwanted bot is refused before its id is looked for: platforms do not give every bot the id that a person has.
    """
    if from_bot and not bots_allowed:
        return DropReason.SENDER_IS_BOT
    if not complete:
        return DropReason.INVALID_EVENT
    if group and not addressed:
        return DropReason.NOT_ADDRESSED_IN_GROUP
    return None


def refuse_sender(*, bound: bool, member: bool) -> DropReason | None:
    """Judge the sender by their present binding and membership: a binding outlives a membership."""
    if not bound:
        return DropReason.UNBOUND_USER
    return None if member else DropReason.NON_WORKSPACE_MEMBER
