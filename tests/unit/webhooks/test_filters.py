from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.webhooks.filters import EventFilter, filters_problem, is_wanted, read_filters, split_event

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parent / "cases" / "webhooks.json").read_bytes()
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["event_filter"]])
def test_filter_lets_pass_what_is_expected(case: dict[str, Any]) -> None:
    given = case["input"]
    stored = given["filters_raw"] if "filters_raw" in given else msgspec.json.encode(given["filters"])
    assert is_wanted(read_filters(stored), given["event"], {"action": given.get("action")}) is case["expected"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["split_event"]])
def test_event_is_split_as_expected(case: dict[str, Any]) -> None:
    assert list(split_event(case["input"])) == case["expected"]


@pytest.mark.parametrize("stored", [None, "", "null", "[]"])
def test_no_filters_let_everything_pass(stored: str | None) -> None:
    assert is_wanted(read_filters(stored), "github.push")


@pytest.mark.parametrize(
    "stored", ["{", '{"event":"push"}', "[1]", '[{"event":1}]', "[{}]", '["push"]', "[" * 5000, b"\xff"]
)
def test_filters_that_cannot_be_read_let_nothing_pass(stored: str | bytes) -> None:
    assert not is_wanted(read_filters(stored), "github.push")


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("github.check_suite.requested", {"conclusion": "failure"}),
        ("github.check_suite", {"status": "failure"}),
        ("check_suite", {"state": "failure"}),
        ("check_suite", {"action": "failure"}),
        ("check_suite.failure", [1]),
    ],
)
def test_action_is_sought_in_the_name_and_in_the_payload(event: str, payload: object) -> None:
    assert is_wanted([EventFilter("check_suite", ("failure",))], event, payload)
    assert not is_wanted([EventFilter("check_suite", ("other",))], event, payload)


def test_two_filters_of_one_event_both_count() -> None:
    filters = [EventFilter("push", ("a",)), EventFilter("push", ("b",))]
    assert is_wanted(filters, "github.push.b")


@pytest.mark.parametrize("wanted", ["github.push", "push", "github.push.now", "push.now"])
def test_filter_may_name_provider_and_action_itself(wanted: str) -> None:
    assert is_wanted([EventFilter(wanted)], "github.push.now")
    assert not is_wanted([EventFilter(wanted)], "github.pull.now")


@pytest.mark.parametrize(
    ("filters", "is_fine"),
    [
        ([EventFilter("push"), EventFilter("pull", ("opened",))], True),
        ([EventFilter(" ")], False),
        ([EventFilter("push", ("",))], False),
        ([EventFilter("x" * 256)], False),
        ([EventFilter("a\x00")], False),
        ([EventFilter("push")] * 101, False),
    ],
)
def test_filters_are_judged_when_written(filters: list[EventFilter], is_fine: bool) -> None:
    assert (filters_problem(filters) is None) is is_fine
