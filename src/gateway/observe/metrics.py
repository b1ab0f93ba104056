"""Metrics: one table of families, label values from closed vocabularies, one registry per process.

`Metrics` is the Recorder of the daemon. An event has the name of its family without `gateway_` and, for a counter,
without `_total`: the event `channel_events` is counted in `gateway_channel_events_total`.

A label never names a person, a tenant or a conversation. A value from outside is never used unchecked: if it is not in
the label's vocabulary, it becomes `other`. So no id, token or text can leak into a time series, and the number of
series stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway import __version__

PREFIX = "gateway_"
TOTAL = "_total"
CONTENT_TYPE = CONTENT_TYPE_LATEST
OTHER = "other"

FORBIDDEN_LABELS = frozenset({
    "workspace_id", "installation_id", "user_id", "agent_id", "task_id", "issue_id", "runtime_id", "session_id",
    "chat_session_id", "chat_id", "message_id", "event_id", "delivery_id", "open_id", "union_id", "app_id",
    "tenant_key", "member_id", "project_id", "squad_id", "autopilot_id", "email", "token", "ip", "path", "url",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The values that a label may have. `None` allows any value, for those that the code itself makes (a route)."""

    values: frozenset[str] | None = None
    fallback: str = OTHER
    upper: bool = False

    def normalise(self, value: str) -> str:
        text = value.strip().upper() if self.upper else value.strip().lower()
        if self.values is None:
            return value
        return text if text in self.values else self.fallback


def one_of(*values: str, fallback: str = OTHER) -> Vocabulary:
    return Vocabulary(frozenset(values), fallback)


OURS = Vocabulary()
METHOD = Vocabulary(frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}), upper=True)
STATUS = one_of(*(str(status) for status in range(100, 600)))
CHANNEL = OURS
"""The slug of a platform. Its adapter sets it, and a message cannot."""
CONNECTION_STATES = (
    "connecting", "live", "deaf", "refused", "standby", "http", "unreadable_secret", "revoked",
)  # fmt: skip
EVENT_OUTCOMES = (
    "ingested", "agent_offline", "agent_archived", "needs_binding", "dropped", "duplicate", "unbound_user",
    "non_workspace_member", "not_addressed_in_group", "revoked_installation", "invalid_event", "sender_is_bot",
    "issue_usage", "fresh_pending", "command_held",
)  # fmt: skip
FETCH_OUTCOMES = (
    "ready", "too_large", "not_available", "refused", "timed_out", "unavailable", "bot_unavailable", "no_room",
    "unexpected",
)  # fmt: skip
TASK_KIND = one_of("chat", "issue", "autopilot")

CADENCE = one_of("scheduled", "event", "manual", fallback="unknown")
TRIGGER_KIND = one_of("schedule", "manual", "webhook", "api", fallback="unknown")
SKIP_REASON = one_of(
    "squad_not_found", "squad_archived", "squad_without_leader", "agent_not_found", "agent_archived", "no_runtime",
    "runtime_offline", "private_agent", "duplicate_issue",
)  # fmt: skip
RUN_ERROR = one_of(
    "configuration", "issue_terminal", "dispatch_error", "task_error", "autopilot_error", fallback="autopilot_error"
)

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ACK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3)
TASK_BUCKETS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200)
TAKEOVER_BUCKETS = (1, 5, 15, 30, 60, 120, 180, 300)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its full name, its help text, and the vocabulary of each label."""

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Vocabulary] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    @property
    def event(self) -> str:
        """The name by which a Recorder knows this family."""
        return self.name.removeprefix(PREFIX).removesuffix(TOTAL)


FAMILIES: tuple[Family, ...] = (
    Family("gateway_build_info", "gauge", "Always 1; the labels say what runs.", {"version": OURS}),
    Family(
        "gateway_http_requests_total",
        "counter",
        "Requests answered, by route pattern. 499: the client left first.",
        {"method": METHOD, "route": OURS, "status": STATUS},
    ),
    Family(
        "gateway_http_request_duration_seconds",
        "histogram",
        "Time until an answer began.",
        {"method": METHOD, "route": OURS, "status": STATUS},
        REQUEST_BUCKETS,
    ),
    Family("gateway_http_in_flight", "gauge", "Requests being answered now."),
    Family(
        "gateway_unexpected_errors_total",
        "counter",
        "Exceptions nobody expected, caught at the boundary of a unit of work.",
        {
            "unit": one_of(
                "http",
                "frame",
                "message",
                "outbound",
                "installation",
                "lease",
                "listener",
                "sweep",
                "attachment",
                "install",
            )
        },
    ),
    Family(
        "gateway_channel_events_total",
        "counter",
        "Inbound events by what became of them.",
        {"channel": CHANNEL, "outcome": one_of(*EVENT_OUTCOMES)},
    ),
    Family(
        "gateway_channel_ack_seconds",
        "histogram",
        "From an event's arrival to the write of its acknowledgement. Code 500 asks for redelivery.",
        {"channel": CHANNEL, "code": one_of("200", "500")},
        ACK_BUCKETS,
    ),
    Family(
        "gateway_channel_connections",
        "gauge",
        "Installations this process looks after, by the state of their link.",
        {"channel": CHANNEL, "state": one_of(*CONNECTION_STATES)},
    ),
    Family(
        "gateway_channel_connections_degraded",
        "gauge",
        "Of those that hear, the ones that asked the platform within the last minute to send some event again.",
        {"channel": CHANNEL},
    ),
    Family(
        "gateway_channel_lease_operations_total",
        "counter",
        "Lease statements and how they ended.",
        {"operation": one_of("acquire", "renew", "release"), "outcome": one_of("ok", "held", "lost", "error")},
    ),
    Family("gateway_channel_lease_active_owners", "gauge", "Leases this process holds."),
    Family(
        "gateway_channel_lease_last_successful_renewal_timestamp_seconds",
        "gauge",
        "Unix time of the last renewal that the database confirmed.",
    ),
    Family(
        "gateway_channel_lease_takeover_latency_seconds",
        "histogram",
        "From the expiry of another holder's lease to our holding it.",
        {},
        TAKEOVER_BUCKETS,
    ),
    Family(
        "gateway_outbound_pace_total",
        "counter",
        "Calls below the platform's limits: made, made to wait, refused as too many, and pauses after silence.",
        {"event": one_of("call", "waited", "throttled_app", "throttled_chat", "breaker_opened", "typing_skipped")},
    ),
    Family(
        "gateway_outbound_attempts_total",
        "counter",
        "Attempts to send a row of the outbox, by how they ended. A fault is an exception nobody foresaw.",
        {
            "kind": one_of("answer", "error", "notice", "binding_prompt"),
            "outcome": one_of("sent", "postponed", "failed", "unknown", "fault"),
        },
    ),
    Family(
        "gateway_attachment_fetches_total",
        "counter",
        "Files fetched from a platform, by how it ended.",
        {"outcome": one_of(*FETCH_OUTCOMES)},
    ),
    Family(
        "gateway_channel_lookups_total",
        "counter",
        "What was looked up for agents: quoted and forwarded messages, what was said before, names.",
        {
            "kind": one_of("message", "recent", "names"),
            "outcome": one_of(
                "found", "reused", "refused", "throttled", "unavailable", "cut_off", "unsupported", "fault"
            ),
        },
    ),
    Family(
        "gateway_typing_calls_total",
        "counter",
        "Calls that show on a message that a run lasts, or take that away, by how they ended.",
        {"action": one_of("show", "hide"), "outcome": one_of("ok", "postponed", "failed", "fault")},
    ),
    Family(
        "gateway_webhook_delivery_total",
        "counter",
        "Webhook deliveries by what became of them.",
        {
            "provider": one_of("generic", "github", "gitlab", "stripe", "standard_webhooks", "svix", "none"),
            "status": one_of("queued", "dispatched", "skipped", "duplicate", "ignored", "rejected", "failed"),
        },
    ),
    Family(
        "gateway_webhook_rate_limited_total",
        "counter",
        "Requests of webhooks that were turned away, by the limit that did it.",
        {"gate": one_of("token", "ip")},
    ),
    Family(
        "gateway_agent_task_terminal_total",
        "counter",
        "Runs that ended.",
        {"kind": TASK_KIND, "status": one_of("completed", "failed", "cancelled")},
    ),
    Family(
        "gateway_agent_task_run_seconds",
        "histogram",
        "From a run's claim to its end.",
        {"kind": TASK_KIND},
        TASK_BUCKETS,
    ),
    Family(
        "gateway_autopilot_run_started_total",
        "counter",
        "Runs that autopilots began.",
        {"cadence": CADENCE, "trigger_kind": TRIGGER_KIND},
    ),
    Family(
        "gateway_autopilot_run_skipped_total",
        "counter",
        "Firings of autopilots that began nothing.",
        {"cadence": CADENCE, "reason": SKIP_REASON},
    ),
    Family(
        "gateway_autopilot_run_terminal_total",
        "counter",
        "Runs of autopilots that ended; each is counted by one process.",
        {"cadence": CADENCE, "trigger_kind": TRIGGER_KIND, "terminal_status": one_of("completed", "failed")},
    ),
    Family(
        "gateway_autopilot_run_failed_total",
        "counter",
        "Runs of autopilots that failed, by what their failure says.",
        {"trigger_kind": TRIGGER_KIND, "error_type": RUN_ERROR},
    ),
    Family(
        "gateway_database_connections",
        "gauge",
        "Connections of the pool.",
        {"state": one_of("idle", "busy")},
    ),
)


class Metrics:
    """The metrics of one process. Implements gateway.recorder.Recorder.

    An event that is not in the table, or labels other than its family's, raise KeyError: that is a bug in the caller.
    Construction raises ValueError for a family that breaks the rules of this module.
    """

    def __init__(self, families: Iterable[Family] = FAMILIES) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._families = {family.event: family for family in map(_checked, families)}
        self._collectors = {event: _collector(family, self.registry) for event, family in self._families.items()}
        if "build_info" in self._families:
            self.set("build_info", 1, version=__version__)

    def count(self, event: str, /, **labels: str) -> None:
        """Increment a counter."""
        self._series(event, labels).inc()

    def observe(self, event: str, value: float, /, **labels: str) -> None:
        """Add one value to a histogram."""
        self._series(event, labels).observe(value)

    def set(self, event: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._series(event, labels).set(value)

    def render(self) -> bytes:
        """Return all series as OpenMetrics text (`CONTENT_TYPE`)."""
        text: bytes = generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text

    def _series(self, event: str, labels: Mapping[str, str]) -> Any:
        family = self._families[event]
        if labels.keys() != family.labels.keys():
            raise KeyError(f"{event} has the labels {sorted(family.labels)}, not {sorted(labels)}")
        collector = self._collectors[event]
        if not labels:
            return collector
        return collector.labels(**{label: family.labels[label].normalise(value) for label, value in labels.items()})


def _checked(family: Family) -> Family:
    if not family.name.startswith(PREFIX):
        raise ValueError(f"{family.name} does not start with {PREFIX}")
    if forbidden := FORBIDDEN_LABELS & family.labels.keys():
        raise ValueError(f"{family.name}: the label {', '.join(sorted(forbidden))} is forbidden")
    if (family.kind == "counter") != family.name.endswith(TOTAL):
        raise ValueError(f"{family.name}: a counter, and only a counter, ends in {TOTAL}")
    if (family.kind == "histogram") != bool(family.buckets):
        raise ValueError(f"{family.name}: a histogram, and only a histogram, names its buckets")
    return family


def _collector(family: Family, registry: CollectorRegistry) -> Any:
    labels = tuple(family.labels)
    if family.kind == "histogram":
        return Histogram(family.name, family.help, labels, registry=registry, buckets=family.buckets)
    kinds = {"counter": Counter, "gauge": Gauge}
    return kinds[family.kind](family.name, family.help, labels, registry=registry)
