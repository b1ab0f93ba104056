"""Product events: counted, and passed on."""

from __future__ import annotations

import pytest

from gateway.core.attachments import FetchProblem
from gateway.core.inbound import DropReason, Outcome
from gateway.observe.events import (
    AckObserver,
    Event,
    FetchObserver,
    InboundObserver,
    SupervisorObserver,
    TypingObserver,
    message_received,
    record_event,
    task_ended,
)
from gateway.observe.metrics import EVENT_OUTCOMES, FAMILIES, FETCH_OUTCOMES, Metrics
from gateway.supervisor.ports import Observer

EVENTS = [
    task_ended("chat", "completed", task_id="t"),
    message_received("feishu", "x"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_event_has_a_counter_in_the_table(event: Event) -> None:
    family = next(family for family in FAMILIES if family.name == event.counter)
    assert family.kind == "counter"
    assert family.labels.keys() == event.labels.keys()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_event_is_counted_and_passed_to_analytics(event: Event) -> None:
    metrics, seen = Metrics(), []
    record_event(event, metrics, seen.append)
    assert seen == [event]
    assert f"{event.counter}{{" in metrics.render().decode()


def test_event_properties_never_become_labels() -> None:
    metrics = Metrics()
    record_event(task_ended("chat", "completed", task_id="secret-task-id"), metrics)
    assert "secret-task-id" not in metrics.render().decode()


def test_event_needs_neither_metrics_nor_analytics() -> None:
    event, seen = task_ended("chat", "completed"), []
    record_event(event, None)
    record_event(event, None, seen.append)
    assert seen == [event]


@pytest.mark.parametrize("value", [*Outcome, *DropReason])
def test_every_outcome_of_the_pipeline_is_in_the_vocabulary(value: str) -> None:
    assert value in EVENT_OUTCOMES


def test_inbound_observer_counts_a_drop_by_its_reason() -> None:
    metrics = Metrics()
    observe = InboundObserver(metrics)
    observe("feishu", Outcome.INGESTED, None)
    observe("toy", Outcome.DROPPED, DropReason.SENDER_IS_BOT)
    text = metrics.render().decode()
    assert 'gateway_channel_events_total{channel="feishu",outcome="ingested"} 1.0' in text
    assert 'gateway_channel_events_total{channel="toy",outcome="sender_is_bot"} 1.0' in text


def test_ack_observer_measures_by_code() -> None:
    metrics = Metrics()
    AckObserver(metrics, "feishu")(0.003, 500)
    text = metrics.render().decode()
    assert 'gateway_channel_ack_seconds_bucket{channel="feishu",code="500",le="0.005"} 1.0' in text


def test_typing_observer_counts_calls_by_their_end() -> None:
    metrics = Metrics()
    TypingObserver(metrics)("hide", "postponed")
    assert 'gateway_typing_calls_total{action="hide",outcome="postponed"} 1.0' in metrics.render().decode()


def test_supervisor_observer_counts_what_the_supervisor_tells() -> None:
    metrics = Metrics()
    observer: Observer = SupervisorObserver(metrics)
    observer.lease_operation("renew", "ok")
    observer.owners(3)
    observer.renewed()
    observer.took_over(0.2)
    observer.unexpected_error("sweep")
    text = metrics.render().decode()
    assert 'gateway_channel_lease_operations_total{operation="renew",outcome="ok"} 1.0' in text
    assert "gateway_channel_lease_active_owners 3.0" in text
    assert "gateway_channel_lease_last_successful_renewal_timestamp_seconds 0.0" not in text
    assert 'gateway_channel_lease_takeover_latency_seconds_bucket{le="1.0"} 1.0' in text
    assert 'gateway_unexpected_errors_total{unit="sweep"} 1.0' in text


def test_every_problem_of_a_file_has_a_word_in_the_metrics() -> None:
    assert {"ready", *FetchProblem} == set(FETCH_OUTCOMES)
    metrics = Metrics()
    FetchObserver(metrics)(FetchProblem.TOO_LARGE)
    assert 'gateway_attachment_fetches_total{outcome="too_large"} 1.0' in metrics.render().decode()
