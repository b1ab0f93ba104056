"""The sweep: compare the stored installations with those that run here, again and again, and start or drain tasks.

There is one task with its own nursery per installation. A change of credentials drains the old task and starts a new
one. The new task waits for the end of the old one and asks for the lease with its own token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import ConnectionState
from gateway.concurrency import Signal, Topics
from gateway.core.lease import SHIELDS_UNDER_LEASE_SECONDS
from gateway.errors import StoreError
from gateway.supervisor.fleet import SWEEP_SECONDS, Fleet
from gateway.supervisor.installation import Assignment, InstallationContext, run_installation
from gateway.supervisor.lease import RELEASE_SECONDS, Leases, run_connection_reporter, run_lease_keeper
from gateway.supervisor.phases import Phase
from gateway.supervisor.ports import ActiveInstallation, LeaseStore, Serving

logger = structlog.get_logger(__name__)

_SWEEP_GAP_SECONDS = 0.1
"""The shortest pause between two sweeps, however many changes are announced, because each sweep reads every row."""


async def run_supervisor(
    leases: Leases,
    serving: Serving,
    *,
    node_id: str,
    wake: Signal,
    releases: Topics,
    stop: trio.Event,
    shutdown_seconds: float = 15.0,
    jitter: Callable[[], float] = random.random,
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
    fleet = Fleet(leases, serving, node_id)
    context = InstallationContext(leases, serving, releases, jitter)
    if not leases.settings.shields_fit:
        margin = leases.settings.margin_seconds
        logger.warning("lease_margin_short", margin_seconds=margin, needed=SHIELDS_UNDER_LEASE_SECONDS)
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
            for row in fleet.untold():
                row.told = await store.mark(row.installation.id, ConnectionState.UNREADABLE_SECRET, row.problem)
    except (StoreError, trio.TooSlowError) as error:
        logger.warning("sweep_failed", error=type(error).__name__)


async def _list(fleet: Fleet, context: InstallationContext) -> Sequence[ActiveInstallation]:
    """List the rows to serve. Any error becomes a StoreError, so that it fails this sweep alone.

    For example, a config that is nested too deeply cannot be read. It must not end the installations that run.
    """
    try:
        return await fleet.leases.store.list_active(context.serving.registry.types())
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
        if assignment.phase is Phase.WITHDRAWN:
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
