"""Who is there: people, workspaces, members, agents, runtimes, and the tokens that prove who calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import trio
from argon2 import PasswordHasher

from gateway.errors import RejectedRequest, StoreConflict
from gateway.ids import RUNTIME_TOKEN_PREFIX, USER_TOKEN_PREFIX, new_id, new_token, token_hash

Role = Literal["owner", "admin", "member", "guest"]
ROLES: tuple[Role, ...] = ("owner", "admin", "member", "guest")

Visibility = Literal["workspace", "private"]

Language = Literal["en", "zh-Hans"]
SPOKEN: tuple[Language, ...] = ("en", "zh-Hans")
"""What people of a workspace are spoken to in."""

NAME_LENGTH_MAX = 200
EMAIL_LENGTH_MAX = 254
PASSWORD_LENGTH_MAX = 1024
TOKEN_LENGTH_MAX = 128
SLUG_LENGTH_MAX = 48
SLUG_ATTEMPTS_MAX = 50
LAST_OWNER = "member_last_owner"
"""The constraint that a store names when the only owner would go."""

MEMBER_REMOVED = "member:removed"
"""Announced to live listeners with `user_id`, when a membership ends."""

RESERVED_SLUGS = frozenset({"api", "docs", "healthz", "issues", "lark", "login", "openapi", "readyz", "static"})
"""First path segments of the server itself: a workspace of that slug would have no page."""

_PREFIX = re.compile(r"[A-Z][A-Z0-9]{0,9}")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True, slots=True)
class UserPrincipal:
    """A person calls."""

    user_id: UUID


@dataclass(frozen=True, slots=True)
class RuntimePrincipal:
    """A runtime calls; it acts within its workspace only."""

    runtime_id: UUID
    workspace_id: UUID


Principal = UserPrincipal | RuntimePrincipal


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Who holds a live token: a person, or a runtime with its workspace."""

    user_id: UUID | None
    runtime_id: UUID | None
    workspace_id: UUID | None


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    email: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Workspace:
    id: UUID
    name: str
    slug: str
    issue_prefix: str
    language: Language
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """A person in a workspace. `id` is the person's id, which is how a member is addressed."""

    id: UUID
    workspace_id: UUID
    user_id: UUID
    email: str
    name: str
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Agent:
    id: UUID
    workspace_id: UUID
    name: str
    owner_id: UUID | None
    runtime_id: UUID | None
    visibility: str
    max_concurrent_tasks: int
    archived_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Runtime:
    id: UUID
    workspace_id: UUID
    name: str
    kind: str
    version: str
    last_heartbeat_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token's public side."""

    id: UUID
    user_id: UUID | None
    runtime_id: UUID | None
    name: str
    created_at: datetime


class DirectoryStore(Protocol):
    """What the directory needs of the database. Writes raise StoreConflict with the constraint they ran into."""

    async def touch_token(self, hashed: str) -> TokenOwner | None:
        """The owner of a live token; notes the use, at most once a minute."""

    async def user_by_email(self, email: str) -> User | None: ...

    async def workspace(self, reference: str) -> Workspace | None:
        """By slug, or by id in text form."""

    async def member(self, workspace_id: UUID, user_id: UUID) -> Member | None: ...

    async def first_owner(self, workspace_id: UUID) -> UUID | None: ...

    async def agent(self, agent_id: UUID) -> Agent | None: ...

    async def runtime(self, workspace_id: UUID, runtime_id: UUID) -> Runtime | None: ...

    async def add_user(self, *, user_id: UUID, email: str, name: str, password_hash: str | None) -> User: ...

    async def add_workspace(
        self, *, workspace_id: UUID, name: str, slug: str, prefix: str, language: Language, owner_id: UUID
    ) -> Workspace:
        """The workspace and its owner's membership, in one transaction."""

    async def set_workspace_language(self, workspace_id: UUID, language: Language) -> Workspace | None: ...

    async def add_member(self, *, workspace_id: UUID, user_id: UUID, role: Role) -> Member: ...

    async def remove_member(self, workspace_id: UUID, user_id: UUID) -> bool:
        """Ends a membership and every chat binding of that member in this workspace, in one transaction.

        Raises StoreConflict (LAST_OWNER) for the only owner there is.
        """

    async def add_agent(
        self,
        *,
        agent_id: UUID,
        workspace_id: UUID,
        name: str,
        owner_id: UUID | None,
        runtime_id: UUID | None,
        visibility: Visibility,
    ) -> Agent: ...

    async def set_agent(
        self, *, agent_id: UUID, workspace_id: UUID, runtime_id: UUID | None, archived: bool
    ) -> Agent | None: ...

    async def set_password(self, user_id: UUID, password_hash: str) -> bool:
        """Also ends the person's sessions. False when there is no such person."""

    async def add_user_token(self, *, token_id: UUID, user_id: UUID, name: str, hashed: str) -> ApiToken: ...

    async def add_runtime(
        self, *, runtime_id: UUID, workspace_id: UUID, name: str, token_id: UUID, hashed: str
    ) -> Runtime:
        """The runtime and its token, in one transaction."""


class Directory:
    """The rules over a DirectoryStore.

    Every method raises RejectedRequest with words for the person who asked: 400 for a bad value, 404 for something that
    is not there, 409 for something that is there already; and StoreUnavailable when the database is away.
    """

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._passwords = PasswordHasher()

    async def authenticate(self, token: str) -> Principal | None:
        """Who holds a bearer token; None for anything that is not a live token of ours."""
        if len(token) > TOKEN_LENGTH_MAX or not token.startswith((USER_TOKEN_PREFIX, RUNTIME_TOKEN_PREFIX)):
            return None
        owner = await self._store.touch_token(token_hash(token))
        if owner is None:
            return None
        if owner.user_id is not None:
            return UserPrincipal(owner.user_id)
        if owner.runtime_id is None or owner.workspace_id is None:
            return None
        return RuntimePrincipal(owner.runtime_id, owner.workspace_id)

    async def user(self, email: str) -> User:
        user = await self._store.user_by_email(_email(email))
        if user is None:
            raise RejectedRequest(404, "unknown_user", f"no user has the e-mail address {email}", field="email")
        return user

    async def workspace(self, reference: str) -> Workspace:
        """By slug or id."""
        workspace = await self._store.workspace(reference)
        if workspace is None:
            raise RejectedRequest(404, "unknown_workspace", f"no workspace has the slug or id {reference}")
        return workspace

    async def membership(self, reference: str, user_id: UUID) -> Member:
        """A person's place in a workspace, by slug or id. For a stranger the workspace is not there: 404."""
        workspace = await self._store.workspace(reference) if reference.isprintable() else None
        member = None if workspace is None else await self._store.member(workspace.id, user_id)
        if member is None:
            raise RejectedRequest(404, "unknown_workspace", "there is no such workspace")
        return member

    async def agent(self, agent_id: UUID) -> Agent:
        agent = await self._store.agent(agent_id)
        if agent is None:
            raise RejectedRequest(404, "unknown_agent", f"no agent has the id {agent_id}")
        return agent

    async def add_user(self, email: str, name: str = "", password: str | None = None) -> User:
        """A person. Without a password they cannot log in to the console; a token is added separately."""
        address = _email(email)
        hashed = None if password is None else await self._hash(password)
        try:
            return await self._store.add_user(
                user_id=new_id(), email=address, name=_short(name, "name"), password_hash=hashed
            )
        except StoreConflict as error:
            raise _taken("duplicate_user", f"a user with the e-mail address {address} exists", "email") from error

    async def set_password(self, user: User, password: str) -> None:
        """From now on this password alone signs the person in: every session that another one opened is over."""
        if not await self._store.set_password(user.id, await self._hash(password)):
            raise RejectedRequest(404, "unknown_user", f"the account of {user.email} is gone")

    async def add_workspace(self, name: str, prefix: str, owner: User, language: Language = "en") -> Workspace:
        """A workspace; its slug comes from the name, with a number where that is taken."""
        if not _PREFIX.fullmatch(prefix):
            message = f"the prefix {prefix!r} is not 1 to 10 capital letters and digits with a letter first, like ABC"
            raise RejectedRequest(400, "invalid_prefix", message, field="prefix")
        title, slug = _name(name), slug_of(name)
        for number in range(1, SLUG_ATTEMPTS_MAX + 1):
            candidate = slug if number == 1 else f"{slug}-{number}"
            try:
                return await self._store.add_workspace(
                    workspace_id=new_id(),
                    name=title,
                    slug=candidate,
                    prefix=prefix,
                    language=language,
                    owner_id=owner.id,
                )
            except StoreConflict as error:
                if error.constraint != "workspace_slug_key":
                    raise
        raise _taken(
            "duplicate_workspace", f"{SLUG_ATTEMPTS_MAX} workspaces are called {slug}: use another name", "name"
        )

    async def set_language(self, workspace: Workspace, language: Language) -> Workspace:
        """In which its people are spoken to from now on."""
        changed = await self._store.set_workspace_language(workspace.id, language)
        if changed is None:
            raise RejectedRequest(404, "unknown_workspace", f"no workspace is called {workspace.slug}")
        return changed

    async def add_member(self, workspace: Workspace, user: User, role: Role = "member") -> Member:
        try:
            return await self._store.add_member(workspace_id=workspace.id, user_id=user.id, role=role)
        except StoreConflict as error:
            message = f"{user.email} is a member of {workspace.slug} already"
            raise _taken("duplicate_member", message, "email") from error

    async def remove_member(self, workspace: Workspace, user: User) -> None:
        """End a membership: the person's chat accounts are unbound from every bot of the workspace with it.

        The only owner stays (409): new agents and bots would be in nobody's name.
        """
        try:
            removed = await self._store.remove_member(workspace.id, user.id)
        except StoreConflict as error:
            message = f"{user.email} is the only owner of {workspace.slug}; add another owner first"
            raise RejectedRequest(409, "last_owner", message) from error
        if not removed:
            raise _no_member(workspace, user)

    async def add_agent(
        self,
        workspace: Workspace,
        name: str,
        *,
        owner: User | None = None,
        runtime_id: UUID | None = None,
        private: bool = False,
    ) -> Agent:
        """An agent; without `owner` it belongs to the workspace's owner."""
        title = _name(name)
        if owner is not None and await self._store.member(workspace.id, owner.id) is None:
            raise _no_member(workspace, owner)
        owner_id = owner.id if owner is not None else await self._store.first_owner(workspace.id)
        await self._check_runtime(workspace.id, runtime_id)
        try:
            return await self._store.add_agent(
                agent_id=new_id(),
                workspace_id=workspace.id,
                name=title,
                owner_id=owner_id,
                runtime_id=runtime_id,
                visibility="private" if private else "workspace",
            )
        except StoreConflict as error:
            message = f"an agent called {title} exists in {workspace.slug}"
            raise _taken("duplicate_agent", message, "name") from error

    async def set_agent(self, agent: Agent, *, runtime_id: UUID | None, archived: bool) -> Agent:
        """Give an agent this runtime (None: none at all), and archive it or bring it back."""
        await self._check_runtime(agent.workspace_id, runtime_id)
        changed = await self._store.set_agent(
            agent_id=agent.id, workspace_id=agent.workspace_id, runtime_id=runtime_id, archived=archived
        )
        if changed is None:
            raise RejectedRequest(404, "unknown_agent", f"no agent has the id {agent.id}")
        return changed

    async def add_user_token(self, user: User, name: str = "") -> tuple[ApiToken, str]:
        """A token for a person, and its secret: only its hash is kept, so this is the one time it can be shown."""
        secret = new_token(USER_TOKEN_PREFIX)
        token = await self._store.add_user_token(
            token_id=new_id(), user_id=user.id, name=_short(name, "name"), hashed=token_hash(secret)
        )
        return token, secret

    async def add_runtime(self, workspace: Workspace, name: str) -> tuple[Runtime, str]:
        """A runtime, and the secret of its token, shown this one time."""
        secret, title = new_token(RUNTIME_TOKEN_PREFIX), _name(name)
        try:
            runtime = await self._store.add_runtime(
                runtime_id=new_id(), workspace_id=workspace.id, name=title, token_id=new_id(), hashed=token_hash(secret)
            )
        except StoreConflict as error:
            message = f"a runtime called {title} exists in {workspace.slug}"
            raise _taken("duplicate_runtime", message, "name") from error
        return runtime, secret

    async def _check_runtime(self, workspace_id: UUID, runtime_id: UUID | None) -> None:
        if runtime_id is not None and await self._store.runtime(workspace_id, runtime_id) is None:
            message = f"no runtime of this workspace has the id {runtime_id}"
            raise RejectedRequest(404, "unknown_runtime", message, field="runtime_id")

    async def _hash(self, password: str) -> str:
        if not 0 < len(password) <= PASSWORD_LENGTH_MAX:
            message = f"the password must have 1 to {PASSWORD_LENGTH_MAX} characters"
            raise RejectedRequest(400, "invalid_password", message, field="password")
        # A tenth of a second of arithmetic on purpose: elsewhere than on the event loop.
        return await trio.to_thread.run_sync(self._passwords.hash, password)


def slug_of(name: str) -> str:
    """The path segment of a workspace name: lower-case ASCII letters and digits joined by single hyphens."""
    slug = _NOT_SLUG.sub("-", name.lower()).strip("-")[:SLUG_LENGTH_MAX].strip("-")
    return f"workspace-{slug}".strip("-") if not slug or slug in RESERVED_SLUGS else slug


def _email(text: str) -> str:
    address = text.strip().lower()
    if not _EMAIL.fullmatch(address) or len(address) > EMAIL_LENGTH_MAX:
        raise RejectedRequest(400, "invalid_email", f"{text!r} is not an e-mail address", field="email")
    return address


def _name(text: str) -> str:
    name = _short(text, "name")
    if not name:
        raise RejectedRequest(400, "invalid_name", "the name is empty", field="name")
    return name


def _short(text: str, field: str) -> str:
    stripped = text.strip()
    if len(stripped) > NAME_LENGTH_MAX:
        message = f"the {field} has {len(stripped)} characters, more than {NAME_LENGTH_MAX}"
        raise RejectedRequest(400, f"invalid_{field}", message, field=field)
    return stripped


def _no_member(workspace: Workspace, user: User) -> RejectedRequest:
    message = f"{user.email} is not a member of {workspace.slug}"
    return RejectedRequest(404, "unknown_member", message, field="email")


def _taken(code: str, message: str, field: str) -> RejectedRequest:
    return RejectedRequest(409, code, message, field=field)
