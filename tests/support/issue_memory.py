"""The issue service's store in memory: the same promises as Postgres."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import trio

from gateway.work.issues.issues import Issue, IssueDraft, IssueFile, Parent
from gateway.work.tasks.notices import Notice
from gateway.work.tasks.sessions import Queueing


@dataclass
class MemoryIssues:
    """Implements gateway.work.issues.issues.IssueStore and Filing; one filing at a time, which undoes nothing.

    `queueing_of` decides what becomes of an agent's run.
    """

    queueing_of: Callable[[UUID], Queueing] = lambda _: Queueing.QUEUED
    prefixes: dict[UUID, str] = field(default_factory=dict)
    files: dict[UUID, list[IssueFile]] = field(default_factory=dict)
    projects: set[tuple[UUID, UUID]] = field(default_factory=set)
    issues: list[tuple[IssueDraft, Issue]] = field(default_factory=list)
    runs: list[tuple[UUID, UUID | None]] = field(default_factory=list)
    notices: dict[UUID, Notice] = field(default_factory=dict)
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    counters: Counter[UUID] = field(default_factory=Counter)
    lock: trio.Lock = field(default_factory=trio.Lock)

    async def find_prefix(self, workspace_id: UUID) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.prefixes.get(workspace_id)

    @asynccontextmanager
    async def filing(self) -> AsyncIterator[MemoryIssues]:
        async with self.lock:
            yield self

    async def find_parent(self, workspace_id: UUID, parent_id: UUID) -> Parent | None:
        found = (issue for _, issue in self.issues if issue.id == parent_id and issue.workspace_id == workspace_id)
        parent = next(found, None)
        return None if parent is None else Parent(parent.id, parent.project_id)

    async def has_project(self, workspace_id: UUID, project_id: UUID) -> bool:
        return (workspace_id, project_id) in self.projects

    async def find_duplicate(self, draft: IssueDraft) -> Issue | None:
        place = (draft.workspace_id, draft.project_id, draft.parent_id, _normalised(draft.title))
        for _, issue in self.issues:
            there = (issue.workspace_id, issue.project_id, issue.parent_issue_id, _normalised(issue.title))
            if there == place and issue.status not in {"done", "cancelled"}:
                return issue
        return None

    async def reserve_title(self, draft: IssueDraft) -> None:
        pass

    async def insert(self, issue_id: UUID, draft: IssueDraft) -> Issue:
        await trio.lowlevel.checkpoint()
        self.counters[draft.workspace_id] += 1
        issue = Issue(
            id=issue_id,
            workspace_id=draft.workspace_id,
            number=self.counters[draft.workspace_id],
            title=draft.title,
            status=draft.status,
            project_id=draft.project_id,
            parent_issue_id=draft.parent_id,
        )
        self.issues.append((draft, issue))
        return issue

    async def take_attachments(self, issue_id: UUID, message_id: UUID) -> list[IssueFile]:
        return self.files.get(message_id, [])

    async def describe(self, issue: Issue, description: str) -> None:
        self.issues = [
            (replace(draft, description=description) if kept.id == issue.id else draft, kept)
            for draft, kept in self.issues
        ]

    async def enqueue(self, issue_id: UUID, initiator_id: UUID | None) -> Queueing | None:
        draft = next(draft for draft, issue in self.issues if issue.id == issue_id)
        if draft.assignee_type != "agent" or draft.assignee_id is None or draft.status == "backlog":
            return None
        queueing = self.queueing_of(draft.assignee_id)
        if queueing is not Queueing.AGENT_ARCHIVED:
            self.runs.append((issue_id, initiator_id))
        return queueing

    async def send_notice(self, notice: Notice) -> None:
        self.notices.setdefault(notice.key, notice)

    async def announce(self, event: str, fields: Mapping[str, Any]) -> None:
        self.events.append((event, fields))


def _normalised(title: str) -> str:
    return " ".join(title.split()).lower()
