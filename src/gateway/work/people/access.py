"""The rules of access in a workspace: roles, objects that a person made or owns, and private agents.

A person has rights on an object that they made or own only while they are more than a guest. A guest may only look,
even at objects that they made or owned before. The role is always the present one.
"""

from __future__ import annotations

from uuid import UUID

from gateway.errors import Forbidden

LEADERS = frozenset({"owner", "admin"})
WRITERS = frozenset({"owner", "admin", "member"})
"""The roles that may change things. Guests may only look."""


def may_manage_agent(*, owner_id: UUID | None, user_id: UUID, role: str | None) -> bool:
    """True if a person may change an agent and its bot: they own it, or they are owner or admin of the workspace."""
    return may_change(creator_id=owner_id, user_id=user_id, role=role)


def may_use_agent(*, visibility: str, owner_id: UUID | None, user_id: UUID | None, role: str | None) -> bool:
    """True if a person may see and use an agent. `role` is None for a person who is not a member.

    A private agent is visible only to its owner, and to owners and admins of the workspace.
    """
    if role is None:
        return False
    return visibility != "private" or may_change(creator_id=owner_id, user_id=user_id, role=role)


def may_change(*, creator_id: UUID | None, user_id: UUID | None, role: str | None) -> bool:
    """True if a person may change an object: they made or own it, or they are owner or admin of the workspace."""
    return role in LEADERS or (role in WRITERS and creator_id is not None and creator_id == user_id)


def require_leader(role: str) -> None:
    """Raise Forbidden for every role except owner and admin."""
    if role not in LEADERS:
        raise Forbidden("role_too_low", "only owners and admins of the workspace can do this")


def require_writer(role: str) -> None:
    """Raise Forbidden for a guest."""
    if role not in WRITERS:
        raise Forbidden("role_too_low", "guests of the workspace may look on only")
