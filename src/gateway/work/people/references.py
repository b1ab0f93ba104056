"""What an operator writes for a person, workspace, agent, runtime, token or bot: its id, or a name that is unique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from gateway.errors import Conflict, NotFound

MATCHES_MAX = 20
"""The most candidates that are read, and so the most that a refusal lists."""


@dataclass(frozen=True, slots=True)
class Match:
    """An object that a reference may mean. `path` names it without doubt, like WORKSPACE/NAME.

    Only matches of the lowest `rank` count: an id (0) before what is unique by itself (1) before a mere name (2).
    """

    id: UUID
    path: str
    rank: int


class ReferenceStore(Protocol):
    """Finds candidates, in the order of their ranks and paths. Every call raises StoreUnavailable."""

    async def users(self, reference: str) -> Sequence[Match]: ...

    async def workspaces(self, reference: str) -> Sequence[Match]: ...

    async def agents(self, workspace_id: UUID | None, reference: str) -> Sequence[Match]: ...

    async def runtimes(self, workspace_id: UUID | None, reference: str) -> Sequence[Match]: ...

    async def tokens(self, reference: str) -> Sequence[Match]: ...

    async def installations(self, channel_type: str, reference: str) -> Sequence[Match]: ...


class References:
    """Turns references into ids.

    Raises NotFound for a reference to nothing, and Conflict for one that may mean several objects.
    """

    def __init__(self, store: ReferenceStore) -> None:
        self._store = store

    async def user(self, reference: str) -> UUID:
        """`reference` is an e-mail address, an id, or a unique name."""
        reference = reference.strip()
        found = await self._store.users(reference)
        missing = f"no user has the e-mail address {reference}"
        return _the_one(reference, found, "user", missing, "give the e-mail address")

    async def workspace(self, reference: str) -> UUID:
        """`reference` is a slug, an id, or a unique name."""
        found = await self._store.workspaces(reference)
        return _the_one(reference, found, "workspace", f"no workspace has the slug or id {reference}", "give the slug")

    async def agent(self, reference: str, *, workspace_id: UUID | None = None) -> UUID:
        """`reference` is an id, a unique name, or WORKSPACE/NAME. With `workspace_id` only its agents count."""
        found = await self._store.agents(workspace_id, reference)
        return _the_one(reference, found, "agent", f"there is no agent {reference!r}", "name it as WORKSPACE/NAME")

    async def runtime(self, reference: str, *, workspace_id: UUID | None = None) -> UUID:
        """`reference` is an id, a unique name, or WORKSPACE/NAME. With `workspace_id` only its runtimes count."""
        found = await self._store.runtimes(workspace_id, reference)
        return _the_one(reference, found, "runtime", f"there is no runtime {reference!r}", "name it as WORKSPACE/NAME")

    async def token(self, reference: str) -> UUID:
        """`reference` is an id, the unique name of a live token, or OWNER/NAME.

        The owner is an e-mail address, or a runtime as WORKSPACE/NAME.
        """
        found = await self._store.tokens(reference)
        return _the_one(reference, found, "token", f"there is no token {reference!r}", "give the id, or OWNER/NAME")

    async def installation(self, channel_type: str, reference: str) -> UUID:
        """`reference` is an id, an app id, or the bot's agent as `agent` takes it."""
        found = await self._store.installations(channel_type, reference)
        missing = f"there is no installation {reference!r}: give its id, its app id or its agent"
        return _the_one(reference, found, "installation", missing, "name the agent as WORKSPACE/NAME")


def _the_one(reference: str, found: Sequence[Match], kind: str, missing: str, remedy: str) -> UUID:
    best = [match for match in found if match.rank == found[0].rank]
    if not best:
        raise NotFound(f"unknown_{kind}", missing, field=kind)
    if len(best) > 1:
        paths = ", ".join(match.path for match in best)
        raise Conflict(f"ambiguous_{kind}", f"{reference!r} may be any of {paths}; {remedy}", field=kind)
    return best[0].id
