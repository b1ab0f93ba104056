"""Product events. One call counts an event and, if analytics are configured, passes it on to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.core.autopilot import cadence, run_error_type
from gateway.observe.metrics import Metrics

Analytics = Callable[["Event"], None]
"""A callback that takes an event for product analytics. It must not block and must not raise."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the product. `counter` is the metric family that counts it, `labels` are that family's labels.

    `properties` go to analytics only and may hold ids. They never become labels.
    """

    name: str
    counter: str
    labels: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, object] = field(default_factory=dict)


def task_ended(kind: str, status: str, *, task_id: str = "") -> Event:
    labels = {"kind": kind, "status": status}
    return Event("task_ended", "gateway_agent_task_terminal_total", labels, {"task_id": task_id})


def message_received(channel: str, outcome: str) -> Event:
    return Event("message_received", "gateway_channel_events_total", {"channel": channel, "outcome": outcome})


def autopilot_run_started(source: str) -> Event:
    labels = {"cadence": cadence(source), "trigger_kind": source}
    return Event("autopilot_run_started", "gateway_autopilot_run_started_total", labels)


def autopilot_run_skipped(source: str, reason_code: str) -> Event:
    labels = {"cadence": cadence(source), "reason": reason_code}
    return Event("autopilot_run_skipped", "gateway_autopilot_run_skipped_total", labels)


def autopilot_run_ended(source: str, status: str) -> Event:
    labels = {"cadence": cadence(source), "trigger_kind": source, "terminal_status": status}
    return Event("autopilot_run_ended", "gateway_autopilot_run_terminal_total", labels)


def autopilot_run_failed(source: str, error_type: str) -> Event:
    labels = {"trigger_kind": source, "error_type": error_type}
    return Event("autopilot_run_failed", "gateway_autopilot_run_failed_total", labels)


def record_event(event: Event, metrics: Metrics | None, analytics: Analytics | None = None) -> None:
    """Count the event in `metrics` and pass it on to `analytics`. Either may be absent."""
    if analytics is not None:
        analytics(event)
    if metrics is not None:
        metrics.count(event.counter, **event.labels)


class InboundObserver:
    """Counts inbound messages by outcome: a callback for `inbound.pipeline`. A drop is counted by its reason."""

    def __init__(self, metrics: Metrics, *, analytics: Analytics | None = None) -> None:
        self._metrics = metrics
        self._analytics = analytics

    def __call__(self, channel: str, outcome: str, reason: str | None) -> None:
        record_event(message_received(channel, reason or outcome), self._metrics, self._analytics)


class AckObserver:
    """Measures acknowledgements: a callback given the seconds since the event arrived, and the code of the answer."""

    def __init__(self, metrics: Metrics, channel: str) -> None:
        self._metrics = metrics
        self._channel = channel

    def __call__(self, seconds: float, code: int) -> None:
        self._metrics.observe("gateway_channel_ack_seconds", seconds, channel=self._channel, code=str(code))


class SupervisorObserver:
    """Implements `supervisor.ports.Observer` on metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def lease_operation(self, operation: str, outcome: str) -> None:
        self._metrics.count("gateway_channel_lease_operations_total", operation=operation, outcome=outcome)

    def owners(self, count: int) -> None:
        self._metrics.set("gateway_channel_lease_active_owners", count)

    def renewed(self) -> None:
        self._metrics.set("gateway_channel_lease_last_successful_renewal_timestamp_seconds", time.time())

    def took_over(self, seconds: float) -> None:
        self._metrics.observe("gateway_channel_lease_takeover_latency_seconds", seconds)

    def unexpected_error(self, unit: str) -> None:
        self._metrics.count("gateway_unexpected_errors_total", unit=unit)


class FetchObserver:
    """Counts fetched files: a callback for `work.tasks.attachments`, given "ready" or a problem's slug."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, outcome: str) -> None:
        self._metrics.count("gateway_attachment_fetches_total", outcome=outcome)


class OutboxObserver:
    """Counts attempts to send: a callback for `outbound.outbox`, given the row's kind and the outcome."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, kind: str, outcome: str) -> None:
        self._metrics.count("gateway_outbound_attempts_total", kind=kind, outcome=outcome)


class GovernorObserver:
    """Counts the actions of a bot's governor: a callback for `outbound.governor`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, event: str) -> None:
        self._metrics.count("gateway_outbound_pace_total", event=event)


class LookupObserver:
    """Counts look-ups: a callback for `inbound.enrichment`, given the kind of look-up and its outcome."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, kind: str, outcome: str) -> None:
        self._metrics.count("gateway_channel_lookups_total", kind=kind, outcome=outcome)


class TypingObserver:
    """Counts calls that show or remove a typing sign: a callback for `outbound.typing`, given action and outcome."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, action: str, outcome: str) -> None:
        self._metrics.count("gateway_typing_calls_total", action=action, outcome=outcome)


class WebhookObserver:
    """Counts deliveries: a callback for `webhooks.delivery`, given the provider and the status of the delivery."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, provider: str, status: str) -> None:
        self._metrics.count("gateway_webhook_delivery_total", provider=provider, status=status)


class TaskObserver:
    """Counts runs that ended: a callback for `work.tasks.tasks`, given the task's kind, status and run time."""

    def __init__(self, metrics: Metrics, *, analytics: Analytics | None = None) -> None:
        self._metrics = metrics
        self._analytics = analytics

    def __call__(self, kind: str, status: str, run_seconds: float | None) -> None:
        record_event(task_ended(kind, status), self._metrics, self._analytics)
        if run_seconds is not None:
            self._metrics.observe("gateway_agent_task_run_seconds", run_seconds, kind=kind)


class AutopilotObserver:
    """Counts autopilot runs.

    `began` is a callback for `work.autopilots.dispatch`, `ended` one for `work.autopilots.autopilots`.
    """

    def __init__(self, metrics: Metrics, *, analytics: Analytics | None = None) -> None:
        self._metrics = metrics
        self._analytics = analytics

    def began(self, source: str, skipped_because: str) -> None:
        if skipped_because:
            self._record(autopilot_run_skipped(source, skipped_because))
        else:
            self._record(autopilot_run_started(source))

    def ended(self, source: str, status: str, reason_code: str | None, failure: str | None) -> None:
        self._record(autopilot_run_ended(source, status))
        if status == "failed":
            self._record(autopilot_run_failed(source, run_error_type(reason_code, failure)))

    def _record(self, event: Event) -> None:
        record_event(event, self._metrics, self._analytics)
