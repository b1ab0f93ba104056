"""The intake: the bots under their leases, and HTTP. On shutdown it ends first, and drains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import structlog
import trio

from gateway.address import is_loopback
from gateway.channel.channel import Channel, ConnectionState
from gateway.channel.lookup import Introductions
from gateway.config import Settings
from gateway.core.lease import LeaseSettings
from gateway.daemon.administration import directory_on
from gateway.daemon.database import open_secrets
from gateway.daemon.foundation import Foundation, utc_now
from gateway.daemon.platforms import scan_service
from gateway.daemon.services import RunningServices
from gateway.http import app as http
from gateway.http.ingress.webhooks import Ingress
from gateway.http.metrics import KEEP_ALIVE_SECONDS, create_metrics_app
from gateway.http.places import PlaceLimits
from gateway.http.server import serve_http
from gateway.keyring import KeyRing
from gateway.lark.install.scan import ScanService, run_installs
from gateway.observe.health import Readiness
from gateway.outbound.governor import Governor
from gateway.outbound.outbox import run_outbox
from gateway.outbound.ports import LeaseEpoch, SendingContext
from gateway.outbound.typing import TypingSender
from gateway.postgres.account_store import PostgresAccountStore
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.chat_store import PostgresChatStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.issue_page_store import PostgresIssuePages
from gateway.postgres.lease_store import PostgresLeaseStore
from gateway.postgres.migrate import pending_by_now
from gateway.postgres.outbox_store import PostgresOutboxStore
from gateway.postgres.outgoing_store import PostgresOutgoingStore
from gateway.postgres.readiness_store import PostgresReadiness
from gateway.postgres.team_store import PostgresTeamStore
from gateway.postgres.trigger_store import PostgresTriggerStore
from gateway.postgres.typing_store import PostgresTypingStore
from gateway.supervisor.fleet import Fleet
from gateway.supervisor.lease import Leases
from gateway.supervisor.ports import ActiveInstallation, Serving
from gateway.supervisor.sweep import run_supervisor
from gateway.webhooks.log import DeliveryLog
from gateway.webhooks.replay import BulkReplays
from gateway.webhooks.triggers import TriggerService
from gateway.work.people.accounts import Accounts
from gateway.work.people.binding_prompts import BindingPrompts
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Directory
from gateway.work.people.teams import TeamService
from gateway.work.tasks.chats import ChatService
from gateway.work.tasks.outgoing import OutgoingService

log = structlog.get_logger()

GAUGE_SECONDS = 5.0
PROBE_KEPT_SECONDS = 5.0
"""The time for which a good answer of an expensive readiness check is kept."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The addresses of the daemon and its node id, available once it takes traffic."""

    http: str
    metrics: str | None
    node: str


async def start_intake(
    nursery: trio.Nursery, foundation: Foundation, services: RunningServices, stop: trio.Event
) -> Ready:
    """Start bots and HTTP in `nursery`. Each returns when `stop` is set and its drain is over."""
    fleet: Fleet = await nursery.start(partial(_run_bots, foundation, services, stop))
    nursery.start_soon(_run_gauges, foundation, fleet, stop)
    nursery.start_soon(_end_waiting, foundation, services, stop)
    metrics_url = await _start_metrics(nursery, foundation, stop)
    installs = None
    if foundation.ring is not None:
        installs = await _start_installs(nursery, foundation, foundation.ring, stop)
    app = http.create_app(_routes(foundation, services, fleet, installs))
    url: str = await nursery.start(partial(serve_http, app, foundation.settings.http.bind, stop=stop))
    return Ready(url, metrics_url, foundation.node_id)


async def _end_waiting(foundation: Foundation, services: RunningServices, stop: trio.Event) -> None:
    """Wait for `stop`, then answer long polls and end live streams, which would otherwise use up the drain time."""
    await stop.wait()
    services.tasks.drain()
    foundation.wakes.feed.end()


# --- bots -------------------------------------------------------------------------------------------------------------


async def _run_bots(
    foundation: Foundation, services: RunningServices, stop: trio.Event, *, task_status: trio.TaskStatus[Fleet]
) -> None:
    settings = foundation.settings
    await run_supervisor(
        Leases(
            PostgresLeaseStore(foundation.lease_pool),
            _lease_settings(settings),
            foundation.metrics,
        ),
        Serving(
            foundation.registry,
            partial(open_secrets, foundation.ring),
            handler_for=lambda _: services.inbound.pipeline.receive,
            run_outbox=partial(_run_outbox, foundation),
        ),
        node_id=foundation.node_id,
        wake=foundation.wakes.installations,
        releases=foundation.wakes.releases,
        stop=stop,
        shutdown_seconds=settings.limits.drain_seconds,
        task_status=task_status,
    )


async def _run_outbox(foundation: Foundation, installation: ActiveInstallation, epoch: int, channel: Channel) -> None:
    """Send the outbox rows and typing signs of one bot, as long as its lease is held."""
    settings, recorder = foundation.settings, foundation.metrics
    prompts = BindingPrompts(PostgresBindingStore(foundation.pool), public_url=settings.http.public_url)
    traits = foundation.registry.traits(channel.type)
    with foundation.wakes.outbox.hear(str(installation.id)) as wake:
        context = SendingContext(
            LeaseEpoch(installation.id, epoch),
            channel,
            Governor(recorder, limits=traits.limits),
            wake,
            key_seconds=traits.key_seconds,
            attempt_seconds=settings.hub.reply_timeout_seconds,
        )
        await run_outbox(
            context,
            PostgresOutboxStore(foundation.pool),
            composers={"binding_prompt": lambda row: prompts.compose(installation.id, row.recipient_id)},
            typing_sender=TypingSender(context, PostgresTypingStore(foundation.pool), recorder),
            recorder=recorder,
        )


async def _start_installs(
    nursery: trio.Nursery, foundation: Foundation, ring: KeyRing, stop: trio.Event
) -> ScanService:
    service = scan_service(foundation.settings, foundation.pool, foundation.http, ring, recorder=foundation.metrics)
    await nursery.start(partial(run_installs, service, stop=stop))
    return service


def _lease_settings(settings: Settings) -> LeaseSettings:
    hub = settings.hub
    return LeaseSettings(hub.lease_ttl_seconds, hub.renew_seconds, hub.poll_seconds, hub.expiry_margin_seconds)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _routes(
    foundation: Foundation, services: RunningServices, fleet: Fleet, installs: ScanService | None
) -> http.Services:
    directory = directory_on(foundation.pool)
    pushed, limits = services.inbound.pushed, foundation.settings.limits
    return http.Services(
        authenticate=directory.authenticate,
        tasks=services.tasks,
        health=_readiness(foundation, fleet),
        recorder=foundation.metrics,
        people=_people(foundation, services, directory, installs),
        attachments=services.attachments,
        take_lark_event=None if pushed is None else pushed.take,
        webhooks=_ingress(foundation, services),
        body_bytes_max=limits.http_body_bytes_max,
        place_limits=PlaceLimits(
            streams=limits.live_streams_max,
            streams_of_person=limits.live_streams_per_person_max,
            downloads=limits.downloads_max,
            downloads_of_person=limits.downloads_per_person_max,
            claims=limits.claims_waiting_max,
            claims_of_runtime=limits.claims_waiting_per_runtime_max,
        ),
    )


def _ingress(foundation: Foundation, services: RunningServices) -> Ingress:
    webhooks = services.webhooks
    return Ingress(
        webhooks.intake,
        webhooks.gates,
        webhooks.known_tokens,
        recorder=foundation.metrics,
        limited=webhooks.limited,
        body_bytes_max=foundation.settings.webhooks.body_bytes_max,
        trusted_proxies=foundation.settings.http.trusted_proxies,
    )


def _people(
    foundation: Foundation, services: RunningServices, directory: Directory, installs: ScanService | None
) -> http.People:
    pool, settings = foundation.pool, foundation.settings
    return http.People(
        accounts=Accounts(PostgresAccountStore(pool)),
        directory=directory,
        bindings=BindingService(PostgresBindingStore(pool), Introductions(foundation.registry.message_lookups()).of),
        workplace=_workplace(foundation, services),
        chats=ChatService(PostgresChatStore(pool), recorder=foundation.metrics),
        outgoing=OutgoingService(PostgresOutgoingStore(pool)),
        issues=PostgresIssuePages(pool),
        feed=foundation.wakes.feed,
        installs=installs,
        lark_on=installs is not None,
        platforms=foundation.registry.titles(),
        public_url=settings.http.public_url,
        trusted_proxies=settings.http.trusted_proxies,
    )


def _workplace(foundation: Foundation, services: RunningServices) -> http.Workplace:
    pool, deliveries = foundation.pool, services.webhooks.deliveries
    triggers = TriggerService(
        PostgresTriggerStore(pool),
        services.autopilots,
        foundation.ring,
        clock=utc_now,
        public_url=foundation.settings.http.public_url,
    )
    bulk = BulkReplays(deliveries, foundation.wakes.replays)
    hooks = http.Hooks(triggers, DeliveryLog(deliveries), services.webhooks.replayer, bulk)
    team = TeamService(PostgresTeamStore(pool), PostgresDirectoryStore(pool))
    return http.Workplace(team, services.autopilots, triggers.views, hooks)


# --- health -----------------------------------------------------------------------------------------------------------


def _readiness(foundation: Foundation, fleet: Fleet) -> Readiness:
    probes = PostgresReadiness(foundation.pool)
    readiness = Readiness(fleet.states)
    readiness.add("database", probes.database_problem)
    readiness.add("write", probes.write_problem, kept_seconds=PROBE_KEPT_SECONDS)
    readiness.add("migrations", partial(_migrations_problem, foundation), kept_seconds=PROBE_KEPT_SECONDS)
    readiness.add("leases", fleet.problem, kept_seconds=0)
    return readiness


async def _migrations_problem(foundation: Foundation) -> str | None:
    waiting = await pending_by_now(foundation.address.for_sessions)
    return f"pending: {', '.join(waiting)}" if waiting else None


async def _run_gauges(foundation: Foundation, fleet: Fleet, stop: trio.Event) -> None:
    """Set the gauges regularly, until `stop` is set."""
    recorder, pool = foundation.metrics, foundation.pool
    while not stop.is_set():
        for channel in foundation.registry.types():
            for state in ConnectionState:
                count = fleet.connections()[channel, state]
                recorder.set("channel_connections", count, channel=channel, state=state)
            recorder.set("channel_connections_degraded", fleet.degraded()[channel], channel=channel)
        recorder.set("database_connections", pool.idle, state="idle")
        recorder.set("database_connections", pool.in_use, state="busy")
        with trio.move_on_after(GAUGE_SECONDS):
            await stop.wait()


async def _start_metrics(nursery: trio.Nursery, foundation: Foundation, stop: trio.Event) -> str | None:
    bind = foundation.settings.metrics.bind
    if bind is None:
        return None
    if not is_loopback(bind):
        log.warning("metrics_reachable_from_outside", bind=bind)
    app = create_metrics_app(foundation.metrics)
    serve = partial(serve_http, app, bind, stop=stop, key="metrics.bind", keep_alive_seconds=KEEP_ALIVE_SECONDS)
    url: str = await nursery.start(serve)
    return f"{url}/metrics"
