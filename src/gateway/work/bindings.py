"""Which person a platform account is: an operator vouches for it, or the person redeems a link."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol
from uuid import UUID

from gateway.errors import RejectedRequest
from gateway.ids import new_id, token_hash

ACCOUNT_ID_LENGTH_MAX = 128
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Binding:
    """`channel_user_id` is the platform's id of the account, as this one bot sees it."""

    id: UUID
    workspace_id: UUID
    installation_id: UUID
    user_id: UUID
    channel_user_id: str
    bound_at: datetime


@dataclass(frozen=True, slots=True)
class BindingObstacles:
    """What exists of a binding's parts, for telling why there is none."""

    installation: bool
    person: bool
    member: bool
    taken: bool


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """Which account a binding link was sent to."""

    workspace_id: UUID
    installation_id: UUID
    channel_user_id: str


@dataclass(frozen=True, slots=True)
class BoundPerson:
    """A binding and who stands behind it."""

    id: UUID
    installation_id: UUID
    user_id: UUID
    channel_user_id: str
    email: str
    name: str
    bound_at: datetime


class RedeemRefusal(Enum):
    """Why a link did not bind. Whatever it was, the token is as good as it was before."""

    TOKEN_OVER = "token_over"  # noqa: S105  (a reason, not a secret)
    NOT_A_MEMBER = "not_a_member"
    ALREADY_BOUND = "already_bound"


class BindingStore(Protocol):
    """Bindings. Every method raises StoreUnavailable."""

    async def create(self, binding_id: UUID, installation_id: UUID, channel_user_id: str, email: str) -> Binding | None:
        """Bind, or return the binding that the same person has. None when a part is missing or the account taken."""

    async def explain(self, installation_id: UUID, channel_user_id: str, email: str) -> BindingObstacles: ...

    async def delete(self, installation_id: UUID, channel_user_id: str) -> bool:
        """Whether there was one."""

    async def redeem(self, hashed: str, user_id: UUID, binding_id: UUID) -> Binding | RedeemRefusal:
        """Consume a token and bind its account to a member of its workspace, in one transaction: both or neither."""

    async def people(self, workspace_id: UUID, installation_id: UUID) -> list[BoundPerson] | None:
        """None when the workspace has no such installation."""

    async def delete_by_id(self, workspace_id: UUID, installation_id: UUID, binding_id: UUID) -> bool:
        """Whether there was one."""

    async def list(self, installation_id: UUID) -> list[Binding]: ...


class BindingService:
    """Binds accounts to members, on the word of an operator or by a link that the account received."""

    def __init__(self, store: BindingStore) -> None:
        self._store = store

    async def bind(self, installation_id: UUID, channel_user_id: str, email: str) -> Binding:
        """Bind a platform account to a member of the installation's workspace; binding the same pair again is fine.

        Raises RejectedRequest: 400 for a bad account id, 404 for an unknown installation or person, 403 for somebody
        who is not a member, 409 when the account is bound to somebody else.
        """
        if not 0 < len(channel_user_id) <= ACCOUNT_ID_LENGTH_MAX or not channel_user_id.isprintable():
            limit = f"1 to {ACCOUNT_ID_LENGTH_MAX} printable characters"
            raise RejectedRequest(400, "invalid_account", f"an account id has {limit}", field="open_id")
        binding = await self._store.create(new_id(), installation_id, channel_user_id, email)
        if binding is None:
            obstacles = await self._store.explain(installation_id, channel_user_id, email)
            raise _refusal(obstacles, installation_id, channel_user_id, email)
        return binding

    async def redeem(self, token: str, user_id: UUID) -> Binding:
        """Bind the account that a link was sent to, to the person who opened it; a second link of theirs is fine.

        Raises RejectedRequest: 400 for a blank token, 410 for one that is unknown, over or used (which of them is not
        told), 403 for somebody who is not a member, 409 when the account is bound to somebody else. A refusal leaves
        the token usable.
        """
        if not token.strip():
            raise RejectedRequest(400, "missing_token", "the token is missing", field="token")
        if not _TOKEN.fullmatch(token):
            raise _REFUSALS[RedeemRefusal.TOKEN_OVER]()
        outcome = await self._store.redeem(token_hash(token), user_id, new_id())
        if isinstance(outcome, RedeemRefusal):
            raise _REFUSALS[outcome]()
        return outcome

    async def people(self, workspace_id: UUID, installation_id: UUID) -> list[BoundPerson]:
        """Oldest first. Raises RejectedRequest (404) for an installation that is not the workspace's."""
        people = await self._store.people(workspace_id, installation_id)
        if people is None:
            raise RejectedRequest(404, "installation_not_found", f"there is no installation {installation_id}")
        return people

    async def delete(self, workspace_id: UUID, installation_id: UUID, binding_id: UUID) -> None:
        """Raises RejectedRequest (404) for a binding that is not of this workspace and installation."""
        if not await self._store.delete_by_id(workspace_id, installation_id, binding_id):
            raise RejectedRequest(404, "binding_not_found", f"there is no binding {binding_id}")

    async def unbind(self, installation_id: UUID, channel_user_id: str) -> None:
        """Raises RejectedRequest (404) when the account is not bound."""
        if not await self._store.delete(installation_id, channel_user_id):
            message = f"account {channel_user_id} is not bound in installation {installation_id}"
            raise RejectedRequest(404, "binding_not_found", message)

    async def list(self, installation_id: UUID) -> list[Binding]:
        """Oldest first; empty for an unknown installation."""
        return await self._store.list(installation_id)


def _token_over() -> RejectedRequest:
    return RejectedRequest(410, "link_over", "the link is not valid any more; write to the bot to get another")


def _not_a_member() -> RejectedRequest:
    return RejectedRequest(403, "not_a_member", "only members of the bot's workspace can link an account; ask an admin")


def _already_bound() -> RejectedRequest:
    return RejectedRequest(409, "already_bound", "the account is linked to somebody else; ask an admin to unlink it")


_REFUSALS = {
    RedeemRefusal.TOKEN_OVER: _token_over,
    RedeemRefusal.NOT_A_MEMBER: _not_a_member,
    RedeemRefusal.ALREADY_BOUND: _already_bound,
}


def _refusal(found: BindingObstacles, installation_id: UUID, channel_user_id: str, email: str) -> RejectedRequest:
    if not found.installation:
        return RejectedRequest(404, "installation_not_found", f"there is no installation {installation_id}")
    if not found.person:
        return RejectedRequest(404, "user_not_found", f"there is no user {email}; `gateway admin user add` makes one")
    if not found.member:
        hint = "`gateway admin member add` makes one of them"
        return RejectedRequest(403, "not_a_member", f"{email} is not a member of the installation's workspace; {hint}")
    if found.taken:
        message = f"account {channel_user_id} is bound to somebody else; `gateway lark unbind` frees it"
        return RejectedRequest(409, "already_bound", message)
    return RejectedRequest(409, "binding_changed", "the binding changed at the same moment; try again")
