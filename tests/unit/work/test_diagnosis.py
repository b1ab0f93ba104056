"""Last words of real programs, and what they speak of."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gateway.work.tasks.diagnosis import DIAGNOSIS_CHARS_MAX, RULES, diagnose
from gateway.work.tasks.failures import AGENT_REASONS, judge_failure

CASES = json.loads((Path(__file__).parent / "cases" / "failures.json").read_text())
PROVIDERS = [(error, reason) for reason, errors in CASES["providers"].items() for error in errors]
SAMPLES = [(error, reason) for reason, errors in CASES["last_words"].items() for error in errors]


@pytest.mark.parametrize(("error", "expected"), CASES["failure_classify"])
def test_error_of_an_agent_is_classified(error: str, expected: str) -> None:
    assert diagnose(error) == expected


@pytest.mark.parametrize(("error", "expected"), SAMPLES)
def test_last_words_of_a_real_program_are_classified(error: str, expected: str) -> None:
    assert diagnose(error) == expected


@pytest.mark.parametrize(("error", "expected"), PROVIDERS)
def test_words_of_providers_and_networks_are_told_apart(error: str, expected: str) -> None:
    assert diagnose(error) == expected


def test_network_is_tried_again_and_what_would_fail_again_is_not() -> None:
    retried = {reason for _, reason in PROVIDERS if judge_failure(reason, kind="chat", attempt=1, max_attempts=3)}
    assert retried == {"agent_error.provider_network"}


def test_every_agent_reason_but_unknown_has_a_rule() -> None:
    assert {f"agent_error.{rule.reason}" for rule in RULES} == AGENT_REASONS - {"agent_error.unknown"}


@pytest.mark.parametrize("code", ["401", "402", "429", "500", "529"])
def test_number_that_is_no_status_says_nothing(code: str) -> None:
    for words in (f"1{code}", f"{code}1", f"id x{code}", f"{code} ms", f"0.{code}", f"line {code}", f"/tmp/{code}/x"):
        assert diagnose(words) == "agent_error.unknown", words


@pytest.mark.parametrize("words", ["{}", "HTTP {}", "status={}", "(code {})", '"status":{}', "error {}: no", "http_{}"])
def test_status_is_found_wherever_it_stands_by_itself(words: str) -> None:
    assert diagnose(words.replace("{}", "503")) == "agent_error.provider_server_error"


def test_first_rule_wins_over_the_exit_status_that_it_led_to() -> None:
    assert diagnose("the program ended with exit status 1\nAPI Error: 529 Overloaded") == (
        "agent_error.provider_capacity_or_rate_limit"
    )


def test_only_the_end_of_a_long_error_counts() -> None:
    assert diagnose("401 Unauthorized" + "." * DIAGNOSIS_CHARS_MAX) == "agent_error.unknown"
    assert diagnose("." * 1_000_000 + " 401 Unauthorized") == "agent_error.provider_auth_or_access"


@pytest.mark.parametrize(
    "unit", ["x", "model:", "no ", "get http://a", "missing ", "api key ", "version ", "-", "a_b "]
)
def test_error_made_to_be_slow_is_read_in_no_time(unit: str) -> None:
    begun = time.process_time()
    diagnose(unit * DIAGNOSIS_CHARS_MAX)
    assert time.process_time() - begun < 1
