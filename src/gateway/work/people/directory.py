"""The directory of people, workspaces, members, agents and runtimes, with the tokens that authenticate callers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import trio
from argon2 import PasswordHasher
from slugify import slugify

from gateway.core.naming import checked_name
from gateway.errors import Conflict, Invalid, NotFound, StoreConflict
from gateway.ids import RUNTIME_TOKEN_PREFIX, USER_TOKEN_PREFIX, new_id, new_token, token_hash
from gateway.work.people.access import Role

Visibility = Literal["workspace", "private"]

Language = Literal["en", "zh-Hans"]
SPOKEN: tuple[Language, ...] = ("en", "zh-Hans")
"""The languages in which the gateway can speak to the people of a workspace."""

EMAIL_LENGTH_MAX = 254
PASSWORD_LENGTH_MIN = 8
PASSWORD_LENGTH_MAX = 1024
TOKEN_LENGTH_MAX = 128
SLUG_LENGTH_MAX = 48
SLUG_ATTEMPTS_MAX = 50
SHARED_PREFIX = "workspace_shared_prefix"
"""The constraint that a store names when another workspace has the issue prefix."""
LAST_OWNER = "member_last_owner"
"""The constraint that a store names when the only owner of a workspace would be removed."""

MEMBER_REMOVED = "member:removed"
"""Announced to live listeners with `user_id`, when a membership ends."""

RESERVED_SLUGS = frozenset(
    {"api", "docs", "healthz", "invite", "issues", "lark", "login", "openapi", "readyz", "setup", "static"}
)
"""First path segments of the server's own pages. A workspace with such a slug would have no page."""

_PREFIX = re.compile(r"[A-Z][A-Z0-9]{0,9}")
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True, slots=True)
class UserPrincipal:
    """The caller is a person."""

    user_id: UUID


@dataclass(frozen=True, slots=True)
class RuntimePrincipal:
    """The caller is a runtime. It acts within its workspace only."""

    runtime_id: UUID
    workspace_id: UUID


Principal = UserPrincipal | RuntimePrincipal


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """The owner of a live token: a person, or a runtime with its workspace."""

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
class AgentChange:
    """A change to an agent. A field that is None stays as it is. `runtime_id` only counts with `sets_runtime`."""

    name: str | None = None
    sets_runtime: bool = False
    runtime_id: UUID | None = None
    archived: bool | None = None
    owner_id: UUID | None = None


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
    """The public fields of a token, without its secret."""

    id: UUID
    user_id: UUID | None
    runtime_id: UUID | None
    name: str
    created_at: datetime


class DirectoryStore(Protocol):
    """The store of the directory. Writes raise StoreConflict with the constraint that they violate."""

    async def touch_token(self, hashed: str) -> TokenOwner | None:
        """Return the owner of a live token, and note its use, at most once a minute."""

    async def user_by_email(self, email: str) -> User | None: ...

    async def workspace(self, reference: str) -> Workspace | None:
        """Find a workspace by its slug, or by its id in text form."""

    async def member(self, workspace_id: UUID, user_id: UUID) -> Member | None: ...

    async def first_owner(self, workspace_id: UUID) -> UUID | None: ...

    async def agent(self, agent_id: UUID) -> Agent | None: ...

    async def runtime(self, workspace_id: UUID, runtime_id: UUID) -> Runtime | None: ...

    async def add_user(self, *, user_id: UUID, email: str, name: str, password_hash: str | None) -> User: ...

    async def add_workspace(
        self,
        *,
        workspace_id: UUID,
        name: str,
        slug: str,
        prefix: str,
        language: Language,
        owner_id: UUID,
        shared_prefix: bool,
    ) -> Workspace:
        """Add a workspace and its owner's membership, in one transaction.

        Raises StoreConflict (SHARED_PREFIX) if another workspace has the prefix, unless `shared_prefix`.
        """

    async def set_workspace_language(self, workspace_id: UUID, language: Language) -> Workspace | None: ...

    async def add_member(self, *, workspace_id: UUID, user_id: UUID, role: Role) -> Member: ...

    async def remove_member(self, workspace_id: UUID, user_id: UUID) -> bool:
        """End a membership and every chat binding of that member in this workspace, in one transaction.

        Raises StoreConflict (LAST_OWNER) for the only owner.
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

    async def set_member_role(self, *, workspace_id: UUID, user_id: UUID, role: Role) -> Member | None:
        """Change a member's role. None for a person who is not a member.

        Raises StoreConflict (LAST_OWNER) if the workspace would be left without an owner.
        """

    async def change_agent(self, agent: Agent, change: AgentChange) -> Agent | None: ...

    async def set_password(self, user_id: UUID, password_hash: str) -> bool:
        """Set a password, and end the person's sessions. False when there is no such person."""

    async def add_user_token(self, *, token_id: UUID, user_id: UUID, name: str, hashed: str) -> ApiToken: ...

    async def add_runtime(
        self, *, runtime_id: UUID, workspace_id: UUID, name: str, token_id: UUID, hashed: str
    ) -> Runtime:
        """Add a runtime and its token, in one transaction."""


class Directory:
    """The directory with its rules, over a DirectoryStore.

    Every method raises Invalid for a bad value, NotFound for an object that does not exist, and Conflict for one that
    exists already, each with a text for the person who asked. Every method raises StoreUnavailable when the database is
    away.
    """

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._passwords = PasswordHasher()

    async def authenticate(self, token: str) -> Principal | None:
        """Return the owner of a bearer token. None for any text that is not a live token."""
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
            raise NotFound("unknown_user", f"no user has the e-mail address {email}", field="email")
        return user

    async def workspace(self, reference: str) -> Workspace:
        """Find a workspace by its slug or id."""
        workspace = await self._store.workspace(reference)
        if workspace is None:
            raise NotFound("unknown_workspace", f"no workspace has the slug or id {reference}")
        return workspace

    async def membership(self, reference: str, user_id: UUID) -> Member:
        """Find a person's membership in a workspace, given by slug or id.

        Raises NotFound for a stranger, as for an unknown workspace.
        """
        workspace = await self._store.workspace(reference) if reference.isprintable() else None
        member = None if workspace is None else await self._store.member(workspace.id, user_id)
        if member is None:
            raise NotFound("unknown_workspace", "there is no such workspace")
        return member

    async def agent(self, agent_id: UUID) -> Agent:
        agent = await self._store.agent(agent_id)
        if agent is None:
            raise NotFound("unknown_agent", f"no agent has the id {agent_id}")
        return agent

    async def add_user(self, email: str, name: str = "", password: str | None = None) -> User:
        """Add a person. Without a password they cannot sign in to the console. A token is added separately."""
        address = _email(email)
        hashed = None if password is None else await self._hash(password)
        try:
            return await self._store.add_user(
                user_id=new_id(), email=address, name=checked_name(name, required=False), password_hash=hashed
            )
        except StoreConflict as error:
            raise _taken("duplicate_user", f"a user with the e-mail address {address} exists", "email") from error

    async def set_password(self, user: User, password: str) -> None:
        """Set a person's password. Every session that was opened with an earlier password ends."""
        if not await self._store.set_password(user.id, await self._hash(password)):
            raise NotFound("unknown_user", f"the account of {user.email} is gone")

    async def add_workspace(
        self,
        name: str,
        prefix: str,
        owner: User,
        language: Language = "en",
        *,
        slug: str | None = None,
        shared_prefix: bool = False,
    ) -> Workspace:
        """Add a workspace. Without `slug` one is made from the name, with a number if it is taken.

        Raises Conflict for a slug that is taken, and for a prefix that another workspace has, unless `shared_prefix`:
        the key of an issue would then mean several.
        """
        if not _PREFIX.fullmatch(prefix):
            message = f"the prefix {prefix!r} is not 1 to 10 capital letters and digits with a letter first, like ABC"
            raise Invalid("invalid_prefix", message, field="prefix")
        title = checked_name(name)
        for candidate in _numbered(slug_of(title)) if slug is None else [_checked_slug(slug)]:
            try:
                return await self._store.add_workspace(
                    workspace_id=new_id(),
                    name=title,
                    slug=candidate,
                    prefix=prefix,
                    language=language,
                    owner_id=owner.id,
                    shared_prefix=shared_prefix,
                )
            except StoreConflict as error:
                if error.constraint == SHARED_PREFIX:
                    message = f"another workspace has the prefix {prefix}: choose another one, or say --shared-prefix"
                    raise _taken("duplicate_prefix", message, "prefix") from error
                if error.constraint != "workspace_slug_key":
                    raise
        if slug is not None:
            raise _taken("duplicate_slug", f"another workspace has the slug {slug}", "slug")
        raise _taken(
            "duplicate_workspace", f"{SLUG_ATTEMPTS_MAX} workspaces are called {title}: use another name", "name"
        )

    async def set_language(self, workspace: Workspace, language: Language) -> Workspace:
        """Set the language in which the gateway speaks to the workspace's people from now on."""
        changed = await self._store.set_workspace_language(workspace.id, language)
        if changed is None:
            raise NotFound("unknown_workspace", f"no workspace is called {workspace.slug}")
        return changed

    async def add_member(self, workspace: Workspace, user: User, role: Role = "member") -> Member:
        try:
            return await self._store.add_member(workspace_id=workspace.id, user_id=user.id, role=role)
        except StoreConflict as error:
            message = f"{user.email} is a member of {workspace.slug} already"
            raise _taken("duplicate_member", message, "email") from error

    async def set_role(self, workspace: Workspace, user: User, role: Role) -> Member:
        """Change a member's role. The only owner stays owner (Conflict)."""
        try:
            changed = await self._store.set_member_role(workspace_id=workspace.id, user_id=user.id, role=role)
        except StoreConflict as error:
            raise _last_owner(workspace, user) from error
        if changed is None:
            raise _no_member(workspace, user)
        return changed

    async def remove_member(self, workspace: Workspace, user: User) -> None:
        """End a membership. The person's chat accounts are unbound from every bot of the workspace too.

        The only owner cannot be removed (Conflict), because new agents and bots would then have no owner.
        """
        try:
            removed = await self._store.remove_member(workspace.id, user.id)
        except StoreConflict as error:
            raise _last_owner(workspace, user) from error
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
        """Add an agent. Without `owner` it belongs to the workspace's first owner."""
        title = checked_name(name)
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

    async def set_agent(self, agent: Agent, change: AgentChange) -> Agent:
        """Change an agent. Raises Conflict for a name that another agent of the workspace has."""
        await self._check_runtime(agent.workspace_id, change.runtime_id)
        if change.owner_id is not None and await self._store.member(agent.workspace_id, change.owner_id) is None:
            message = "the new owner is not a member of the agent's workspace"
            raise NotFound("unknown_member", message, field="owner")
        if change.name is not None:
            change = replace(change, name=checked_name(change.name))
        try:
            changed = await self._store.change_agent(agent, change)
        except StoreConflict as error:
            raise _taken("duplicate_agent", f"another agent is called {change.name}", "name") from error
        if changed is None:
            raise NotFound("unknown_agent", f"no agent has the id {agent.id}")
        return changed

    async def add_user_token(self, user: User, name: str = "") -> tuple[ApiToken, str]:
        """Add a token for a person. Return it with its secret.

        Only the secret's hash is stored, so this is the only time it can be shown.
        """
        secret = new_token(USER_TOKEN_PREFIX)
        token = await self._store.add_user_token(
            token_id=new_id(), user_id=user.id, name=checked_name(name, required=False), hashed=token_hash(secret)
        )
        return token, secret

    async def add_runtime(self, workspace: Workspace, name: str) -> tuple[Runtime, str]:
        """Add a runtime. Return it with the secret of its token, which can only be shown this one time."""
        secret, title = new_token(RUNTIME_TOKEN_PREFIX), checked_name(name)
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
            raise NotFound("unknown_runtime", message, field="runtime_id")

    async def _hash(self, password: str) -> str:
        if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
            message = f"the password must have {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters"
            raise Invalid("invalid_password", message, field="password")
        # Hashing takes a tenth of a second by design, so it runs in a thread and does not block the event loop.
        return await trio.to_thread.run_sync(self._passwords.hash, password)


def slug_of(name: str) -> str:
    """Make the path segment of a workspace from its name: lower-case ASCII letters and digits with single hyphens.

    Other scripts are written in Latin letters.
    """
    slug = slugify(name, max_length=SLUG_LENGTH_MAX, entities=False, decimal=False, hexadecimal=False)
    return f"workspace-{slug}".strip("-") if not slug or slug in RESERVED_SLUGS else slug


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    for number in range(2, SLUG_ATTEMPTS_MAX + 1):
        yield f"{slug}-{number}"


def _checked_slug(slug: str) -> str:
    if not _SLUG.fullmatch(slug) or len(slug) > SLUG_LENGTH_MAX:
        message = f"the slug {slug!r} is not 1 to {SLUG_LENGTH_MAX} small letters and digits with single hyphens"
        raise Invalid("invalid_slug", message, field="slug")
    if slug in RESERVED_SLUGS:
        raise Invalid("invalid_slug", f"the slug {slug} is the address of a page of this server", field="slug")
    return slug


def _email(text: str) -> str:
    address = text.strip().lower()
    if not _EMAIL.fullmatch(address) or len(address) > EMAIL_LENGTH_MAX or not address.isprintable():
        raise Invalid("invalid_email", f"{text!r} is not an e-mail address", field="email")
    return address


def _no_member(workspace: Workspace, user: User) -> NotFound:
    message = f"{user.email} is not a member of {workspace.slug}"
    return NotFound("unknown_member", message, field="email")


def _last_owner(workspace: Workspace, user: User) -> Conflict:
    message = f"{user.email} is the only owner of {workspace.slug}; add another owner first"
    return Conflict("last_owner", message)


def _taken(code: str, message: str, field: str) -> Conflict:
    return Conflict(code, message, field=field)
