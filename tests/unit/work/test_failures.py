from __future__ import annotations

import pytest

from gateway.work.failures import (
    AGENT_REASONS,
    PLATFORM_REASONS,
    RETRY_DELAY_SECONDS,
    apology,
    judge_failure,
    known_reason,
)


@pytest.mark.parametrize("reason", sorted(RETRY_DELAY_SECONDS))
def test_reason_that_another_attempt_may_mend_is_retried_until_the_last(reason: str) -> None:
    assert judge_failure(reason, kind="chat", attempt=1, max_attempts=3) is not None
    assert judge_failure(reason, kind="issue", attempt=2, max_attempts=3) is not None
    assert judge_failure(reason, kind="chat", attempt=3, max_attempts=3) is None
    assert judge_failure(reason, kind="chat", attempt=1, max_attempts=1) is None


@pytest.mark.parametrize("reason", sorted((PLATFORM_REASONS | AGENT_REASONS) - set(RETRY_DELAY_SECONDS)))
def test_other_reason_is_final(reason: str) -> None:
    assert judge_failure(reason, kind="chat", attempt=1, max_attempts=3) is None


def test_autopilot_run_is_never_retried() -> None:
    assert judge_failure("timeout", kind="autopilot", attempt=1, max_attempts=3) is None


def test_provider_network_waits_a_little() -> None:
    retry = judge_failure("agent_error.provider_network", kind="chat", attempt=1, max_attempts=3)
    assert retry is not None
    assert retry.delay_seconds == 5


def test_every_retried_reason_belongs_to_the_vocabulary() -> None:
    assert set(RETRY_DELAY_SECONDS) <= PLATFORM_REASONS | AGENT_REASONS


@pytest.mark.parametrize("reason", ["timeout", "agent_error.process_failure"])
def test_known_reason_is_kept(reason: str) -> None:
    assert known_reason(reason) == reason


@pytest.mark.parametrize("reason", ["", "my own words", "TIMEOUT", "agent_error."])
def test_reason_of_somebodys_own_making_is_unknown(reason: str) -> None:
    assert known_reason(reason) == "agent_error.unknown"


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
