"""Which person a platform account is: an operator vouches for it, or the person redeems a link."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from gateway.errors import RejectedRequest
from gateway.ids import new_id

ACCOUNT_ID_LENGTH_MAX = 128


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


class BindingStore(Protocol):
    """Bindings. Every method raises StoreUnavailable."""

    async def create(self, binding_id: UUID, installation_id: UUID, channel_user_id: str, email: str) -> Binding | None:
        """Bind, or return the binding that the same person has. None when a part is missing or the account taken."""

    async def explain(self, installation_id: UUID, channel_user_id: str, email: str) -> BindingObstacles: ...

    async def delete(self, installation_id: UUID, channel_user_id: str) -> bool:
        """Whether there was one."""

    async def list(self, installation_id: UUID) -> list[Binding]: ...


class BindingService:
    """Binds accounts to members, on the word of an operator."""

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

    async def unbind(self, installation_id: UUID, channel_user_id: str) -> None:
        """Raises RejectedRequest (404) when the account is not bound."""
        if not await self._store.delete(installation_id, channel_user_id):
            message = f"account {channel_user_id} is not bound in installation {installation_id}"
            raise RejectedRequest(404, "binding_not_found", message)

    async def list(self, installation_id: UUID) -> list[Binding]:
        """Oldest first; empty for an unknown installation."""
        return await self._store.list(installation_id)


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
