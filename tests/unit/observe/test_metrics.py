"""The table of families, and that nothing gets past its vocabularies."""

from __future__ import annotations

import pytest

from gateway import __version__
from gateway.core.attachments import FetchProblem
from gateway.core.inbound import DropReason, Outcome
from gateway.observe.metrics import (
    EVENT_OUTCOMES,
    FAMILIES,
    FETCH_OUTCOMES,
    FORBIDDEN_LABELS,
    OURS,
    Family,
    Metrics,
    one_of,
)


def rendered(metrics: Metrics) -> str:
    return metrics.render().decode()


@pytest.mark.parametrize(
    "label",
    [
        "workspace_id", "installation_id", "user_id", "agent_id", "task_id", "issue_id", "runtime_id", "session_id",
        "ip", "chat_id", "open_id", "message_id", "app_id", "token", "email",
    ],
)  # fmt: skip
def test_family_with_forbidden_label_is_refused(label: str) -> None:
    family = Family("gateway_things_total", "counter", "Things.", {label: OURS})
    with pytest.raises(ValueError, match=label):
        Metrics([family])


def test_table_declares_no_forbidden_label() -> None:
    assert not [family.name for family in FAMILIES if FORBIDDEN_LABELS & family.labels.keys()]


@pytest.mark.parametrize(
    "family",
    [
        Family("things_total", "counter", "Without the prefix."),
        Family("gateway_things", "counter", "A counter without _total."),
        Family("gateway_things_total", "gauge", "A gauge with _total."),
        Family("gateway_things_seconds", "histogram", "Without buckets."),
        Family("gateway_things", "gauge", "With buckets.", {}, (1.0,)),
    ],
    ids=lambda family: family.help,
)
def test_family_that_breaks_a_rule_is_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=family.name):
        Metrics([family])


def test_registry_exposes_every_declared_family() -> None:
    text = rendered(Metrics())
    for family in FAMILIES:
        kind_line = f"# TYPE {family.name.removesuffix('_total')} {family.kind}\n"
        assert kind_line in text


def test_render_is_openmetrics_with_build_info() -> None:
    text = rendered(Metrics())
    assert f'gateway_build_info{{version="{__version__}"}} 1.0' in text
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("given", "shown"),
    [("ingested", "ingested"), (" Ingested ", "ingested"), ("ou_somebody", "other"), ("", "other"), ("a\nb", "other")],
)
def test_label_value_outside_its_vocabulary_becomes_other(given: str, shown: str) -> None:
    metrics = Metrics()
    metrics.count("channel_events", channel="feishu", outcome=given)
    assert f'gateway_channel_events_total{{channel="feishu",outcome="{shown}"}} 1.0' in rendered(metrics)


def test_vocabulary_may_have_a_fallback_of_its_own() -> None:
    assert one_of("a", fallback="unknown").normalise("b") == "unknown"


def test_method_unknown_to_http_becomes_other() -> None:
    metrics = Metrics()
    metrics.count("http_requests", method="hunter2", route="/x", status="999")
    assert 'gateway_http_requests_total{method="other",route="/x",status="other"} 1.0' in rendered(metrics)


def test_event_has_the_name_of_its_family_without_prefix_and_total() -> None:
    named = [Family("gateway_things_total", "counter", "Things."), Family("gateway_total_things", "gauge", "Things.")]
    assert [family.event for family in named] == ["things", "total_things"]


def test_wrong_name_or_labels_are_a_bug_of_the_caller() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.count("nothing")
    with pytest.raises(KeyError):
        metrics.count("gateway_channel_events_total", channel="feishu", outcome="ingested")
    with pytest.raises(KeyError):
        metrics.count("channel_events", channel="feishu")
    with pytest.raises(KeyError):
        metrics.count("http_in_flight", user_id="x")


def test_gauge_and_histogram_take_values() -> None:
    metrics = Metrics()
    metrics.set("channel_connections", 3, channel="feishu", state="live")
    metrics.set("http_in_flight", 2)
    metrics.set("http_in_flight", 1)
    metrics.observe("channel_ack_seconds", 0.004, channel="feishu", code="200")
    text = rendered(metrics)
    assert 'gateway_channel_connections{channel="feishu",state="live"} 3.0' in text
    assert "gateway_http_in_flight 1.0" in text
    assert 'gateway_channel_ack_seconds_bucket{channel="feishu",code="200",le="0.005"} 1.0' in text


@pytest.mark.parametrize("value", [*Outcome, *DropReason])
def test_every_outcome_of_the_pipeline_is_in_the_vocabulary(value: str) -> None:
    assert value in EVENT_OUTCOMES


def test_every_problem_of_a_file_has_a_word_in_the_metrics() -> None:
    assert {"ready", *FetchProblem} == set(FETCH_OUTCOMES)


def test_two_registries_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.count("channel_events", channel="feishu", outcome="ingested")
    assert "gateway_channel_events_total{" not in rendered(other)
