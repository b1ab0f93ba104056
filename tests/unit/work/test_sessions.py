from __future__ import annotations

from uuid import UUID

import pytest

from gateway.work.tasks.sessions import Queueing, creator_of, judge_queueing, title_of

INSTALLER, SENDER = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(("group", "creator"), [(False, SENDER), (True, INSTALLER)])
def test_session_belongs_to_the_sender_or_in_a_group_to_the_installer(group: bool, creator: UUID) -> None:
    assert creator_of(group=group, installer=INSTALLER, sender=SENDER) == creator


def test_session_of_a_group_without_an_installer_belongs_to_nobody() -> None:
    assert creator_of(group=True, installer=None, sender=SENDER) is None


def test_session_is_titled_after_its_kind() -> None:
    assert (title_of(group=True), title_of(group=False)) == ("Group chat", "Direct chat")


@pytest.mark.parametrize(
    ("agent_archived", "session_archived", "has_runtime", "expected"),
    [
        (False, False, True, Queueing.QUEUED),
        (False, False, False, Queueing.AGENT_OFFLINE),
        (True, False, True, Queueing.AGENT_ARCHIVED),
        (True, True, False, Queueing.AGENT_ARCHIVED),
        (False, True, True, Queueing.SESSION_ARCHIVED),
    ],
)
def test_run_waits_unless_agent_or_session_is_archived(
    agent_archived: bool, session_archived: bool, has_runtime: bool, expected: Queueing
) -> None:
    assert (
        judge_queueing(agent_archived=agent_archived, session_archived=session_archived, has_runtime=has_runtime)
        is expected
    )


def test_runtime_that_was_not_heard_of_is_told_from_none_at_all() -> None:
    state = {"agent_archived": False, "session_archived": False}
    assert judge_queueing(**state, has_runtime=True, runtime_heard=False) is Queueing.RUNTIME_SILENT
    assert judge_queueing(**state, has_runtime=False, runtime_heard=False) is Queueing.AGENT_OFFLINE
