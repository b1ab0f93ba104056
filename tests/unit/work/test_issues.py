from __future__ import annotations

from uuid import uuid4

import pytest

from gateway.errors import Invalid, StoreUnavailable
from gateway.work.issues.issues import IssueDraft, IssueService
from support.issue_memory import MemoryIssues

WORKSPACE = uuid4()


class Away(MemoryIssues):
    async def find_prefix(self, workspace_id: object) -> str | None:
        raise StoreUnavailable("the database is away")


async def test_issue_is_called_by_prefix_and_number() -> None:
    service = IssueService(MemoryIssues(prefixes={WORKSPACE: "ABC"}))
    assert (await service.file(IssueDraft(WORKSPACE, "one"))).identifier == "ABC-1"
    assert (await service.file(IssueDraft(WORKSPACE, "two"))).identifier == "ABC-2"


@pytest.mark.parametrize("store", [Away(), MemoryIssues()], ids=["away", "unknown"])
async def test_workspace_that_cannot_be_looked_up_leaves_the_number(store: MemoryIssues) -> None:
    store.counters[WORKSPACE] = 6
    assert (await IssueService(store).file(IssueDraft(WORKSPACE, "x"))).identifier == "#7"


async def test_empty_title_is_refused_before_anything_is_written() -> None:
    store = MemoryIssues()
    with pytest.raises(Invalid, match="title is empty"):
        await IssueService(store).file(IssueDraft(WORKSPACE, " \n"))
    assert store.issues == []


async def test_refused_parent_and_project_name_their_field() -> None:
    service = IssueService(MemoryIssues())
    for draft, name in (
        (IssueDraft(WORKSPACE, "x", parent_id=uuid4()), "parent_id"),
        (IssueDraft(WORKSPACE, "x", project_id=uuid4()), "project_id"),
    ):
        with pytest.raises(Invalid) as refused:
            await service.file(draft)
        assert refused.value.extra["field"] == name
