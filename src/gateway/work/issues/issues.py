"""The filing of issues. There is only one way to file them, so no caller can leave out a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol
from uuid import UUID

import structlog

from gateway.concurrency import reached
from gateway.core.replies import identifier
from gateway.errors import Invalid, StoreError
from gateway.ids import new_id
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.sessions import Queueing

IssueStatus = Literal["backlog", "todo", "in_progress", "in_review", "done", "blocked", "cancelled"]
Priority = Literal["urgent", "high", "medium", "low", "none"]
ActorType = Literal["member", "agent", "system"]
AssigneeType = Literal["member", "agent", "squad"]
OriginType = Literal["quick_create", "autopilot", "lark_chat"]

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IssueDraft:
    """An issue to be filed. `allow_duplicate` files it even if an open issue has the same title."""

    workspace_id: UUID
    title: str = field(repr=False)
    description: str = field(default="", repr=False)
    status: IssueStatus = "todo"
    priority: Priority = "none"
    project_id: UUID | None = None
    parent_id: UUID | None = None
    assignee_type: AssigneeType | None = None
    assignee_id: UUID | None = None
    creator_type: ActorType = "member"
    creator_id: UUID | None = None
    origin_type: OriginType | None = None
    origin_id: UUID | None = None
    allow_duplicate: bool = False
    source_message_id: UUID | None = None
    """The message that asked for the issue. The message's files become the issue's files."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A stored issue."""

    id: UUID
    workspace_id: UUID
    number: int
    title: str = field(repr=False)
    status: str
    project_id: UUID | None
    parent_issue_id: UUID | None


@dataclass(frozen=True, slots=True)
class Parent:
    """The fields of a parent that a child issue inherits or refers to."""

    id: UUID
    project_id: UUID | None


@dataclass(frozen=True, slots=True)
class Filed:
    """The outcome of a draft. `duplicate`: nothing was filed, and `issue` is the open issue that existed already.

    `queueing` is the result of queueing the run of its agent. It is None when no agent has to run.
    """

    issue: Issue
    identifier: str
    duplicate: bool = False
    queueing: Queueing | None = None


@dataclass(frozen=True, slots=True)
class IssueFile:
    """A file of the message that asked for the issue. `kind` is image, file, audio or video."""

    id: UUID
    kind: str


Illustrate = Callable[[Sequence[IssueFile]], str | None]
"""Makes a description that shows the issue's files, which are given in the order of their message.

None leaves the description as it is.
"""


class Filing(Protocol):
    """One transaction, which commits when its block ends without an exception."""

    async def find_parent(self, workspace_id: UUID, parent_id: UUID) -> Parent | None: ...

    async def has_project(self, workspace_id: UUID, project_id: UUID) -> bool: ...

    async def find_duplicate(self, draft: IssueDraft) -> Issue | None:
        """Find the oldest open issue with the draft's title, project and parent.

        Concurrent filings of the same title wait until this transaction ends. Titles that differ only in case and white
        space count as the same.
        """

    async def reserve_title(self, draft: IssueDraft) -> None:
        """Wait for concurrent filings of the same title, as `find_duplicate` does, without looking for a duplicate."""

    async def insert(self, issue_id: UUID, draft: IssueDraft) -> Issue:
        """Insert the issue under the workspace's next number."""

    async def take_attachments(self, issue_id: UUID, message_id: UUID) -> Sequence[IssueFile]:
        """Move the files of the message to the issue, and return them in the message's order.

        The issue's run now waits for them.
        """

    async def describe(self, issue: Issue, description: str) -> None:
        """Replace the issue's description."""

    async def enqueue(self, issue_id: UUID, initiator_id: UUID | None) -> Queueing | None:
        """Queue the run of the issue's agent, if it has one and is not in the backlog."""

    async def send_notice(self, notice: Notice) -> None: ...

    async def announce(self, event: str, fields: Mapping[str, Any]) -> None:
        """Tell live listeners, after the commit. The fields hold ids only, never content."""


class IssueStore(Protocol):
    """The store of issues. Every call raises StoreUnavailable, or StoreConflict after a concurrent change."""

    async def find_prefix(self, workspace_id: UUID) -> str | None: ...

    def filing(self) -> AbstractAsyncContextManager[Filing]: ...


class IssueService:
    """Files issues for every caller, such as commands and autopilots."""

    def __init__(self, store: IssueStore, *, mint: Callable[[], UUID] = new_id) -> None:
        self._store = store
        self._mint = mint

    async def file(
        self,
        draft: IssueDraft,
        *,
        notice: Callable[[Filed], Notice] | None = None,
        illustrate: Illustrate | None = None,
    ) -> Filed:
        """File the draft, queue its agent's run, and announce it, in one transaction.

        A draft that is a duplicate of an open issue is not an error: the result names the open issue. `notice` makes
        the message to the person who asked. It is written in the same transaction. `illustrate` puts the files of the
        message that asked into the description.

        Raises Invalid for an empty title, or a parent or project that this workspace does not have.
        """
        _require_title(draft)
        prefix = await self._prefix(draft.workspace_id)
        async with self._store.filing() as filing:
            filed = await self.file_within(filing, draft, prefix=prefix, illustrate=illustrate)
            if notice is not None:
                await filing.send_notice(notice(filed))
            reached("issue.filing")
        logger.info("issue_filed", issue_id=str(filed.issue.id), duplicate=filed.duplicate)
        return filed

    async def file_within(
        self, filing: Filing, draft: IssueDraft, *, prefix: str | None = None, illustrate: Illustrate | None = None
    ) -> Filed:
        """File the draft as part of the caller's transaction. Raises Invalid as `file` does."""
        _require_title(draft)
        draft = await _placed(filing, draft)
        if draft.allow_duplicate:
            await filing.reserve_title(draft)
        elif (found := await filing.find_duplicate(draft)) is not None:
            return Filed(found, identifier(prefix, found.number), duplicate=True)
        issue = await filing.insert(self._mint(), draft)
        if draft.source_message_id is not None:
            files = await filing.take_attachments(issue.id, draft.source_message_id)
            description = illustrate(files) if files and illustrate is not None else None
            if description is not None:
                await filing.describe(issue, description)
        await filing.announce("issue:created", {"workspace_id": issue.workspace_id, "issue_id": issue.id})
        queueing = await filing.enqueue(issue.id, draft.creator_id if draft.creator_type == "member" else None)
        return Filed(issue, identifier(prefix, issue.number), queueing=queueing)

    async def _prefix(self, workspace_id: UUID) -> str | None:
        """Return the prefix of the workspace's issue keys, or None when the store fails.

        The issue is filed all the same, because it matters more than the first half of its key.
        """
        try:
            return await self._store.find_prefix(workspace_id)
        except StoreError as error:
            logger.warning("issue_prefix_unknown", workspace_id=str(workspace_id), error=str(error))
            return None


def _require_title(draft: IssueDraft) -> None:
    if not draft.title.strip():
        raise Invalid("invalid_title", "the title is empty", field="title")


async def _placed(filing: Filing, draft: IssueDraft) -> IssueDraft:
    """Check the draft's parent and project under locks. A child without a project gets its parent's project."""
    if draft.parent_id is not None:
        parent = await filing.find_parent(draft.workspace_id, draft.parent_id)
        if parent is None:
            message = f"this workspace has no issue {draft.parent_id}"
            raise Invalid("unknown_parent", message, field="parent_id")
        draft = replace(draft, project_id=draft.project_id or parent.project_id)
    if draft.project_id is not None and not await filing.has_project(draft.workspace_id, draft.project_id):
        message = f"this workspace has no project {draft.project_id}"
        raise Invalid("unknown_project", message, field="project_id")
    return draft
