"""Which bots this process serves: compare what is stored with what runs, again and again.

One task with its own nursery per installation. A change of credentials drains the old task and starts a new one, which
waits for the old one's end and asks for the lease with a token of its own.
"""

from __future__ import annotations

import math
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import ConnectionState
from gateway.channel.registry import Registry
from gateway.concurrency import Signal, Topics
from gateway.core.lease import SHIELDS_UNDER_LEASE_SECONDS, LeaseSettings, lease_token
from gateway.core.reconcile import Roster, Start, fingerprint
from gateway.errors import StoreError
from gateway.keyring import UnreadableSecret
from gateway.supervisor.installation import Assignment, InstallationContext, run_installation
from gateway.supervisor.lease import RELEASE_SECONDS, Leases, run_connection_recorder, run_lease_keeper
from gateway.supervisor.ports import HandlerFor, Installation, LeaseStore, Observer, OpenSecrets, RunOutbox, Unobserved

logger = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0
"""The bound of one listing."""
_SWEEP_GAP_SECONDS = 0.1
"""Between two sweeps, however many changes are announced: each of them reads every row."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A row's config, opened once. Without a fingerprint it did not open, and `problem` says why."""

    installation: Installation
    opened: dict[str, Any] = field(default_factory=dict, repr=False)
    fingerprint: str = ""
    problem: str = ""


class Fleet:
    """What runs in this process, by installation. Others may ask it questions; only the sweep changes it."""

    def __init__(self, leases: Leases, registry: Registry, open_secrets: OpenSecrets, node_id: str) -> None:
        self.leases = leases
        self.swept_at = -math.inf
        self._registry = registry
        self._open_secrets = open_secrets
        self._node_id = node_id
        self._digest_key = secrets.token_bytes(32)
        self._roster = Roster()
        self._serving: dict[UUID, Assignment] = {}
        self._leaving: dict[UUID, Assignment] = {}
        self._readings: dict[UUID, _Reading] = {}
        self._told: set[UUID] = set()

    def connections(self) -> Counter[tuple[str, ConnectionState]]:
        """How many installations this process looks after, by channel type and state of the link."""
        count = Counter((each.installation.channel_type, each.health.state) for each in self._serving.values())
        for reading in self._readings.values():
            if reading.problem:
                count[reading.installation.channel_type, ConnectionState.UNREADABLE_SECRET] += 1
        return count

    def degraded(self) -> Counter[str]:
        """How many installations hear, but asked within the last minute for some event again, by channel type."""
        now = trio.current_time()
        return Counter(
            each.installation.channel_type for each in self._serving.values() if each.health.degraded_seconds(now) > 0
        )

    def states(self) -> Counter[str]:
        """How many installations of this process are in which state, whatever their channel.

        Those that are `degraded` are in a state of the link besides, and count in both.
        """
        count: Counter[str] = Counter()
        for (_, state), bots in self.connections().items():
            count[state.value] += bots
        if degraded := self.degraded().total():
            count["degraded"] = degraded
        return count

    async def problem(self) -> str | None:
        """A readiness check: what keeps this process from looking after its bots, in words, or None."""
        now, settings = trio.current_time(), self.leases.settings
        if self.swept_at == -math.inf:
            return "the installations have not been read yet"
        if now - self.swept_at > 2 * (settings.poll_seconds + SWEEP_SECONDS):
            return f"the installations were last read {now - self.swept_at:.0f} s ago"
        return None

    def adopt(self, listed: Sequence[Installation]) -> list[Assignment]:
        """Change what runs to what was listed: ask those to drain that must end, and return those to start."""
        self._readings = {installation.id: self._read(installation) for installation in listed}
        self._told &= self._readings.keys()
        plan = self._roster.reconcile(
            {id_: each.fingerprint for id_, each in self._readings.items() if each.fingerprint}
        )
        for stop in plan.stop:
            self._leaving[stop.installation_id] = leaver = self._serving.pop(stop.installation_id)
            leaver.gone = stop.gone and stop.installation_id not in self._readings
            leaver.drain()
        for id_ in plan.keep:
            self._refresh(self._serving[id_], self._readings[id_])
        return [self._assign(start) for start in plan.start]

    def unreadable(self) -> list[tuple[UUID, str]]:
        """What is to be said of rows that do not open, once each, and of none that somebody else holds and can open."""
        return [
            (id_, reading.problem)
            for id_, reading in self._readings.items()
            if reading.problem and reading.installation.lease_seconds is None and id_ not in self._told
        ]

    def told(self, installation_id: UUID) -> None:
        self._told.add(installation_id)

    def drain(self) -> None:
        for assignment in self._serving.values():
            assignment.drain()

    def ended(self, assignment: Assignment) -> None:
        self._roster.ended(assignment.id, assignment.generation)
        for place in (self._serving, self._leaving):
            if place.get(assignment.id) is assignment:
                del place[assignment.id]

    def _read(self, installation: Installation) -> _Reading:
        known = self._readings.get(installation.id)
        if installation.lease_seconds is not None:
            self._told.discard(installation.id)
        if known is not None and known.installation.config == installation.config:
            # With the config that is held already: one copy of it is enough for thousands of bots.
            return replace(known, installation=replace(installation, config=known.installation.config))
        self._told.discard(installation.id)
        try:
            opened = self._open_secrets(installation)
            identity = self._registry.traits(installation.channel_type).identity_keys
            said = fingerprint(self._digest_key, installation.channel_type, installation.config, opened, identity)
        except UnreadableSecret as error:
            logger.warning("secret_unreadable", installation_id=str(installation.id), error=str(error))
            return _Reading(installation, problem=str(error))
        except Exception as error:
            # One row that nobody foresaw must not keep the others from being served.
            self.leases.observer.unexpected_error("sweep")
            logger.exception("installation_unreadable", installation_id=str(installation.id))
            return _Reading(installation, problem=f"its configuration cannot be read ({type(error).__name__})")
        return _Reading(installation, opened, said)

    def _refresh(self, assignment: Assignment, reading: _Reading) -> None:
        assignment.installation = reading.installation
        assignment.opened = reading.opened
        assignment.observe_lease(reading.installation.lease_seconds)

    def _assign(self, start: Start) -> Assignment:
        reading = self._readings[start.installation_id]
        assignment = Assignment(
            reading.installation,
            reading.opened,
            start.generation,
            lease_token(self._node_id, start.generation),
            predecessor=self._leaving.get(start.installation_id),
        )
        self._serving[start.installation_id] = assignment
        return assignment


async def run_supervisor(
    *,
    store: LeaseStore,
    registry: Registry,
    open_secrets: OpenSecrets,
    handler_for: HandlerFor,
    run_outbox: RunOutbox,
    settings: LeaseSettings,
    node_id: str,
    wake: Signal,
    releases: Topics,
    stop: trio.Event,
    shutdown_seconds: float = 15.0,
    jitter: Callable[[], float] = random.random,
    observer: Observer | None = None,
    task_status: trio.TaskStatus[Fleet] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every installation of the registered types until `stop` is set, and return when all of them are drained.

    `wake` is set by whoever hears `gateway_installation`, and makes the next sweep immediate. `releases` is rung with
    the installation's id by whoever hears `gateway_lease`. `node_id` is fresh for each process: tokens begin with it.
    `started()` gives the Fleet at once, because nothing here can fail a boot; `Fleet.problem` tells when it has begun.

    Shutdown: setting `stop` drains all installations at the same time, for at most `shutdown_seconds`; what is not done
    by then is cancelled. Their leases are renewed meanwhile. Cancelling instead drains nothing: links are cut at once,
    and leases are released only if that takes no time; others take over when those left expire.
    Error handling: an unreachable database ends nothing but the leases it does not confirm. What is raised here is a
    bug, and meant to end the process.
    """
    leases = Leases(store, settings, observer or Unobserved())
    fleet = Fleet(leases, registry, open_secrets, node_id)
    context = InstallationContext(leases, registry, handler_for, run_outbox, releases, jitter)
    if not settings.shields_fit:
        logger.warning("lease_margin_short", margin_seconds=settings.margin_seconds, needed=SHIELDS_UNDER_LEASE_SECONDS)
    task_status.started(fleet)
    async with trio.open_nursery() as services:
        services.start_soon(partial(run_lease_keeper, leases, jitter=jitter))
        services.start_soon(run_connection_recorder, leases, node_id)
        async with trio.open_nursery() as installations:
            async with trio.open_nursery() as sweeping:
                sweeping.start_soon(_cancel_when, stop, sweeping.cancel_scope)
                await _keep_sweeping(fleet, context, wake, installations)
            fleet.drain()
            installations.cancel_scope.deadline = trio.current_time() + shutdown_seconds
        services.cancel_scope.cancel()


async def _keep_sweeping(fleet: Fleet, context: InstallationContext, wake: Signal, installations: trio.Nursery) -> None:
    while True:
        await _sweep(fleet, context, installations)
        await trio.sleep(_SWEEP_GAP_SECONDS)
        await wake.wait(fleet.leases.settings.poll_seconds)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _sweep(fleet: Fleet, context: InstallationContext, installations: trio.Nursery) -> None:
    store = fleet.leases.store
    try:
        with trio.fail_after(SWEEP_SECONDS):
            for assignment in fleet.adopt(await _list(fleet, context)):
                installations.start_soon(_run_assignment, assignment, context, fleet)
            fleet.swept_at = trio.current_time()
            for installation_id, problem in fleet.unreadable():
                if await store.mark(installation_id, ConnectionState.UNREADABLE_SECRET, problem):
                    fleet.told(installation_id)
    except (StoreError, trio.TooSlowError) as error:
        logger.warning("sweep_failed", error=type(error).__name__)


async def _list(fleet: Fleet, context: InstallationContext) -> Sequence[Installation]:
    """What should be served. A row that cannot even be read (a config nested too deep, say) must not end what runs."""
    try:
        return await fleet.leases.store.list_active(context.registry.types())
    except StoreError:
        raise
    except Exception as error:
        fleet.leases.observer.unexpected_error("sweep")
        logger.exception("installations_unreadable")
        raise StoreError("the installations cannot be read") from error


async def _run_assignment(assignment: Assignment, context: InstallationContext, fleet: Fleet) -> None:
    try:
        # Whatever is logged under this task, by the link too, says whose it is.
        structlog.contextvars.bind_contextvars(installation_id=str(assignment.id))
        await run_installation(assignment, context)
        if assignment.gone:
            await _mark_revoked(assignment.id, fleet.leases.store)
    finally:
        fleet.ended(assignment)


async def _mark_revoked(installation_id: UUID, store: LeaseStore) -> None:
    """For a row that nobody held; a holder's release has said so already. Nothing depends on it but what is shown."""
    try:
        with trio.fail_after(RELEASE_SECONDS):
            await store.mark(installation_id, ConnectionState.REVOKED, "")
    except (StoreError, trio.TooSlowError) as error:
        logger.warning("connection_state_not_stored", links=1, error=type(error).__name__)
