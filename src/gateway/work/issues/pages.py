"""The page of one issue, for a member of its workspace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

_KEY = re.compile(r"([A-Za-z][A-Za-z0-9]{0,9})-([1-9][0-9]{0,8})")
COMMENTS_MAX = 200


@dataclass(frozen=True, slots=True)
class IssueView:
    """An issue on its page. `key` is its name for people, such as ABC-1."""

    id: UUID
    workspace_id: UUID
    workspace_slug: str
    key: str
    title: str = field(repr=False)
    description: str = field(repr=False)
    status: str
    created_at: datetime
    assignee: str | None


@dataclass(frozen=True, slots=True)
class CommentView:
    """A comment on an issue. A comment of the gateway itself has no author's name."""

    author_type: str
    author: str
    body: str = field(repr=False)
    created_at: datetime


class IssuePages(Protocol):
    """The store of issue pages. Both calls raise StoreUnavailable."""

    async def find(self, user_id: UUID, prefix: str, number: int, *, workspace: str | None) -> IssueView | None:
        """Find an issue. None when it does not exist or the person may not see it. `workspace` is a slug."""

    async def comments(self, issue: IssueView, rows_max: int) -> Sequence[CommentView]:
        """Return the latest comments, oldest first."""


def parse_key(text: str) -> tuple[str, int] | None:
    """Split an issue's key into prefix and number. None if the text is not a key."""
    match = _KEY.fullmatch(text)
    return None if match is None else (match[1], int(match[2]))
