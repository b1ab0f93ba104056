from __future__ import annotations

import pytest

from gateway.core.inbound import (
    DropReason,
    InboundOutcome,
    dropped,
    duplicate,
    refuse_event,
    refuse_message,
    refuse_sender,
)


@pytest.mark.parametrize(
    ("known", "revoked", "usable", "reason"),
    [
        (False, False, True, "invalid_event"),
        (True, True, True, "revoked_installation"),
        (True, True, False, "revoked_installation"),
        (True, False, False, "invalid_event"),
        (True, False, True, None),
    ],
)
def test_event_is_refused_for_an_unknown_or_revoked_bot_or_when_unusable(
    known: bool, revoked: bool, usable: bool, reason: str | None
) -> None:
    assert refuse_event(known=known, revoked=revoked, usable=usable) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"complete": False}, "invalid_event"),
        ({"from_bot": True}, "sender_is_bot"),
        ({"from_bot": True, "bots_allowed": True}, None),
        ({"group": True}, "not_addressed_in_group"),
        ({"group": True, "addressed": True}, None),
        ({"addressed": True}, None),
        ({"group": True, "from_bot": True}, "sender_is_bot"),
        ({"group": True, "from_bot": True, "complete": False}, "sender_is_bot"),
        ({"from_bot": True, "bots_allowed": True, "complete": False}, "invalid_event"),
    ],
)
def test_message_is_refused_by_the_first_rule_it_breaks(changes: dict[str, bool], reason: str | None) -> None:
    message = {"complete": True, "from_bot": False, "bots_allowed": False, "group": False, "addressed": False}
    assert refuse_message(**{**message, **changes}) == reason


@pytest.mark.parametrize(
    ("bound", "member", "reason"),
    [(False, False, "unbound_user"), (True, False, "non_workspace_member"), (True, True, None)],
)
def test_sender_is_refused_without_binding_or_current_membership(bound: bool, member: bool, reason: str | None) -> None:
    assert refuse_sender(bound=bound, member=member) == reason


@pytest.mark.parametrize("reason", DropReason)
def test_dropped_message_is_settled_and_its_claim_marked(reason: DropReason) -> None:
    settlement = dropped(reason)
    assert settlement.settled
    assert settlement.mark
    assert settlement.outcome is (InboundOutcome.NEEDS_BINDING if reason == "unbound_user" else InboundOutcome.DROPPED)


@pytest.mark.parametrize("processed", [True, False])
def test_duplicate_is_settled_only_when_its_outcome_is_committed(processed: bool) -> None:
    settlement = duplicate(processed=processed)
    assert settlement.settled is processed
    assert not settlement.mark
