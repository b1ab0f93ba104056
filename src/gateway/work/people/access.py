"""Who may do what in a workspace: roles, what somebody made or owns, and agents that are private.

What somebody made or owns counts while they are more than a guest: a guest only looks on, whatever they made or owned
before. The role is always the present one.
"""

from __future__ import annotations

from uuid import UUID

from gateway.errors import RejectedRequest

LEADERS = frozenset({"owner", "admin"})
WRITERS = frozenset({"owner", "admin", "member"})
"""Guests look on."""


def may_manage_agent(*, owner_id: UUID | None, user_id: UUID, role: str | None) -> bool:
    """Whether a person may change an agent and its bot: it is theirs, or they lead the workspace."""
    return may_change(creator_id=owner_id, user_id=user_id, role=role)


def may_use_agent(*, visibility: str, owner_id: UUID | None, user_id: UUID | None, role: str | None) -> bool:
    """Whether an agent is there for a person, to be seen and put to work; `role` is None for who is not a member.

    A private agent is there for its owner, and for owners and admins of the workspace.
    """
    if role is None:
        return False
    return visibility != "private" or may_change(creator_id=owner_id, user_id=user_id, role=role)


def may_change(*, creator_id: UUID | None, user_id: UUID | None, role: str | None) -> bool:
    """Whether a person may change what somebody made or owns: it is theirs, or they lead the workspace."""
    return role in LEADERS or (role in WRITERS and creator_id is not None and creator_id == user_id)


def require_leader(role: str) -> None:
    """Raises RejectedRequest (403) for everybody but owners and admins."""
    if role not in LEADERS:
        raise RejectedRequest(403, "role_too_low", "only owners and admins of the workspace can do this")


def require_writer(role: str) -> None:
    """Raises RejectedRequest (403) for a guest."""
    if role not in WRITERS:
        raise RejectedRequest(403, "role_too_low", "guests of the workspace may look on only")
