"""Issues, in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.errors import StoreConflict
from gateway.ids import new_id
from gateway.postgres.driver import TrioConnection
from gateway.postgres.events import announce
from gateway.postgres.notices import write_notice
from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.issues.issues import Issue, IssueDraft, IssueFile, Parent
from gateway.work.tasks.attachments import FETCH_SECONDS
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.ports import SILENT_SECONDS
from gateway.work.tasks.sessions import Queueing, judge_queueing


@dataclass(frozen=True, slots=True)
class IssueTarget:
    agent_archived: bool
    has_runtime: bool
    absent: bool


_SQL = SqlFile("issue.sql")
_GET_ISSUE_PREFIX = _SQL.value_or_none("get_issue_prefix", str)
_GET_PARENT_ISSUE = _SQL.one_or_none("get_parent_issue", Parent)
_LOCK_PROJECT = _SQL.value_or_none("lock_project", UUID)
_LOCK_ISSUE_TITLE = _SQL.count("lock_issue_title")
_FIND_OPEN_ISSUE = _SQL.one_or_none("find_open_issue", Issue)
_TAKE_ISSUE_NUMBER = _SQL.value_or_none("take_issue_number", int)
_CREATE_ISSUE = _SQL.one("create_issue", Issue)
_TAKE_ISSUE_ATTACHMENTS = _SQL.many("take_issue_attachments", IssueFile)
_SET_ISSUE_DESCRIPTION = _SQL.count("set_issue_description")
_ENQUEUE_ISSUE_TASK = _SQL.one_or_none("enqueue_issue_task", IssueTarget)


class PostgresIssueStore:
    """Implements gateway.work.issues.issues.IssueStore on a pool that the caller owns.

    A runtime that was silent for `silent_seconds` counts as absent.
    """

    def __init__(
        self, pool: Pool, *, silent_seconds: float = SILENT_SECONDS, mint: Callable[[], UUID] = new_id
    ) -> None:
        self._pool = pool
        self._silent = silent_seconds
        self._mint = mint

    async def find_prefix(self, workspace_id: UUID) -> str | None:
        return await _GET_ISSUE_PREFIX(self._pool, workspace_id=workspace_id)

    @asynccontextmanager
    async def filing(self) -> AsyncIterator[PostgresFiling]:
        async with self._pool.transaction() as conn:
            yield PostgresFiling(conn, self._mint, silent_seconds=self._silent)


class PostgresFiling:
    """Implements gateway.work.issues.issues.Filing within the store's transaction."""

    def __init__(
        self, conn: TrioConnection[Any], mint: Callable[[], UUID], *, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self._conn = conn
        self._mint = mint
        self._silent = silent_seconds

    async def find_parent(self, workspace_id: UUID, parent_id: UUID) -> Parent | None:
        return await _GET_PARENT_ISSUE(self._conn, workspace_id=workspace_id, parent_id=parent_id)

    async def has_project(self, workspace_id: UUID, project_id: UUID) -> bool:
        return await _LOCK_PROJECT(self._conn, workspace_id=workspace_id, project_id=project_id) is not None

    async def find_duplicate(self, draft: IssueDraft) -> Issue | None:
        await self.reserve_title(draft)
        return await _FIND_OPEN_ISSUE(self._conn, **_place(draft))

    async def reserve_title(self, draft: IssueDraft) -> None:
        await _LOCK_ISSUE_TITLE(self._conn, **_place(draft))

    async def insert(self, issue_id: UUID, draft: IssueDraft) -> Issue:
        number = await _TAKE_ISSUE_NUMBER(self._conn, workspace_id=draft.workspace_id)
        if number is None:
            raise StoreConflict("the workspace was deleted before its issue could be filed")
        return await _CREATE_ISSUE(
            self._conn,
            id=issue_id,
            **_place(draft),
            number=number,
            description=draft.description,
            status=draft.status,
            priority=draft.priority,
            assignee_type=draft.assignee_type,
            assignee_id=draft.assignee_id,
            creator_type=draft.creator_type,
            creator_id=draft.creator_id,
            origin_type=draft.origin_type,
            origin_id=draft.origin_id,
        )

    async def take_attachments(self, issue_id: UUID, message_id: UUID) -> list[IssueFile]:
        return await _TAKE_ISSUE_ATTACHMENTS(
            self._conn, issue_id=issue_id, message_id=message_id, fetch_seconds=FETCH_SECONDS
        )

    async def describe(self, issue: Issue, description: str) -> None:
        await _SET_ISSUE_DESCRIPTION(
            self._conn, workspace_id=issue.workspace_id, issue_id=issue.id, description=description
        )

    async def enqueue(self, issue_id: UUID, initiator_id: UUID | None) -> Queueing | None:
        target = await _ENQUEUE_ISSUE_TASK(
            self._conn, task_id=self._mint(), issue_id=issue_id, initiator_id=initiator_id, silent_seconds=self._silent
        )
        if target is None:
            return None
        return judge_queueing(
            agent_archived=target.agent_archived,
            session_archived=False,
            has_runtime=target.has_runtime,
            runtime_heard=not target.absent,
        )

    async def send_notice(self, notice: Notice) -> None:
        await write_notice(self._conn, notice)

    async def announce(self, event: str, fields: Mapping[str, Any]) -> None:
        await announce(self._conn, event, fields)


def _place(draft: IssueDraft) -> dict[str, Any]:
    return {
        "workspace_id": draft.workspace_id,
        "project_id": draft.project_id,
        "parent_id": draft.parent_id,
        "title": draft.title,
    }
