"""Issues as people see them on a page, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.issues.pages import CommentView, IssueView

_Q = load("issue_page.sql", CommentView, IssueView)


class PostgresIssuePages:
    """Implements gateway.work.issues.pages.IssuePages on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, user_id: UUID, prefix: str, number: int, *, workspace: str | None) -> IssueView | None:
        async with self._pool.connection() as conn:
            issue: IssueView | None = await _Q.find_issue(
                conn, user_id=user_id, workspace=workspace, prefix=prefix, number=number
            )
            return issue

    async def comments(self, issue: IssueView, rows_max: int) -> Sequence[CommentView]:
        async with self._pool.connection() as conn:
            comments: Sequence[CommentView] = await _Q.list_issue_comments(
                conn, issue_id=issue.id, workspace_id=issue.workspace_id, row_limit=rows_max
            )
            return comments
