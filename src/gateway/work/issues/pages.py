"""One issue, as a member of its workspace looks at it."""

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
    """`key` is what people call it, such as ABC-1."""

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
    """What somebody said to an issue; the gateway itself has no name."""

    author_type: str
    author: str
    body: str = field(repr=False)
    created_at: datetime


class IssuePages(Protocol):
    """Both calls raise StoreUnavailable."""

    async def find(self, user_id: UUID, prefix: str, number: int, *, workspace: str | None) -> IssueView | None:
        """None when there is none for that person, whoever else may see it. `workspace` is a slug."""

    async def comments(self, issue: IssueView, rows_max: int) -> Sequence[CommentView]:
        """The latest ones, oldest first."""


def parse_key(text: str) -> tuple[str, int] | None:
    """Prefix and number of an issue's key; None for what is none."""
    match = _KEY.fullmatch(text)
    return None if match is None else (match[1], int(match[2]))
