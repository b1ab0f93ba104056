"""The sweep: compare the stored installations with those that run here, again and again, and start or drain tasks.

There is one task with its own nursery per installation. A change of credentials drains the old task and starts a new
one. The new task waits for the end of the old one and asks for the lease with its own token.
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
from gateway.recorder import SILENT, Recorder
from gateway.supervisor.installation import Assignment, InstallationContext, run_installation
from gateway.supervisor.lease import RELEASE_SECONDS, Leases, run_connection_reporter, run_lease_keeper
from gateway.supervisor.ports import HandlerFor, Installation, LeaseStore, OpenSecrets, RunOutbox

logger = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0
"""The time limit of one sweep."""
_SWEEP_GAP_SECONDS = 0.1
"""The shortest pause between two sweeps, however many changes are announced, because each sweep reads every row."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A row's config, opened once. If it could not be opened, there is no fingerprint, and `problem` says why."""

    installation: Installation
    opened: dict[str, Any] = field(default_factory=dict, repr=False)
    fingerprint: str = ""
    problem: str = ""


class Fleet:
    """The installations that run in this process. Other code may query it, but only the sweep changes it."""

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
        """Count the installations that this process serves, by channel type and state of the link."""
        count = Counter((each.installation.channel_type, each.health.state) for each in self._serving.values())
        for reading in self._readings.values():
            if reading.problem:
                count[reading.installation.channel_type, ConnectionState.UNREADABLE_SECRET] += 1
        return count

    def degraded(self) -> Counter[str]:
        """Count the degraded installations by channel type.

        They receive events, but within the last minute asked the platform to send some event again.
        """
        now = trio.current_time()
        return Counter(
            each.installation.channel_type for each in self._serving.values() if each.health.degraded_seconds(now) > 0
        )

    def states(self) -> Counter[str]:
        """Count the installations of this process by state, over all channels.

        A `degraded` installation has a state of its link too, and counts in both.
        """
        count: Counter[str] = Counter()
        for (_, state), bots in self.connections().items():
            count[state.value] += bots
        if degraded := self.degraded().total():
            count["degraded"] = degraded
        return count

    async def problem(self) -> str | None:
        """Readiness check: return in words what keeps this process from serving its bots, or None."""
        now, settings = trio.current_time(), self.leases.settings
        if self.swept_at == -math.inf:
            return "the installations have not been read yet"
        if now - self.swept_at > 2 * (settings.poll_seconds + SWEEP_SECONDS):
            return f"the installations were last read {now - self.swept_at:.0f} s ago"
        return None

    def adopt(self, listed: Sequence[Installation]) -> list[Assignment]:
        """Adapt what runs to the listed rows: drain the assignments that must end, and return those to start."""
        self._readings = {installation.id: self._read(installation) for installation in listed}
        self._told &= self._readings.keys()
        plan = self._roster.reconcile(
            {id_: each.fingerprint for id_, each in self._readings.items() if each.fingerprint}
        )
        for stop in plan.stop:
            self._leaving[stop.installation_id] = leaver = self._serving.pop(stop.installation_id)
            # A row that is listed but does not open is stopped too. It is not gone, so it is not marked as revoked.
            leaver.gone = stop.gone and stop.installation_id not in self._readings
            leaver.drain()
        for id_ in plan.keep:
            self._refresh(self._serving[id_], self._readings[id_])
        return [self._assign(start) for start in plan.start]

    def unreadable(self) -> list[tuple[UUID, str]]:
        """Return (id, problem) of the rows that do not open and whose problem was not stored yet.

        Leaves out rows whose lease is held: another process may be able to open them.
        """
        return [
            (id_, reading.problem)
            for id_, reading in self._readings.items()
            if reading.problem and reading.installation.lease_seconds is None and id_ not in self._told
        ]

    def told(self, installation_id: UUID) -> None:
        """Record that the row's problem was stored, so that `unreadable` leaves it out."""
        self._told.add(installation_id)

    def drain(self) -> None:
        """Ask every running assignment to drain. Returns at once."""
        for assignment in self._serving.values():
            assignment.drain()

    def ended(self, assignment: Assignment) -> None:
        """Forget an assignment whose task has ended. A newer one of the same installation is not affected."""
        self._roster.ended(assignment.id, assignment.generation)
        for place in (self._serving, self._leaving):
            if place.get(assignment.id) is assignment:
                del place[assignment.id]

    def _read(self, installation: Installation) -> _Reading:
        known = self._readings.get(installation.id)
        if installation.lease_seconds is not None:
            # The holder overwrites the stored state, so the problem must be stored again once the lease is free.
            self._told.discard(installation.id)
        if known is not None and known.installation.config == installation.config:
            # Keeps the config object that is in memory already: the equal copy just read is dropped, which saves memory
            # with thousands of bots. The secrets are not opened again either.
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
            # One malformed row must not keep the others from being served.
            self.leases.recorder.count("unexpected_errors", unit="sweep")
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
    recorder: Recorder = SILENT,
    task_status: trio.TaskStatus[Fleet] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every installation of the registered types until `stop` is set, and return when all of them are drained.

    The listener of the notification `gateway_installation` sets `wake`, which makes the next sweep immediate. The
    listener of `gateway_lease` rings `releases` with the installation's id. `node_id` is fresh for each process, and
    lease tokens begin with it. `started()` gives the Fleet at once, because nothing here can fail a boot.
    `Fleet.problem` tells when the first sweep is done.

    Shutdown: setting `stop` drains all installations at the same time, for at most `shutdown_seconds`. Those that are
    not done by then are cancelled. Their leases are renewed meanwhile. Cancelling this function drains nothing: links
    are cut at once, and leases are released only if that is quick. Other processes take over the rest at their expiry.
    Error handling: an unreachable database ends only the leases that it does not confirm. An exception raised here is a
    bug, and meant to end the process.
    """
    leases = Leases(store, settings, recorder)
    fleet = Fleet(leases, registry, open_secrets, node_id)
    context = InstallationContext(leases, registry, handler_for, run_outbox, releases, jitter)
    if not settings.shields_fit:
        logger.warning("lease_margin_short", margin_seconds=settings.margin_seconds, needed=SHIELDS_UNDER_LEASE_SECONDS)
    task_status.started(fleet)
    # The nesting is the order of the end: sweeping stops first, then the installations drain, and the keeper of their
    # leases ends last, because they need their leases until they are drained.
    async with trio.open_nursery() as services:
        services.start_soon(partial(run_lease_keeper, leases, jitter=jitter))
        services.start_soon(run_connection_reporter, leases, node_id)
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
    """List the rows to serve. Any error becomes a StoreError, so that it fails this sweep alone.

    For example, a config that is nested too deeply cannot be read. It must not end the installations that run.
    """
    try:
        return await fleet.leases.store.list_active(context.registry.types())
    except StoreError:
        raise
    except Exception as error:
        fleet.leases.recorder.count("unexpected_errors", unit="sweep")
        logger.exception("installations_unreadable")
        raise StoreError("the installations cannot be read") from error


async def _run_assignment(assignment: Assignment, context: InstallationContext, fleet: Fleet) -> None:
    try:
        # Every log line of this task, the link's included, carries the installation's id.
        structlog.contextvars.bind_contextvars(installation_id=str(assignment.id))
        await run_installation(assignment, context)
        if assignment.gone:
            await _mark_revoked(assignment.id, fleet.leases.store)
    finally:
        fleet.ended(assignment)


async def _mark_revoked(installation_id: UUID, store: LeaseStore) -> None:
    """Store the state `revoked` for a row without a holder. A holder's release has stored it already.

    A failure is only logged, because the state is for display alone.
    """
    try:
        with trio.fail_after(RELEASE_SECONDS):
            await store.mark(installation_id, ConnectionState.REVOKED, "")
    except (StoreError, trio.TooSlowError) as error:
        logger.warning("connection_state_not_stored", links=1, error=type(error).__name__)
