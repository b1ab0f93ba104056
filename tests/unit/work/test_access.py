from __future__ import annotations

from uuid import UUID

import pytest

from gateway.errors import Forbidden
from gateway.work.people.access import (
    may_change,
    may_follow_scan,
    may_manage_agent,
    may_use_agent,
    require_leader,
    require_writer,
)

ME, OTHER = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("visibility", "owner", "role", "allowed"),
    [
        ("workspace", OTHER, "member", True),
        ("workspace", OTHER, None, False),
        ("workspace", ME, "guest", True),
        ("private", ME, "member", True),
        ("private", ME, "guest", False),
        ("private", ME, None, False),
        ("private", OTHER, "member", False),
        ("private", OTHER, "guest", False),
        ("private", OTHER, "admin", True),
        ("private", None, "owner", True),
        ("private", None, "member", False),
    ],
)
def test_private_agent_works_for_its_owner_and_leaders(
    visibility: str, owner: UUID | None, role: str | None, allowed: bool
) -> None:
    assert may_use_agent(visibility=visibility, owner_id=owner, user_id=ME, role=role) is allowed


def test_nobody_owns_what_has_no_owner() -> None:
    assert not may_use_agent(visibility="private", owner_id=None, user_id=None, role="member")


@pytest.mark.parametrize(
    ("creator", "role", "allowed"),
    [
        (ME, "member", True),
        (ME, "guest", False),
        (OTHER, "member", False),
        (OTHER, "admin", True),
        (None, "owner", True),
    ],
)
def test_what_somebody_made_or_owns_is_theirs_and_the_leaders_to_change(
    creator: UUID | None, role: str, allowed: bool
) -> None:
    assert may_change(creator_id=creator, user_id=ME, role=role) is allowed
    assert may_manage_agent(owner_id=creator, user_id=ME, role=role) is allowed


@pytest.mark.parametrize(
    ("initiator", "role", "allowed"),
    [(ME, "member", True), (ME, "guest", True), (OTHER, "member", False), (OTHER, "admin", True)],
)
def test_scan_is_followed_by_who_began_it_and_leaders(initiator: UUID, role: str, allowed: bool) -> None:
    assert may_follow_scan(initiator_id=initiator, user_id=ME, role=role) is allowed


@pytest.mark.parametrize("role", ["owner", "admin", "member", "guest"])
def test_some_things_are_for_leaders_only(role: str) -> None:
    if role in {"owner", "admin"}:
        require_leader(role)
        return
    with pytest.raises(Forbidden):
        require_leader(role)


def test_guest_is_told_that_they_may_look_on_only() -> None:
    require_writer("member")
    with pytest.raises(Forbidden):
        require_writer("guest")
