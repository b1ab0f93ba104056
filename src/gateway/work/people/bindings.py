"""The bindings of platform accounts to people. An operator makes a binding, or the person redeems a link."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from gateway.core.introduction import Introduction
from gateway.errors import Conflict, DomainError, Forbidden, Gone, Invalid, NotFound
from gateway.ids import new_id, token_hash

ACCOUNT_ID_LENGTH_MAX = 128
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Binding:
    """A stored binding. `channel_user_id` is the platform's id of the account, as this one bot sees it."""

    id: UUID
    workspace_id: UUID
    installation_id: UUID
    user_id: UUID
    channel_user_id: str
    bound_at: datetime


@dataclass(frozen=True, slots=True)
class BindingObstacles:
    """The parts of a binding that exist, to explain why it could not be made."""

    installation: bool
    person: bool
    member: bool
    taken: bool


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """The account that a binding link was sent to."""

    workspace_id: UUID
    installation_id: UUID
    channel_user_id: str


@dataclass(frozen=True, slots=True)
class LinkAsked:
    """The request of a live binding link, and its reader: the signed-in person who opened it.

    `role` is None for a reader who is not a member of the bot's workspace. `bound_user_id` is the person that the
    platform account is bound to by now. `agent_id` and `agent_name` are None for a bot whose agent is gone.
    """

    workspace_id: UUID
    workspace_name: str
    workspace_slug: str
    installation_id: UUID
    channel_type: str
    app_id: str
    agent_id: UUID | None
    agent_name: str | None
    channel_user_id: str
    asked_at: datetime
    asked_seconds_ago: float
    reader_id: UUID
    reader_email: str
    reader_name: str
    role: str | None
    bound_user_id: UUID | None


@dataclass(frozen=True, slots=True)
class LinkPreview:
    """The page that a member reads before they let a platform account speak in their name."""

    asked: LinkAsked
    introduction: Introduction

    @property
    def bot_name(self) -> str:
        """The bot's name on the platform, else the name of its agent, else the id of its app."""
        return self.introduction.bot or self.asked.agent_name or self.asked.app_id

    def public(self, account_key: str) -> dict[str, Any]:
        """Return the JSON object of the API. The person's name is null if the platform does not tell it.

        `account_key` is what the API calls the person's account on the platform.
        """
        asked = self.asked
        agent = None if asked.agent_id is None else {"id": asked.agent_id, "name": asked.agent_name}
        return {
            "workspace": {"id": asked.workspace_id, "name": asked.workspace_name, "slug": asked.workspace_slug},
            "bot": {"installation_id": asked.installation_id, "name": self.bot_name, "agent": agent},
            "person": {
                "name": self.introduction.person or None,
                account_key: asked.channel_user_id,
                "asked_at": asked.asked_at,
            },
            "account": {"id": asked.reader_id, "email": asked.reader_email, "name": asked.reader_name},
        }


@dataclass(frozen=True, slots=True)
class BoundPerson:
    """A binding with its person's name and e-mail address."""

    id: UUID
    installation_id: UUID
    user_id: UUID
    channel_user_id: str
    email: str
    name: str
    bound_at: datetime


class RedeemRefusal(Enum):
    """The reason why a link did not bind. In every case the token stays as it was."""

    TOKEN_OVER = "token_over"  # noqa: S105  (a reason, not a secret)
    NOT_A_MEMBER = "not_a_member"
    ALREADY_BOUND = "already_bound"


class BindingStore(Protocol):
    """The store of bindings. Every method raises StoreUnavailable."""

    async def create(self, binding_id: UUID, installation_id: UUID, channel_user_id: str, email: str) -> Binding | None:
        """Bind an account, or return the binding that the same person has already.

        None when a part is missing, or the account is bound to another person.
        """

    async def explain(self, installation_id: UUID, channel_user_id: str, email: str) -> BindingObstacles: ...

    async def delete(self, installation_id: UUID, channel_user_id: str) -> bool:
        """Delete a binding. True if there was one."""

    async def redeem(self, hashed: str, user_id: UUID, binding_id: UUID) -> Binding | RedeemRefusal:
        """Consume a token and bind its account to a member of its workspace, in one transaction: both or neither."""

    async def preview(self, hashed: str, user_id: UUID) -> LinkAsked | None:
        """Read the request of a live token for this reader, without consuming the token. None when it is not live."""

    async def people(self, workspace_id: UUID, installation_id: UUID) -> list[BoundPerson] | None:
        """Return the bound people of an installation. None when the workspace has no such installation."""

    async def delete_by_id(self, workspace_id: UUID, installation_id: UUID, binding_id: UUID) -> bool:
        """Delete a binding by its id. True if there was one."""

    async def list(self, installation_id: UUID) -> list[Binding]: ...


Introduce = Callable[[str, UUID, str], Awaitable[Introduction]]
"""Asks the platform for the names of the person and the bot. Arguments: channel type, installation, account.

Never raises, and takes no longer than a page may wait.
"""


async def _unknown(_channel_type: str, _installation_id: UUID, _account_id: str) -> Introduction:
    return Introduction()


class BindingService:
    """Binds accounts to members, by an operator's command or by a link that was sent to the account."""

    def __init__(self, store: BindingStore, introduce: Introduce = _unknown) -> None:
        self._store = store
        self._introduce = introduce

    async def bind(self, installation_id: UUID, channel_user_id: str, email: str) -> Binding:
        """Bind a platform account to a member of the installation's workspace. Binding the same pair again is no error.

        Raises Invalid for a bad account id, NotFound for an unknown installation or person, Forbidden for a person who
        is not a member, and Conflict when the account is bound to another person.
        """
        if not 0 < len(channel_user_id) <= ACCOUNT_ID_LENGTH_MAX or not channel_user_id.isprintable():
            limit = f"1 to {ACCOUNT_ID_LENGTH_MAX} printable characters"
            raise Invalid("invalid_account", f"an account id has {limit}", field="open_id")
        binding = await self._store.create(new_id(), installation_id, channel_user_id, email)
        if binding is None:
            obstacles = await self._store.explain(installation_id, channel_user_id, email)
            raise _refusal(obstacles, installation_id, channel_user_id, email)
        return binding

    async def preview(self, token: str, user_id: UUID) -> LinkPreview:
        """Describe the account that a link would bind, its bot and its person. Nothing is changed.

        Raises DomainError exactly as `redeem` would at this moment. The platform is asked for names only after
        these checks, so a stranger learns nothing and causes no request to the platform.
        """
        asked = await self._store.preview(_hash_of(token), user_id)
        if asked is None:
            raise _REFUSALS[RedeemRefusal.TOKEN_OVER]()
        if asked.role is None:
            raise _REFUSALS[RedeemRefusal.NOT_A_MEMBER]()
        if asked.bound_user_id not in {None, user_id}:
            raise _REFUSALS[RedeemRefusal.ALREADY_BOUND]()
        introduction = await self._introduce(asked.channel_type, asked.installation_id, asked.channel_user_id)
        return LinkPreview(asked, introduction)

    async def redeem(self, token: str, user_id: UUID) -> Binding:
        """Bind the account that a link was sent to, to the person who redeems the link.

        A person whose account is bound already may redeem a second link. Raises Invalid for a blank token, Gone
        for one that is unknown, expired or used (the answer does not tell which), Forbidden for a person who is not a
        member, and Conflict when the account is bound to another person. A refusal leaves the token usable.
        """
        outcome = await self._store.redeem(_hash_of(token), user_id, new_id())
        if isinstance(outcome, RedeemRefusal):
            raise _REFUSALS[outcome]()
        return outcome

    async def people(self, workspace_id: UUID, installation_id: UUID) -> list[BoundPerson]:
        """Return the bound people, oldest binding first. Raises NotFound for a foreign installation."""
        people = await self._store.people(workspace_id, installation_id)
        if people is None:
            raise NotFound("installation_not_found", f"there is no installation {installation_id}")
        return people

    async def delete(self, workspace_id: UUID, installation_id: UUID, binding_id: UUID) -> None:
        """Delete a binding. Raises NotFound if this workspace and installation do not have it."""
        if not await self._store.delete_by_id(workspace_id, installation_id, binding_id):
            raise NotFound("binding_not_found", f"there is no binding {binding_id}")

    async def unbind(self, installation_id: UUID, channel_user_id: str) -> None:
        """Delete the binding of an account. Raises NotFound when the account is not bound."""
        if not await self._store.delete(installation_id, channel_user_id):
            message = f"account {channel_user_id} is not bound in installation {installation_id}"
            raise NotFound("binding_not_found", message)

    async def list(self, installation_id: UUID) -> list[Binding]:
        """Return the bindings of an installation, oldest first. Empty for an unknown installation."""
        return await self._store.list(installation_id)


def _hash_of(token: str) -> str:
    """Return the hash under which a link's token is stored.

    Raises Invalid for a blank token, Gone for a malformed one.
    """
    if not token.strip():
        raise Invalid("missing_token", "the token is missing", field="token")
    if not _TOKEN.fullmatch(token):
        raise _token_over()
    return token_hash(token)


def _token_over() -> Gone:
    return Gone("link_over", "the link is not valid any more; write to the bot to get another")


def _not_a_member() -> Forbidden:
    return Forbidden("not_a_member", "only members of the bot's workspace can link an account; ask an admin")


def _already_bound() -> Conflict:
    return Conflict("already_bound", "the account is linked to somebody else; ask an admin to unlink it")


_REFUSALS = {
    RedeemRefusal.TOKEN_OVER: _token_over,
    RedeemRefusal.NOT_A_MEMBER: _not_a_member,
    RedeemRefusal.ALREADY_BOUND: _already_bound,
}


def _refusal(found: BindingObstacles, installation_id: UUID, channel_user_id: str, email: str) -> DomainError:
    if not found.installation:
        return NotFound("installation_not_found", f"there is no installation {installation_id}")
    if not found.person:
        return NotFound("user_not_found", f"there is no user {email}; `gateway admin user add` makes one")
    if not found.member:
        hint = "`gateway admin member add` makes one of them"
        return Forbidden("not_a_member", f"{email} is not a member of the installation's workspace; {hint}")
    if found.taken:
        message = f"account {channel_user_id} is bound to somebody else; `gateway lark unbind` frees it"
        return Conflict("already_bound", message)
    return Conflict("binding_changed", "the binding changed at the same moment; try again")
