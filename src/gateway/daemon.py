"""The composition root: the only place where Postgres and Lark meet their users.

Nesting is shutdown order. What is opened first ends last: database, HTTP client, then the services (notifications, the
shared insert, the janitor), and innermost the intake (bots and HTTP), which ends first and drains.
"""

from __future__ import annotations

import os
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from gateway import __version__
from gateway.address import is_loopback
from gateway.batching import Batcher, run_batches
from gateway.channel.capability import Capability
from gateway.channel.channel import Channel, ChannelFactory, ConnectionState
from gateway.channel.registry import Registry, Traits
from gateway.concurrency import Signal, Topics
from gateway.config import Settings
from gateway.core.lease import LeaseSettings
from gateway.errors import ConfigError
from gateway.keyring import KeyRing, generate_key, open_config
from gateway.observe.events import GovernorObserver, OutboxObserver, TaskObserver, TypingObserver
from gateway.observe.metrics import Metrics
from gateway.observe.notify import Notifier, run_watchdog
from gateway.postgres.driver import TrioConnection
from gateway.postgres.listen import run_listener
from gateway.postgres.migrate import announce_daemon, migrate_up, pending
from gateway.postgres.pool import Pool, checked_conninfo, open_pool
from gateway.supervisor.ports import Installation
from gateway.work.feed import Feed

if TYPE_CHECKING:
    from uuid import UUID

    from gateway.channel.installation import StoredInstallation
    from gateway.http.api.deliveries import Hooks
    from gateway.http.app import People, Workplace
    from gateway.http.ingress.webhooks import Ingress
    from gateway.lark.api.client import HttpClient
    from gateway.lark.api.clients import LarkClients
    from gateway.lark.chat.push import PushedEvents
    from gateway.lark.install.scan import ScanDesk
    from gateway.observe.health import Readiness
    from gateway.supervisor.sweep import Fleet
    from gateway.work.issues.issues import IssueService
    from gateway.work.people.directory import Directory
    from gateway.work.tasks.attachments import Attachments, FileSource

log = structlog.get_logger()

LEASE_CONNECTIONS = 4
"""A pool of their own for leases: a burst of other work must not cost this process its bots."""
GAUGE_SECONDS = 5.0
PROBE_KEPT_SECONDS = 5.0
"""How long a good answer counts of what is dear to ask."""


@dataclass(slots=True)
class Wakes:
    """What a notification of the database wakes, by topic."""

    installations: Signal = field(default_factory=Signal)
    releases: Topics = field(default_factory=Topics)
    tasks: Topics = field(default_factory=Topics)
    outbox: Topics = field(default_factory=Topics)
    attachments: Signal = field(default_factory=Signal)
    feed: Feed = field(default_factory=Feed)
    replays: Signal = field(default_factory=Signal)

    def callbacks(self) -> dict[str, Callable[[str], None]]:
        """For `run_listener`: an empty payload stands for everything that may have been missed."""
        return {
            "gateway_installation": lambda _: self.installations.set(),
            "gateway_lease": partial(_ring, self.releases),
            "gateway_task": partial(_ring, self.tasks),
            "gateway_outbound": partial(_ring, self.outbox),
            "gateway_attachment": lambda _: self.attachments.set(),
            "gateway_event": self.feed.publish,
        }


def _ring(topics: Topics, key: str) -> None:
    if key:
        topics.ring(key)
    else:
        topics.ring_all()


# --- what the command line opens as well ------------------------------------------------------------------------------


@asynccontextmanager
async def open_database(settings: Settings, *, attach: bool) -> AsyncIterator[Pool]:
    """A pool on the configured database, its schema brought up to date; closed with the block.

    Without `database_url` the embedded server is used: `attach=False` owns it (the daemon), `attach=True` joins one
    that runs, else starts it for the block. Raises ConfigError or StoreUnavailable.
    """
    async with open_migrated(settings, attach=attach) as conninfo, _open_pool(conninfo, settings) as pool:
        yield pool


@asynccontextmanager
async def open_migrated(settings: Settings, *, attach: bool) -> AsyncIterator[str]:
    """The conninfo of the configured database once its schema is up to date; see `open_database`."""
    if settings.database_url is not None:
        yield await _migrated(checked_conninfo(settings.database_url.get_secret_value()))
        return
    from gateway.postgres.embedded import open_embedded

    async with open_embedded(settings.state_dir, attach=attach, database_user=settings.database_user) as conninfo:
        yield await _migrated(conninfo)


async def _migrated(conninfo: str) -> str:
    if await pending(conninfo):
        applied = await migrate_up(conninfo)
        log.info("migrated", applied=applied)
    return conninfo


def _open_pool(conninfo: str, settings: Settings, *, size_max: int | None = None) -> Any:
    limits = settings.limits
    return open_pool(
        conninfo,
        size_max=size_max or limits.database_connections_max,
        connect_timeout_seconds=limits.database_connect_timeout_seconds,
    )


def open_keyring(settings: Settings) -> KeyRing | None:
    """The keys that seal and open stored secrets; None when there is no key, which turns Lark off.

    With the embedded database a missing key is made once and kept beside it, mode 0600: both are lost or kept together.
    Raises ConfigError for a key that is not one.
    """
    if settings.secret_key is not None:
        return KeyRing.parse(settings.secret_key.get_secret_value())
    if not settings.embedded:
        return None
    return KeyRing.parse(_own_key(settings.state_dir / "secret.key"))


def _own_key(path: Path) -> str:
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {path.parent} cannot be used: {error.strerror}") from error
    try:
        if not path.exists():
            _write_key(path)
        _close_to_others(path)
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"secret_key: {path} cannot be used: {error}") from error


def _close_to_others(path: Path) -> None:
    """A key that was copied or restored may have come with wider rights. One on a read-only disk keeps them."""
    if path.stat().st_mode & 0o077:
        with suppress(OSError):
            path.chmod(0o600)
        log.warning("secret_key_was_readable", path=str(path), closed=not path.stat().st_mode & 0o077)


def _write_key(path: Path) -> None:
    """Make the key file whole or not at all: a reader, or a crash, must never meet half a key."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(generate_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if os.geteuid() == 0:
            # A command of root may come before the first start of a daemon that runs as another account.
            place = path.parent.stat()
            os.chown(draft, place.st_uid, place.st_gid, follow_symlinks=False)
        # A link fails when another process made the file first; theirs counts then.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def scan_desk(
    settings: Settings,
    pool: Pool,
    http: HttpClient,
    ring: KeyRing,
    *,
    on_fault: Callable[[], None] = lambda: None,
) -> ScanDesk:
    """The desk that connects bots by scanning a code. Pool and HTTP client stay the caller's."""
    from gateway.lark.install.scan import ScanDesk, ask_over
    from gateway.lark.install.service import InstallationService, identify_over
    from gateway.postgres.install_store import PostgresInstallStore
    from gateway.postgres.installation_store import PostgresInstallationStore

    identify = identify_over(http, settings.lark.open_base_url)
    return ScanDesk(
        PostgresInstallStore(pool),
        InstallationService(PostgresInstallationStore(pool), ring, identify),
        ring,
        ask_over(http),
        accounts_base_override=settings.lark.accounts_base_url,
        on_fault=on_fault,
    )


# --- the platforms ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Supplies:
    """What a platform may build on, and where it registers. All of it outlives the platform's channels.

    `files` takes, by channel type, where the files in messages come from. Without `ring` no secret can be opened. `tls`
    is what every call and every socket believes: one context, because each costs close to a megabyte.
    """

    settings: Settings
    pool: Pool
    ring: KeyRing | None
    lark: LarkClients
    tls: ssl.SSLContext
    metrics: Metrics
    registry: Registry
    files: dict[str, FileSource]


Register = Callable[[Supplies], None]
"""Registers a platform. One that lacks what it needs says so in the log, and does not."""


def register_lark(supplies: Supplies) -> None:
    """Lark and Feishu: nothing of it works without its secrets."""
    from gateway.lark.api.clients import InstallationClients
    from gateway.lark.chat import channel as lark
    from gateway.lark.chat.cards import split_answer
    from gateway.lark.chat.content import CHANNEL_TYPE
    from gateway.lark.chat.lookup import LarkLookup
    from gateway.lark.chat.resources import LarkFiles
    from gateway.postgres.installation_store import PostgresInstallationStore

    if supplies.ring is None:
        log.warning("lark_off", because="secret_key is unset")
        return
    clients = InstallationClients(
        PostgresInstallationStore(supplies.pool), partial(_open_secrets, supplies.ring), supplies.lark
    )

    async def lookup_of(installation_id: UUID) -> LarkLookup:
        return LarkLookup(await clients.client_of(installation_id))

    traits = Traits(
        titles=lark.TITLES,
        capabilities=lark.CAPABILITIES,
        identity_keys=lark.IDENTITY_KEYS,
        divide=split_answer,
        lookup_of=lookup_of,
    )
    supplies.registry.register(CHANNEL_TYPE, _lark_factory(supplies), traits)
    supplies.files[CHANNEL_TYPE] = LarkFiles(clients.client_of)


def _lark_factory(supplies: Supplies) -> ChannelFactory:
    from gateway.lark.api.proxy import Proxies
    from gateway.lark.chat.channel import lark_factory
    from gateway.lark.chat.connection import ConnectionSettings, open_tcp_link
    from gateway.lark.chat.content import CHANNEL_TYPE
    from gateway.observe.events import AckObserver

    limits, proxy_url = supplies.settings.limits, supplies.settings.lark.proxy_url
    connection = ConnectionSettings(
        frame_bytes_max=limits.frame_bytes_max,
        chunk_bytes_max=limits.chunk_bytes_max,
        events_in_flight_max=limits.events_in_flight_max,
    )
    proxies = Proxies.of(proxy_url.get_secret_value() if proxy_url else None, os.environ)
    return lark_factory(
        supplies.lark,
        open_stream=partial(open_tcp_link, ssl_context=supplies.tls, proxies=proxies, settings=connection),
        settings=connection,
        on_ack=AckObserver(supplies.metrics, CHANNEL_TYPE),
        on_fault=partial(supplies.metrics.count, "gateway_unexpected_errors_total", unit="frame"),
    )


PLATFORMS: tuple[Register, ...] = (register_lark,)


# --- the daemon -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the daemon can be reached, once it can."""

    http: str
    metrics: str | None
    node: str


async def run_daemon(
    settings: Settings,
    *,
    stop: trio.Event,
    notifier: Notifier,
    platforms: Sequence[Register] | None = None,
    task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run everything until `stop` is set; `started()` gives the addresses once traffic can be taken.

    `platforms` are those to be served; None: all that there are, `PLATFORMS`.

    On `stop` intake ends first: HTTP finishes what is in flight, every bot settles and acknowledges what it received
    and hands its lease over. What is not done within `limits.drain_seconds` is cancelled.

    Raises ConfigError and StoreUnavailable at the start. Later, only what fails outside any unit of work gets here.
    """
    ring, platforms = open_keyring(settings), PLATFORMS if platforms is None else platforms
    async with open_migrated(settings, attach=False) as conninfo, trio.open_nursery() as root:
        root.start_soon(run_watchdog, notifier)
        root.start_soon(_cancel_after_drain, stop, settings.limits.drain_seconds, root.cancel_scope)
        await _run_parts(settings, conninfo, ring=ring, platforms=platforms, stop=stop, task_status=task_status)
        root.cancel_scope.cancel()


async def _cancel_after_drain(stop: trio.Event, seconds: float, scope: trio.CancelScope) -> None:
    await stop.wait()
    await trio.sleep(seconds)
    log.error("drain_abandoned", seconds=seconds)
    scope.cancel()


async def _run_parts(
    settings: Settings,
    conninfo: str,
    *,
    ring: KeyRing | None,
    platforms: Sequence[Register],
    stop: trio.Event,
    task_status: trio.TaskStatus[Ready],
) -> None:
    from gateway.lark.api.client import open_http_client, trusted_context

    proxy = settings.lark.proxy_url
    tls = trusted_context()
    async with (
        _open_pool(conninfo, settings) as pool,
        _open_pool(conninfo, settings, size_max=LEASE_CONNECTIONS) as lease_pool,
        open_http_client(proxy_url=proxy.get_secret_value() if proxy else None, ssl_context=tls) as http,
        trio.open_nursery() as services,
    ):
        daemon = _Daemon(settings, conninfo, pool, lease_pool, http=http, tls=tls, ring=ring, platforms=platforms)
        await daemon.start_services(services)
        async with trio.open_nursery() as intake:
            ready = await daemon.start_intake(intake, stop)
            log.info("daemon_ready", http=ready.http, node=ready.node[:8], version=__version__)
            task_status.started(ready)
            services.start_soon(daemon.run_backfills)
        services.cancel_scope.cancel()


class _Daemon:
    """The parts of one process, wired. It owns nothing: pools and nurseries are the caller's."""

    def __init__(
        self,
        settings: Settings,
        conninfo: str,
        pool: Pool,
        lease_pool: Pool,
        *,
        http: HttpClient,
        tls: ssl.SSLContext,
        ring: KeyRing | None,
        platforms: Sequence[Register],
    ) -> None:
        from gateway.inbound.commands import CommandDesk
        from gateway.inbound.committer import Committer
        from gateway.inbound.enrichment import Enricher
        from gateway.inbound.pipeline import InboundPipeline
        from gateway.lark.api.clients import LarkClients
        from gateway.observe.events import InboundObserver, LookupObserver
        from gateway.postgres.inbound_store import PostgresInboundStore
        from gateway.postgres.issue_store import PostgresIssueStore
        from gateway.postgres.task_store import PostgresTaskStore
        from gateway.work.issues.issues import IssueService
        from gateway.work.tasks.ports import LossLimits
        from gateway.work.tasks.tasks import TaskService

        self._settings = settings
        self._conninfo = conninfo
        self._pool = pool
        self._lease_pool = lease_pool
        self._ring = ring
        self._http = http
        self._lark = LarkClients(
            http,
            open_base_override=settings.lark.open_base_url,
            send_timeout_seconds=settings.hub.reply_timeout_seconds,
        )
        self._metrics = Metrics()
        self._registry = Registry()
        self._files: dict[str, FileSource] = {}
        for register in platforms:
            register(Supplies(settings, pool, ring, self._lark, tls, self._metrics, self._registry, self._files))
        self._wakes = Wakes()
        self._node_id = secrets.token_hex(16)
        self._pushed: PushedEvents | None = None
        self._committer = Committer()
        limits = LossLimits(silent_seconds=settings.limits.runtime_silence_seconds)
        self._inbound = PostgresInboundStore(
            pool,
            batch_window_seconds=settings.hub.batch_window_seconds,
            silent_seconds=limits.silent_seconds,
        )
        issues = IssueService(PostgresIssueStore(pool, silent_seconds=limits.silent_seconds))
        commands = CommandDesk(
            self._inbound,
            issues,
            public_url=settings.http.public_url,
            stale_after_seconds=settings.hub.stale_after_seconds,
        )
        self._attachments = self._fetched_files()
        self._enricher = Enricher(self._registry.lookups(), observe=LookupObserver(self._metrics))
        self._pipeline = InboundPipeline(
            self._inbound,
            self._committer,
            commands,
            observe=InboundObserver(self._metrics),
            ingested=self._enricher.expect,
        )
        self._tasks = TaskService(
            PostgresTaskStore(
                pool,
                divide=self._registry.divide,
                typing_on=self._registry.types_with(Capability.TYPING_INDICATOR),
            ),
            self._wakes.tasks,
            limits=limits,
            ended=TaskObserver(self._metrics),
            enrich=self._enricher.enrich,
        )
        self._set_up_autopilots(issues, online_seconds=limits.silent_seconds)
        self._set_up_webhooks()

    def _set_up_autopilots(self, issues: IssueService, *, online_seconds: float) -> None:
        from gateway.observe.events import AutopilotObserver
        from gateway.postgres.autopilot_store import PostgresAutopilotStore
        from gateway.postgres.dispatch_store import PostgresDispatchStore
        from gateway.work.autopilots.autopilots import AutopilotService
        from gateway.work.autopilots.dispatch import AutopilotDispatcher

        runs = AutopilotObserver(self._metrics)
        self._dispatcher = AutopilotDispatcher(
            PostgresDispatchStore(self._pool, online_seconds=online_seconds), issues, began=runs.began
        )
        self._autopilots = AutopilotService(PostgresAutopilotStore(self._pool), self._dispatcher, ended=runs.ended)

    def _set_up_webhooks(self) -> None:
        from gateway.observe.events import WebhookObserver
        from gateway.postgres.webhook_store import PostgresWebhookStore
        from gateway.webhooks.delivery import Intake
        from gateway.webhooks.known import KnownTokens
        from gateway.webhooks.limits import Gates
        from gateway.webhooks.replay import Replayer
        from gateway.webhooks.turns import Turns

        webhooks = self._settings.webhooks
        self._gates = Gates(
            per_token_per_minute=webhooks.per_token_per_minute, per_ip_per_minute=webhooks.per_ip_per_minute
        )
        self._deliveries = PostgresWebhookStore(self._pool)
        self._known_tokens = KnownTokens(self._deliveries)
        self._recording = Batcher("deliveries", self._deliveries.record)
        self._beginning = Batcher("runs", self._dispatcher.dispatch_together)
        self._intake = Intake(
            self._deliveries,
            self._dispatcher,
            self._ring,
            clock=lambda: datetime.now(UTC),
            record=self._recording.submit,
            begin=self._beginning.submit,
            observe=WebhookObserver(self._metrics),
        )
        self._replayer = Replayer(self._deliveries, self._intake)
        self._turns = Turns(self._deliveries, self._intake, self._gates)

    async def start_services(self, nursery: trio.Nursery) -> None:
        """What intake stands on, and what outlives it."""
        from gateway.inbound.committer import run_committer
        from gateway.inbound.enrichment import run_prefetch
        from gateway.webhooks.replay import run_replays

        await nursery.start(partial(run_committer, self._committer, self._inbound))
        heard = {**self._wakes.callbacks(), "gateway_webhook": self._known_tokens.hear}
        await nursery.start(partial(run_listener, self._connect_listener, heard))
        await nursery.start(partial(run_prefetch, self._enricher, self._inbound.find_installation))
        await nursery.start(self._run_attachments)
        nursery.start_soon(self._run_janitor)
        await nursery.start(run_batches, self._recording)
        await nursery.start(run_batches, self._beginning)
        nursery.start_soon(run_replays, self._deliveries, self._replayer, self._wakes.replays)
        if self._ring is not None:
            self._pushed = self._pushed_events(self._ring)
            await nursery.start(self._pushed.run)

    async def start_intake(self, nursery: trio.Nursery, stop: trio.Event) -> Ready:
        """Bots and HTTP, each of which returns when `stop` is set and its drain is over."""
        fleet: Fleet = await nursery.start(partial(self._run_supervisor, stop))
        nursery.start_soon(self._run_gauges, fleet, stop)
        nursery.start_soon(self._end_waiting, stop)
        metrics_url = await self._start_metrics(nursery, stop)
        installs = None if self._ring is None else await self._start_installs(nursery, self._ring, stop)
        url: str = await nursery.start(partial(self._serve_http, fleet, stop, installs))
        return Ready(url, metrics_url, self._node_id)

    async def _connect_listener(self) -> TrioConnection[Any]:
        connection = await TrioConnection.connect(self._conninfo, autocommit=True)
        try:
            await announce_daemon(connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _end_waiting(self, stop: trio.Event) -> None:
        await stop.wait()
        self._tasks.drain()
        self._wakes.feed.end()

    # --- bots ---------------------------------------------------------------------------------------------------------

    async def _run_supervisor(self, stop: trio.Event, *, task_status: trio.TaskStatus[Fleet]) -> None:
        from gateway.observe.events import SupervisorObserver
        from gateway.postgres.lease_store import PostgresLeaseStore
        from gateway.supervisor.sweep import run_supervisor

        await run_supervisor(
            store=PostgresLeaseStore(self._lease_pool),
            registry=self._registry,
            open_secrets=partial(_open_secrets, self._ring),
            handler_for=lambda _: self._pipeline.receive,
            run_outbox=self._run_outbox,
            settings=_lease_settings(self._settings),
            node_id=self._node_id,
            wake=self._wakes.installations,
            releases=self._wakes.releases,
            stop=stop,
            shutdown_seconds=self._settings.limits.drain_seconds,
            observer=SupervisorObserver(self._metrics),
            task_status=task_status,
        )

    def _fetched_files(self) -> Attachments:
        from gateway.observe.events import FetchObserver
        from gateway.postgres.attachment_store import PostgresAttachmentStore
        from gateway.work.tasks.attachments import Attachments, PlatformFiles
        from gateway.work.tasks.file_cache import FileCache

        limits = self._settings.limits
        cache = FileCache(
            self._settings.state_dir / "attachments",
            bytes_max=limits.attachment_storage_bytes_max,
            unused_seconds_max=limits.attachment_storage_days_max * 86_400,
        )
        return Attachments(
            PostgresAttachmentStore(self._pool),
            PlatformFiles(self._files),
            cache,
            bytes_max=limits.attachment_bytes_max,
            at_once=limits.attachments_at_once_max,
            record=FetchObserver(self._metrics),
        )

    async def _run_attachments(self, *, task_status: trio.TaskStatus[None]) -> None:
        from gateway.inbound.effects import run_attachments
        from gateway.postgres.attachment_store import PostgresAttachmentStore

        await run_attachments(
            self._attachments,
            PostgresAttachmentStore(self._pool),
            self._wakes.attachments,
            on_fault=partial(self._metrics.count, "gateway_unexpected_errors_total", unit="attachment"),
            task_status=task_status,
        )

    def _pushed_events(self, ring: KeyRing) -> PushedEvents:
        """Events that Lark posts, which go into the same pipeline as those of a long connection."""
        from gateway.lark.chat.content import CHANNEL_TYPE
        from gateway.lark.chat.push import Bots, PushedEvents
        from gateway.observe.events import AckObserver
        from gateway.postgres.push_store import PostgresPushStore

        bots = Bots(self._lark)
        return PushedEvents(
            PostgresPushStore(self._pool),
            ring,
            self._pipeline.receive,
            bots.learn,
            on_ack=AckObserver(self._metrics, CHANNEL_TYPE),
            on_fault=partial(self._metrics.count, "gateway_unexpected_errors_total", unit="frame"),
        )

    async def _run_outbox(self, installation: Installation, epoch: int, channel: Channel) -> None:
        from gateway.outbound.governor import Governor
        from gateway.outbound.outbox import run_outbox
        from gateway.outbound.ports import Lease
        from gateway.outbound.typing import Typist
        from gateway.postgres.binding_store import PostgresBindingStore
        from gateway.postgres.outbox_store import PostgresOutboxStore
        from gateway.postgres.typing_store import PostgresTypingStore
        from gateway.work.people.binding_prompts import BindingPrompts

        prompts = BindingPrompts(PostgresBindingStore(self._pool), public_url=self._settings.http.public_url)
        attempt_seconds = self._settings.hub.reply_timeout_seconds
        governor = Governor(GovernorObserver(self._metrics))
        with self._wakes.outbox.hear(str(installation.id)) as wake:
            typist = Typist(
                Lease(installation.id, epoch),
                channel,
                PostgresTypingStore(self._pool),
                wake=wake,
                governor=governor,
                attempt_seconds=attempt_seconds,
                record=TypingObserver(self._metrics),
            )
            await run_outbox(
                installation_id=installation.id,
                lease_epoch=epoch,
                channel=channel,
                store=PostgresOutboxStore(self._pool),
                wake=wake,
                attempt_seconds=attempt_seconds,
                record=OutboxObserver(self._metrics),
                typist=typist,
                governor=governor,
                composers={"binding_prompt": lambda row: prompts.compose(installation.id, row.recipient_id)},
            )

    # --- connecting bots ----------------------------------------------------------------------------------------------

    async def _start_installs(self, nursery: trio.Nursery, ring: KeyRing, stop: trio.Event) -> ScanDesk:
        from gateway.lark.install.scan import run_installs

        on_fault = partial(self._metrics.count, "gateway_unexpected_errors_total", unit="install")
        desk = scan_desk(self._settings, self._pool, self._http, ring, on_fault=on_fault)
        await nursery.start(partial(run_installs, desk, stop=stop))
        return desk

    async def run_backfills(self) -> None:
        """Once in the background, as long as the process runs: what older versions did not store."""
        from gateway.lark.install.backfill import label_regions, learn_union_ids
        from gateway.lark.install.service import identify_over
        from gateway.postgres.installation_store import PostgresInstallationStore

        override = self._settings.lark.open_base_url
        store = PostgresInstallationStore(self._pool)
        await label_regions(store, override)
        if self._ring is not None:
            await learn_union_ids(store, self._ring, identify_over(self._http, override))

    # --- chores -------------------------------------------------------------------------------------------------------

    async def _run_janitor(self) -> None:
        from gateway.postgres.janitor_store import PostgresJanitorStore
        from gateway.postgres.notices import PostgresAbsences
        from gateway.work.janitor import Sweep, run_janitor

        store = PostgresJanitorStore(self._pool)
        absences = PostgresAbsences(self._pool, silent_seconds=self._settings.limits.runtime_silence_seconds)
        kept = self._settings.limits.history_days_max * 86_400.0
        await run_janitor(
            [
                Sweep("lost_tasks", 10, self._tasks.return_lost),
                Sweep("absences", 10, absences.tell),
                Sweep("attachment_files", 600, self._attachments.sweep),
                Sweep("inbound_claims", 600, store.purge_inbound_dedup),
                Sweep("held_commands", 600, store.purge_held_commands),
                Sweep("binding_tokens", 600, store.purge_binding_tokens),
                Sweep("binding_prompts", 600, store.purge_binding_prompts),
                Sweep("install_sessions", 600, store.purge_install_sessions),
                Sweep("user_sessions", 600, store.purge_user_sessions),
                Sweep("outbound_messages", 600, partial(store.purge_outbound, kept)),
                Sweep("inbound_audit", 600, partial(store.purge_inbound_audit, kept)),
                Sweep("typing", 600, store.purge_typing),
                Sweep("stale_deliveries", 5, self._intake.finish_stale),
                Sweep("waiting_deliveries", 1, self._turns.begin),
                Sweep("delivery_counts", 10, self._deliveries.fold_tally),
                Sweep("deliveries", 600, self._purge_deliveries),
                Sweep("autopilot_runs", 5, self._autopilots.count_ended),
            ]
        )

    async def _purge_deliveries(self) -> int:
        days = self._settings.webhooks.retention_days
        return await self._deliveries.purge(days * 86_400.0) if days else 0

    async def _run_gauges(self, fleet: Fleet, stop: trio.Event) -> None:
        """What is read off rather than counted, until the bots have begun to drain."""
        while not stop.is_set():
            for channel in self._registry.types():
                for state in ConnectionState:
                    count = fleet.connections()[channel, state]
                    self._metrics.set("gateway_channel_connections", count, channel=channel, state=state)
                self._metrics.set("gateway_channel_connections_degraded", fleet.degraded()[channel], channel=channel)
            self._metrics.set("gateway_database_connections", self._pool.idle, state="idle")
            self._metrics.set("gateway_database_connections", self._pool.in_use, state="busy")
            with trio.move_on_after(GAUGE_SECONDS):
                await stop.wait()

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _serve_http(
        self, fleet: Fleet, stop: trio.Event, installs: ScanDesk | None, *, task_status: trio.TaskStatus[str]
    ) -> None:
        from gateway.http.app import Services, create_app
        from gateway.http.places import PlaceLimits
        from gateway.http.server import serve_http
        from gateway.postgres.directory_store import PostgresDirectoryStore
        from gateway.work.people.directory import Directory

        directory, limits = Directory(PostgresDirectoryStore(self._pool)), self._settings.limits
        services = Services(
            authenticate=directory.authenticate,
            tasks=self._tasks,
            health=self._readiness(fleet),
            metrics=self._metrics,
            people=self._people(directory, installs),
            attachments=self._attachments,
            take_lark_event=None if self._pushed is None else self._pushed.take,
            webhooks=self._ingress(),
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
        await serve_http(create_app(services), self._settings.http.bind, stop=stop, task_status=task_status)

    def _ingress(self) -> Ingress:
        from gateway.http.ingress.webhooks import Ingress

        return Ingress(
            self._intake,
            self._gates,
            self._known_tokens,
            limited=lambda gate: self._metrics.count("gateway_webhook_rate_limited_total", gate=gate),
            body_bytes_max=self._settings.webhooks.body_bytes_max,
            trusted_proxies=self._settings.http.trusted_proxies,
        )

    def _people(self, directory: Directory, installs: ScanDesk | None) -> People:
        from gateway.channel.lookup import Introductions
        from gateway.http.app import People
        from gateway.postgres.account_store import PostgresAccountStore
        from gateway.postgres.binding_store import PostgresBindingStore
        from gateway.postgres.chat_store import PostgresChatStore
        from gateway.postgres.issue_page_store import PostgresIssuePages
        from gateway.postgres.outgoing_store import PostgresOutgoingStore
        from gateway.work.people.accounts import Accounts
        from gateway.work.people.bindings import BindingService
        from gateway.work.tasks.chats import ChatService
        from gateway.work.tasks.outgoing import OutgoingService

        return People(
            accounts=Accounts(PostgresAccountStore(self._pool)),
            directory=directory,
            bindings=BindingService(PostgresBindingStore(self._pool), Introductions(self._registry.lookups()).of),
            workplace=self._workplace(),
            chats=ChatService(PostgresChatStore(self._pool), ended=TaskObserver(self._metrics)),
            outgoing=OutgoingService(PostgresOutgoingStore(self._pool)),
            issues=PostgresIssuePages(self._pool),
            feed=self._wakes.feed,
            installs=installs,
            lark_on=installs is not None,
            platforms=self._registry.titles(),
            public_url=self._settings.http.public_url,
            trusted_proxies=self._settings.http.trusted_proxies,
        )

    def _workplace(self) -> Workplace:
        from gateway.http.app import Workplace
        from gateway.postgres.directory_store import PostgresDirectoryStore
        from gateway.postgres.team_store import PostgresTeamStore
        from gateway.work.people.teams import TeamService

        team = TeamService(PostgresTeamStore(self._pool), PostgresDirectoryStore(self._pool))
        hooks = self._hooks()
        return Workplace(team, self._autopilots, hooks.triggers.views, hooks)

    def _hooks(self) -> Hooks:
        from gateway.http.api.deliveries import Hooks
        from gateway.postgres.trigger_store import PostgresTriggerStore
        from gateway.webhooks.log import DeliveryLog
        from gateway.webhooks.replay import BulkDesk
        from gateway.webhooks.triggers import TriggerDesk

        triggers = TriggerDesk(
            PostgresTriggerStore(self._pool),
            self._autopilots,
            self._ring,
            clock=lambda: datetime.now(UTC),
            public_url=self._settings.http.public_url,
        )
        bulk = BulkDesk(self._deliveries, self._wakes.replays)
        return Hooks(triggers, DeliveryLog(self._deliveries), self._replayer, bulk)

    def _readiness(self, fleet: Fleet) -> Readiness:
        from gateway.observe.health import Readiness
        from gateway.postgres.readiness_store import PostgresReadiness

        probes = PostgresReadiness(self._pool)
        readiness = Readiness(fleet.states)
        readiness.add("database", probes.database_problem)
        readiness.add("write", probes.write_problem, kept_seconds=PROBE_KEPT_SECONDS)
        readiness.add("migrations", self._migrations_problem, kept_seconds=PROBE_KEPT_SECONDS)
        readiness.add("leases", fleet.problem, kept_seconds=0)
        return readiness

    async def _migrations_problem(self) -> str | None:
        waiting = await pending(self._conninfo)
        return f"pending: {', '.join(waiting)}" if waiting else None

    async def _start_metrics(self, nursery: trio.Nursery, stop: trio.Event) -> str | None:
        bind = self._settings.metrics.bind
        if bind is None:
            return None
        from gateway.http.metrics import KEEP_ALIVE_SECONDS, create_metrics_app
        from gateway.http.server import serve_http

        if not is_loopback(bind):
            log.warning("metrics_reachable_from_outside", bind=bind)
        app = create_metrics_app(self._metrics)
        serve = partial(serve_http, app, bind, stop=stop, key="metrics.bind", keep_alive_seconds=KEEP_ALIVE_SECONDS)
        url: str = await nursery.start(serve)
        return f"{url}/metrics"


def _open_secrets(ring: KeyRing | None, installation: Installation | StoredInstallation) -> dict[str, Any]:
    return open_config(installation.config, ring, installation.id)


def _lease_settings(settings: Settings) -> LeaseSettings:
    hub = settings.hub
    return LeaseSettings(hub.lease_ttl_seconds, hub.renew_seconds, hub.poll_seconds, hub.expiry_margin_seconds)
