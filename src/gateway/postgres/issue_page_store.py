"""Issues as people see them on a page, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from gateway.postgres.pool import Pool
from gateway.postgres.statements import SqlFile
from gateway.work.issues.pages import CommentView, IssueView

_SQL = SqlFile("issue_page.sql")
_FIND_ISSUE = _SQL.one_or_none("find_issue", IssueView)
_LIST_ISSUE_COMMENTS = _SQL.many("list_issue_comments", CommentView)


class PostgresIssuePages:
    """Implements gateway.work.issues.pages.IssuePages on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, user_id: UUID, prefix: str, number: int, *, workspace: str | None) -> IssueView | None:
        return await _FIND_ISSUE(self._pool, user_id=user_id, workspace=workspace, prefix=prefix, number=number)

    async def comments(self, issue: IssueView, rows_max: int) -> Sequence[CommentView]:
        return await _LIST_ISSUE_COMMENTS(
            self._pool, issue_id=issue.id, workspace_id=issue.workspace_id, row_limit=rows_max
        )
