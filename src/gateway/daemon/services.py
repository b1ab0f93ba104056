"""The services that run beside the bots and outlive the intake: inbound messages, runs, autopilots, webhooks, files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from gateway.batching import Batcher, run_batches
from gateway.channel.capability import Capability
from gateway.daemon.database import DatabaseAddress
from gateway.daemon.foundation import Foundation, utc_now
from gateway.inbound.commands import CommandService
from gateway.inbound.committer import Committer, run_committer
from gateway.inbound.effects import run_attachments
from gateway.inbound.enrichment import Enricher, run_prefetch
from gateway.inbound.pipeline import InboundPipeline
from gateway.lark.chat.push import Bots, PushedEvents
from gateway.lark.install.backfill import label_regions, learn_union_ids
from gateway.lark.install.service import identify_over
from gateway.postgres.attachment_store import PostgresAttachmentStore
from gateway.postgres.autopilot_store import PostgresAutopilotStore
from gateway.postgres.dispatch_store import PostgresDispatchStore
from gateway.postgres.driver import TrioConnection
from gateway.postgres.inbound_store import PostgresInboundStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.issue_store import PostgresIssueStore
from gateway.postgres.listen import NotificationsUnavailable, run_listener
from gateway.postgres.migrate import announce_daemon
from gateway.postgres.push_store import PostgresPushStore
from gateway.postgres.session import open_session
from gateway.postgres.task_store import PostgresTaskStore
from gateway.postgres.webhook_store import PostgresWebhookStore
from gateway.webhooks.delivery import Intake
from gateway.webhooks.known import KnownTokens
from gateway.webhooks.limited import LimitedRequests
from gateway.webhooks.limits import Gates
from gateway.webhooks.replay import Replayer, run_replays
from gateway.webhooks.turns import Turns
from gateway.work.autopilots.autopilots import AutopilotService
from gateway.work.autopilots.dispatch import AutopilotDispatcher
from gateway.work.issues.issues import IssueService
from gateway.work.tasks.attachments import Attachments, PlatformFiles
from gateway.work.tasks.file_cache import FileCache
from gateway.work.tasks.ports import LossLimits
from gateway.work.tasks.tasks import TaskService

# Without notifications these would make every page load itself anew, and every token be read again, each second.
RARELY_RUNG = frozenset({"gateway_event", "gateway_webhook"})


@dataclass(frozen=True, slots=True)
class Inbound:
    """The parts that take messages in. `pushed` takes events that Lark posts over HTTP; None while Lark is off."""

    store: PostgresInboundStore
    committer: Committer
    enricher: Enricher
    pipeline: InboundPipeline
    pushed: PushedEvents | None


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The parts that log, judge, store and start webhook deliveries. `turns` starts those that wait for their turn.

    `limited` notes the requests that a limit refused.
    """

    deliveries: PostgresWebhookStore
    known_tokens: KnownTokens
    gates: Gates
    recording: Batcher[Any, Any]
    beginning: Batcher[Any, Any]
    intake: Intake
    replayer: Replayer
    turns: Turns
    limited: LimitedRequests


@dataclass(frozen=True, slots=True)
class RunningServices:
    """The services that the intake needs. `build_services` builds them, `start_services` starts them."""

    inbound: Inbound
    tasks: TaskService
    attachments: Attachments
    autopilots: AutopilotService
    webhooks: Webhooks


def build_services(foundation: Foundation) -> RunningServices:
    """Build the services. Nothing runs yet, and the caller still closes the pools and clients."""
    limits = LossLimits(silent_seconds=foundation.settings.limits.runtime_silence_seconds)
    issues = IssueService(PostgresIssueStore(foundation.pool, silent_seconds=limits.silent_seconds))
    inbound = _inbound(foundation, issues)
    tasks = TaskService(
        PostgresTaskStore(
            foundation.pool,
            divide=foundation.registry.divide,
            typing_on=foundation.registry.types_with(Capability.TYPING_INDICATOR),
        ),
        foundation.wakes.tasks,
        limits=limits,
        recorder=foundation.metrics,
        enrich=inbound.enricher.enrich,
    )
    dispatcher = AutopilotDispatcher(
        PostgresDispatchStore(foundation.pool, online_seconds=limits.silent_seconds),
        issues,
        recorder=foundation.metrics,
    )
    autopilots = AutopilotService(PostgresAutopilotStore(foundation.pool), dispatcher, recorder=foundation.metrics)
    return RunningServices(inbound, tasks, _attachments(foundation), autopilots, _webhooks(foundation, dispatcher))


def _inbound(foundation: Foundation, issues: IssueService) -> Inbound:
    settings = foundation.settings
    store = PostgresInboundStore(
        foundation.pool,
        batch_window_seconds=settings.hub.batch_window_seconds,
        silent_seconds=settings.limits.runtime_silence_seconds,
    )
    enricher = Enricher(foundation.registry.message_lookups(), recorder=foundation.metrics)
    commands = CommandService(
        store,
        issues,
        public_url=settings.http.public_url,
        stale_after_seconds=settings.hub.stale_after_seconds,
        quote_of=enricher.quote,
    )
    committer = Committer()
    pipeline = InboundPipeline(store, committer, commands, recorder=foundation.metrics, ingested=enricher.expect)
    pushed = None if foundation.ring is None else _pushed_events(foundation, foundation.ring, pipeline)
    return Inbound(store, committer, enricher, pipeline, pushed)


def _pushed_events(foundation: Foundation, ring: Any, pipeline: InboundPipeline) -> PushedEvents:
    """Build the receiver of events that Lark posts. They go into the same pipeline as those of a long connection."""
    return PushedEvents(
        PostgresPushStore(foundation.pool),
        ring,
        pipeline.receive,
        Bots(foundation.lark).learn,
        recorder=foundation.metrics,
    )


def _attachments(foundation: Foundation) -> Attachments:
    limits = foundation.settings.limits
    cache = FileCache(
        foundation.settings.state_dir / "attachments",
        bytes_max=limits.attachment_storage_bytes_max,
        unused_seconds_max=limits.attachment_storage_days_max * 86_400,
    )
    return Attachments(
        PostgresAttachmentStore(foundation.pool),
        PlatformFiles(foundation.files),
        cache,
        bytes_max=limits.attachment_bytes_max,
        at_once=limits.attachments_at_once_max,
        recorder=foundation.metrics,
    )


def _webhooks(foundation: Foundation, dispatcher: AutopilotDispatcher) -> Webhooks:
    settings = foundation.settings.webhooks
    gates = Gates(per_token_per_minute=settings.per_token_per_minute, per_ip_per_minute=settings.per_ip_per_minute)
    deliveries = PostgresWebhookStore(foundation.pool)
    recording = Batcher("deliveries", deliveries.record)
    beginning = Batcher("runs", dispatcher.dispatch_together)
    intake = Intake(
        deliveries,
        dispatcher,
        foundation.ring,
        clock=utc_now,
        record=recording.submit,
        begin=beginning.submit,
        recorder=foundation.metrics,
    )
    return Webhooks(
        deliveries=deliveries,
        known_tokens=KnownTokens(deliveries),
        gates=gates,
        recording=recording,
        beginning=beginning,
        intake=intake,
        replayer=Replayer(deliveries, intake),
        turns=Turns(deliveries, intake, gates),
        limited=LimitedRequests(deliveries, clock=utc_now),
    )


async def start_services(nursery: trio.Nursery, foundation: Foundation, services: RunningServices) -> None:
    """Start the services in `nursery`, which is cancelled once intake has drained. Returns when intake may begin."""
    inbound, webhooks, wakes = services.inbound, services.webhooks, foundation.wakes
    await nursery.start(partial(run_committer, inbound.committer, inbound.store))
    heard = {**wakes.callbacks(), "gateway_webhook": webhooks.known_tokens.hear}
    await nursery.start(
        partial(run_listener, partial(_connect_listener, foundation.address), heard, rarely=RARELY_RUNG)
    )
    await nursery.start(partial(run_prefetch, inbound.enricher, inbound.store.find_installation))
    await nursery.start(
        partial(
            run_attachments,
            services.attachments,
            PostgresAttachmentStore(foundation.pool),
            wakes.attachments,
            recorder=foundation.metrics,
        )
    )
    await nursery.start(run_batches, webhooks.recording)
    await nursery.start(run_batches, webhooks.beginning)
    nursery.start_soon(run_replays, webhooks.deliveries, webhooks.replayer, wakes.replays)
    if inbound.pushed is not None:
        await nursery.start(inbound.pushed.run)


async def _connect_listener(address: DatabaseAddress) -> TrioConnection[Any]:
    """Open the connection for LISTEN. By this connection `gateway migrate down` knows that a daemon runs.

    Raises NotificationsUnavailable if only a connection pooler can be reached.
    """
    connection = await open_session(address.for_sessions)
    try:
        if connection.pooled and address.direct is None:
            raise NotificationsUnavailable("database_url leads to a connection pooler: set database_direct_url")
        await announce_daemon(connection)
    except BaseException:
        connection.abort()
        raise
    return connection


async def run_backfills(foundation: Foundation) -> None:
    """Fill in, once and in the background, the facts about installations that older versions did not store."""
    override = foundation.settings.lark.open_base_url
    store = PostgresInstallationStore(foundation.pool)
    await label_regions(store, override)
    if foundation.ring is not None:
        await learn_union_ids(store, foundation.ring, identify_over(foundation.http, override))
