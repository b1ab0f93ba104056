"""What an operator lists, looks at, revokes and removes, across workspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

from gateway.errors import Conflict, NotFound
from gateway.ids import RUNTIME_TOKEN_PREFIX, new_id, new_token, token_hash
from gateway.work.people.directory import Agent, ApiToken, Member, Runtime, User, Workspace
from gateway.work.people.references import References

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListedAgent(Agent):
    """An agent with the slug of its workspace, the address of its owner, and the name of its runtime."""

    workspace: str
    owner: str | None
    runtime: str | None

    @property
    def path(self) -> str:
        return f"{self.workspace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ListedRuntime(Runtime):
    """A runtime with the slug of its workspace."""

    workspace: str

    @property
    def path(self) -> str:
        return f"{self.workspace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ListedToken(ApiToken):
    """A token without its secret. `owner` is an e-mail address, or a runtime as WORKSPACE/NAME."""

    owner: str
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Dependents:
    """Objects that keep another one from being removed: their kind and number, and the name of one if it has any."""

    what: str
    count: int
    example: str | None

    def __str__(self) -> str:
        noun, _, rest = self.what.partition(" as ")
        words = f"{self.count} {noun}{'s' if self.count > 1 else ''}{f' as {rest}' if rest else ''}"
        return words if self.example is None else f"{words} ({self.example}{', …' if self.count > 1 else ''})"


class AdministrationStore(Protocol):
    """The store of what an operator sees. Every call raises StoreUnavailable.

    A removal returns what stands in its way. It has removed the object if that is nothing.
    """

    async def users(self, *, user_id: UUID | None = None) -> Sequence[User]: ...

    async def workspaces(self, *, workspace_id: UUID | None = None) -> Sequence[Workspace]: ...

    async def members(self, *, workspace_id: UUID | None = None, user_id: UUID | None = None) -> Sequence[Member]: ...

    async def agents(
        self, *, agent_id: UUID | None = None, workspace_id: UUID | None = None
    ) -> Sequence[ListedAgent]: ...

    async def runtimes(
        self, *, runtime_id: UUID | None = None, workspace_id: UUID | None = None
    ) -> Sequence[ListedRuntime]: ...

    async def tokens(self, *, token_id: UUID | None = None, user_id: UUID | None = None) -> Sequence[ListedToken]: ...

    async def revoke_token(self, token_id: UUID) -> None: ...

    async def replace_runtime_token(self, runtime_id: UUID, token_id: UUID, hashed: str) -> bool:
        """Revoke every token of a runtime and add another, in one statement. False if there is no such runtime."""

    async def remove_user(self, user_id: UUID) -> Sequence[Dependents]:
        """Remove a person with their memberships, bindings, sessions and tokens."""

    async def remove_workspace(self, workspace_id: UUID) -> Sequence[Dependents]: ...

    async def remove_agent(self, agent_id: UUID, workspace_id: UUID) -> Sequence[Dependents]: ...

    async def remove_runtime(self, runtime_id: UUID, workspace_id: UUID) -> Sequence[Dependents]: ...


class Administration:
    """Lists, shows, revokes and removes, for an operator who may do everything.

    Methods that take a reference raise NotFound and Conflict as `References` does. Removals raise Conflict, with the
    reason, while something depends on the object.
    """

    def __init__(self, store: AdministrationStore, references: References) -> None:
        self._store = store
        self._references = references

    async def users(self) -> Sequence[User]:
        return await self._store.users()

    async def user(self, reference: str) -> User:
        user_id = await self._references.user(reference)
        return _only(await self._store.users(user_id=user_id), "user")

    async def workspaces(self) -> Sequence[Workspace]:
        return await self._store.workspaces()

    async def workspace(self, reference: str) -> Workspace:
        workspace_id = await self._references.workspace(reference)
        return _only(await self._store.workspaces(workspace_id=workspace_id), "workspace")

    async def memberships(self, user: User) -> list[tuple[Workspace, Member]]:
        """Return the workspaces of a person, each with their membership in it."""
        members = {member.workspace_id: member for member in await self._store.members(user_id=user.id)}
        return [(place, members[place.id]) for place in await self._store.workspaces() if place.id in members]

    async def members(self, workspace: Workspace) -> Sequence[Member]:
        return await self._store.members(workspace_id=workspace.id)

    async def member(self, workspace: Workspace, user: User) -> Member:
        found = await self._store.members(workspace_id=workspace.id, user_id=user.id)
        if not found:
            message = f"{user.email} is not a member of {workspace.slug}"
            raise NotFound("unknown_member", message, field="email")
        return found[0]

    async def agents(self, workspace_id: UUID | None = None) -> Sequence[ListedAgent]:
        return await self._store.agents(workspace_id=workspace_id)

    async def agent(self, reference: str) -> ListedAgent:
        agent_id = await self._references.agent(reference)
        return _only(await self._store.agents(agent_id=agent_id), "agent")

    async def runtimes(self, workspace_id: UUID | None = None) -> Sequence[ListedRuntime]:
        return await self._store.runtimes(workspace_id=workspace_id)

    async def runtime(self, reference: str) -> ListedRuntime:
        runtime_id = await self._references.runtime(reference)
        return _only(await self._store.runtimes(runtime_id=runtime_id), "runtime")

    async def runtime_id(self, reference: str, workspace_id: UUID) -> UUID:
        """Find a runtime of one workspace. A name need only be unique there."""
        return await self._references.runtime(reference, workspace_id=workspace_id)

    async def tokens(self, user_id: UUID | None = None) -> Sequence[ListedToken]:
        """Return tokens of people and of runtimes, or those of one person. Revoked ones come last."""
        return await self._store.tokens(user_id=user_id)

    async def token(self, reference: str) -> ListedToken:
        token_id = await self._references.token(reference)
        return _only(await self._store.tokens(token_id=token_id), "token")

    async def revoke_token(self, token: ListedToken) -> ListedToken:
        """Revoke a token of a person or runtime, and return it as it is then. From now on nothing accepts it."""
        await self._store.revoke_token(token.id)
        return _only(await self._store.tokens(token_id=token.id), "token")

    async def rotate_runtime_token(self, runtime: ListedRuntime) -> str:
        """Revoke every token of a runtime, and return the secret of a new one, which is shown this one time."""
        secret = new_token(RUNTIME_TOKEN_PREFIX)
        if not await self._store.replace_runtime_token(runtime.id, new_id(), token_hash(secret)):
            raise _gone("runtime")
        return secret

    async def remove_user(self, user: User) -> None:
        """Remove a person who is no workspace's only owner and owns no agent. Their bound accounts are unbound."""
        advice = "add another owner, or give the agents to another member with `gateway admin agent set --owner`"
        _require_free(user.email, await self._store.remove_user(user.id), advice)

    async def remove_workspace(self, workspace: Workspace) -> None:
        """Remove a workspace that holds nothing but its members."""
        _require_free(workspace.slug, await self._store.remove_workspace(workspace.id), "remove these first")

    async def remove_agent(self, agent: ListedAgent) -> None:
        """Remove an agent that never worked. One with a past can only be archived."""
        obstacles = await self._store.remove_agent(agent.id, agent.workspace_id)
        advice = "archive it instead with `gateway admin agent set --archived`, which keeps its past"
        _require_free(agent.path, obstacles, advice)

    async def remove_runtime(self, runtime: ListedRuntime) -> None:
        """Remove a runtime that no agent is set to, and that runs nothing. Its tokens stop working."""
        obstacles = await self._store.remove_runtime(runtime.id, runtime.workspace_id)
        _require_free(
            runtime.path, obstacles, "give its agents another one first with `gateway admin agent set --runtime`"
        )


def _only(found: Sequence[T], kind: str) -> T:
    if not found:
        raise _gone(kind)
    return found[0]


def _require_free(name: str, obstacles: Sequence[Dependents], advice: str) -> None:
    if obstacles:
        raise Conflict("still_needed", f"{name} still has {', '.join(map(str, obstacles))}; {advice}")


def _gone(kind: str) -> NotFound:
    return NotFound(f"unknown_{kind}", f"the {kind} is gone", field=kind)
