"""The roles in a workspace, and the rules of access: who may do what, by their role and by what is theirs.

A person has rights on an object that they made or own only while they are more than a guest. A guest may only look,
even at objects that they made or owned before. The role is always the present one.

Lists of conversations apply the same rules in SQL (`sql/chat.sql`), because they are read in pages.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from gateway.errors import Forbidden

Role = Literal["owner", "admin", "member", "guest"]
ROLES: tuple[Role, ...] = ("owner", "admin", "member", "guest")

_LEADERS = frozenset({"owner", "admin"})
_WRITERS = frozenset({"owner", "admin", "member"})


def leads(role: str | None) -> bool:
    """True for the owners and admins of a workspace, who may do everything in it."""
    return role in _LEADERS


def may_write(role: str | None) -> bool:
    """True for a person who may make objects, and have rights on those they made or own. Guests may only look."""
    return role in _WRITERS


def may_change(*, creator_id: UUID | None, user_id: UUID | None, role: str | None) -> bool:
    """True if a person may change an object: they made or own it, or they are owner or admin of the workspace."""
    return leads(role) or (may_write(role) and creator_id is not None and creator_id == user_id)


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


def may_follow_scan(*, initiator_id: UUID, user_id: UUID, role: str | None) -> bool:
    """True if a person may read the state of a scan: they began it, or they are owner or admin of the workspace."""
    return leads(role) or initiator_id == user_id


def require_leader(role: str) -> None:
    """Raise Forbidden for every role except owner and admin."""
    if not leads(role):
        raise Forbidden("role_too_low", "only owners and admins of the workspace can do this")


def require_writer(role: str) -> None:
    """Raise Forbidden for a guest."""
    if not may_write(role):
        raise Forbidden("role_too_low", "guests of the workspace may look on only")
