from __future__ import annotations

import pytest

from gateway.work.tasks.failures import (
    AGENT_REASONS,
    PLATFORM_REASONS,
    RETRY_DELAY_SECONDS,
    apology,
    failure_comment,
    judge_failure,
    reason_of,
)

MENDABLE = {
    "runtime_offline",
    "runtime_recovery",
    "timeout",
    "skill_bundle_unavailable",
    "agent_error.provider_network",
}


@pytest.mark.parametrize("reason", sorted(MENDABLE))
def test_reason_that_another_attempt_may_mend_is_retried_until_the_last(reason: str) -> None:
    assert judge_failure(reason, kind="chat", attempt=1, max_attempts=3) is not None
    assert judge_failure(reason, kind="issue", attempt=2, max_attempts=3) is not None
    assert judge_failure(reason, kind="chat", attempt=3, max_attempts=3) is None
    assert judge_failure(reason, kind="chat", attempt=1, max_attempts=1) is None


@pytest.mark.parametrize("reason", sorted((PLATFORM_REASONS | AGENT_REASONS) - MENDABLE))
def test_other_reason_is_final(reason: str) -> None:
    assert judge_failure(reason, kind="chat", attempt=1, max_attempts=3) is None


def test_autopilot_run_is_never_retried() -> None:
    assert judge_failure("timeout", kind="autopilot", attempt=1, max_attempts=3) is None


def test_provider_network_is_tried_three_times_and_waits_before_the_last() -> None:
    delays = []
    for attempt in (1, 2, 3):
        retry = judge_failure("agent_error.provider_network", kind="chat", attempt=attempt, max_attempts=3)
        delays.append(None if retry is None else retry.delay_seconds)
    assert delays == [0, 5, None]


def test_every_retried_reason_belongs_to_the_vocabulary() -> None:
    assert set(RETRY_DELAY_SECONDS) == MENDABLE
    assert MENDABLE <= PLATFORM_REASONS | AGENT_REASONS


@pytest.mark.parametrize("reason", ["timeout", "agent_error.process_failure"])
def test_known_reason_of_the_runtime_wins_over_its_words(reason: str) -> None:
    assert reason_of(reason, "API Error: 401 Unauthorized") == reason


@pytest.mark.parametrize("reason", [None, "", "my own words", "TIMEOUT", "agent_error.", "agent_error.unknown"])
def test_reason_that_says_nothing_is_read_from_the_error(reason: str | None) -> None:
    assert reason_of(reason, "API Error: 401 Unauthorized") == "agent_error.provider_auth_or_access"
    assert reason_of(reason, "my cat walked over the keyboard") == "agent_error.unknown"


@pytest.mark.parametrize(
    ("reason", "language", "expected"),
    [
        ("timeout", "en", "Sorry, I could not answer this: it took too long. Please send it again."),
        (
            "agent_error.process_failure",
            "en",
            "Sorry, I could not answer this: the agent failed. Please send it again.",
        ),
        ("runtime_offline", "zh-Hans", "抱歉，未能完成回答：运行环境已离线。请重新发送。"),
        ("timeout", "xx", "Sorry, I could not answer this: it took too long. Please send it again."),
    ],
)
def test_apology_is_short_and_in_the_persons_language(reason: str, language: str, expected: str) -> None:
    assert apology(reason, language) == expected


@pytest.mark.parametrize(
    ("reason", "language", "expected"),
    [
        ("timeout", "en", "The run ended without a result: it took too long."),
        ("runtime_offline", "en", "The run ended without a result: the computer that ran the agent went offline."),
        ("agent_error.provider_auth_or_access", "en", "The run ended without a result: the agent failed."),
        ("runtime_recovery", "zh-Hans", "运行未产生结果：运行环境已重启。"),
        ("timeout", "xx", "The run ended without a result: it took too long."),
    ],
)
def test_failure_comment_tells_the_issues_readers_why(reason: str, language: str, expected: str) -> None:
    assert failure_comment(reason, language) == expected
