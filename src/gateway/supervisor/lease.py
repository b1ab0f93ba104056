"""A lease is a cancel scope: losing it, for whatever reason, is one and the same cancellation.

The scope's deadline is where the trust in the last confirmation ends (gateway.core.lease). The keeper pushes it forward
after each confirmed renewal and cancels it when the database says that the lease is somebody else's; when the database
says nothing, the deadline comes by itself. Cancellation asks, and a shielded call may answer late, so a sibling task
lets the fence fall at that same moment: it tears the link down without awaiting anything.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import ConnectionState, Fence, LinkHealth
from gateway.concurrency import Signal, finishing
from gateway.core.lease import RELEASE_FINISH_SECONDS, LeaseSettings
from gateway.errors import LeaseLost, StoreError, StoreUnavailable
from gateway.supervisor.ports import HeldElsewhere, LeaseStore, NotServed, Observer, Renewal, Tenure

logger = structlog.get_logger(__name__)

RELEASE_SECONDS = 5.0
"""The bound of a release that is not in a hurry: its lease is still trusted, and thousands may be under way at once."""
RECORD_EVERY_SECONDS = 5.0
"""How often a connection state is stored when nothing but its times moved."""
_LOOK_EVERY_SECONDS = 1.0


class Lease:
    """One lease that this process holds, from its confirmation to the end of its scope."""

    def __init__(self, tenure: Tenure, trusted_until: float) -> None:
        self.tenure = tenure
        self.fence = Fence()
        self.health = LinkHealth()
        self.scope = trio.CancelScope(deadline=trusted_until)
        self.lost_because = ""
        self._limit = math.inf
        self._recorded: LinkHealth | None = None
        self._recorded_at = -math.inf

    @property
    def epoch(self) -> int:
        return self.tenure.epoch

    @property
    def over(self) -> bool:
        """Whether the scope has ended, or must have by now: something under it may still be finishing."""
        return self.scope.cancel_called

    def trust_until(self, deadline: float) -> None:
        """A confirmation came in. An earlier deadline than the present one is old news."""
        self.scope.deadline = min(max(self.scope.deadline, deadline), self._limit)

    def end_by(self, deadline: float) -> None:
        """From now on no renewal extends the lease beyond `deadline`."""
        self._limit = deadline
        self.scope.deadline = min(self.scope.deadline, deadline)

    def lose(self, because: str) -> None:
        self.lost_because = because
        self.scope.cancel()

    def report(self, now: float) -> LinkHealth | None:
        """A copy of the health if it is due to be stored: at once when the state changed, else every 5 s."""
        if self.health == self._recorded:
            return None
        changed = self._recorded is None or _shown(self.health, now) != _shown(self._recorded, now)
        return replace(self.health) if changed or now >= self._recorded_at + RECORD_EVERY_SECONDS else None

    def recorded(self, health: LinkHealth, now: float) -> None:
        self._recorded, self._recorded_at = health, now


def _shown(health: LinkHealth, now: float) -> tuple[object, ...]:
    return health.state, health.code, health.detail, health.degraded_seconds(now) > 0


class Leases:
    """The leases of this process, and how to get, renew and give back one.

    `changed` wakes the recorder of connection states, `hurry` the keeper.
    """

    def __init__(self, store: LeaseStore, settings: LeaseSettings, observer: Observer) -> None:
        self.store = store
        self.settings = settings
        self.observer = observer
        self.changed = Signal()
        self.hurry = Signal()
        self._held: dict[UUID, Lease] = {}

    @property
    def held(self) -> list[Lease]:
        """Not those whose scope has ended: what is stuck under one of them must not keep others from taking over."""
        return [lease for lease in self._held.values() if not lease.over]

    async def acquire(self, installation_id: UUID, token: str) -> Lease | HeldElsewhere | NotServed:
        """Ask for a lease. What comes back must go into `hold_lease` without an await in between.

        Raises StoreError when there was no answer in time; then this token may hold the lease all the same, which
        costs nothing but time: the same token gets it when it asks again, and nobody connects without an answer.
        """
        sent_at = trio.current_time()
        try:
            with trio.fail_after(self.settings.attempt_seconds):
                answer = await self.store.acquire(installation_id, token, self.settings.ttl_seconds)
        except trio.TooSlowError as error:
            self.observer.lease_operation("acquire", "error")
            raise StoreUnavailable("no answer to the request for a lease in time") from error
        except StoreError:
            self.observer.lease_operation("acquire", "error")
            raise
        self.observer.lease_operation("acquire", "ok" if isinstance(answer, Tenure) else "held")
        if not isinstance(answer, Tenure):
            return answer
        if trio.current_time() > sent_at + self.settings.slack_seconds / 6:
            self.hurry.set()  # a slow answer has used up trust that the regular tick counts on
        return Lease(answer, self.settings.trusted_until(sent_at))

    def enter(self, lease: Lease) -> None:
        self._held[lease.tenure.installation_id] = lease
        self.observer.owners(len(self._held))

    def leave(self, lease: Lease) -> None:
        if self._held.get(lease.tenure.installation_id) is lease:
            del self._held[lease.tenure.installation_id]
        self.observer.owners(len(self._held))

    async def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> None:
        """Give a lease back. Failing at it is no error: an unreleased lease expires by itself."""
        try:
            await self._release(installation_id, token, epoch, last, RELEASE_SECONDS)
        except trio.Cancelled:
            with finishing(RELEASE_FINISH_SECONDS):
                await self._release(installation_id, token, epoch, last, RELEASE_FINISH_SECONDS)
            raise

    async def _release(
        self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth, seconds: float
    ) -> None:
        try:
            with trio.fail_after(seconds):
                released = await self.store.release(installation_id, token, epoch, last)
        except (StoreError, trio.TooSlowError) as error:
            self.observer.lease_operation("release", "error")
            logger.warning("lease_release_failed", installation_id=str(installation_id), error=type(error).__name__)
        else:
            self.observer.lease_operation("release", "ok" if released else "lost")

    async def renew(self) -> bool:
        """Renew everything that is held, in one statement; True when nothing is left to ask for again.

        Raises nothing that the database may do: a renewal that fails costs no lease before its own deadline.
        """
        leases = self.held
        if not leases:
            return True
        sent_at = trio.current_time()
        try:
            with trio.fail_after(self.settings.attempt_seconds):
                renewal = await self.store.renew([lease.tenure for lease in leases], self.settings.ttl_seconds)
        except (StoreError, trio.TooSlowError) as error:
            self.observer.lease_operation("renew", "error")
            logger.warning("lease_renewal_failed", leases=len(leases), error=type(error).__name__)
            return False
        self._settle(leases, renewal, sent_at)
        return len(renewal.confirmed) + len(renewal.lost) == len(leases)

    def _settle(self, leases: list[Lease], renewal: Renewal, sent_at: float) -> None:
        # The leases that were asked for, not those held by now: an answer about one tenure is not about the next.
        for lease in leases:
            if lease.tenure.installation_id in renewal.confirmed:
                lease.trust_until(self.settings.trusted_until(sent_at))
                self.observer.lease_operation("renew", "ok")
            elif lease.tenure.installation_id in renewal.lost:
                lease.lose("the database says that it is not ours any more")
                self.observer.lease_operation("renew", "lost")
        self.observer.renewed()


@asynccontextmanager
async def hold_lease(leases: Leases, lease: Lease) -> AsyncIterator[Lease]:
    """The body runs inside the lease's cancel scope, and is the only place where a link may be open.

    Resource handling: the lease is renewed until the body ends, then released, with `lease.health` as the last word, or
    `standby` when the body was cut short. The release comes after everything under the lease has ended; it is bounded,
    and a late one changes nothing.
    Error handling: LeaseLost when the lease ended before the body did.
    """
    leases.enter(lease)
    cut_short = True
    try:
        with lease.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drop_fence_at_the_end, lease.fence, lease.tenure.installation_id)
                yield lease
                nursery.cancel_scope.cancel()
            cut_short = False
    finally:
        leases.leave(lease)
        if cut_short:
            lease.health.state = ConnectionState.STANDBY
        await leases.release(lease.tenure.installation_id, lease.tenure.token, lease.epoch, lease.health)
    if lease.scope.cancelled_caught:
        raise LeaseLost(lease.lost_because or "the database confirmed nothing in time")


async def _drop_fence_at_the_end(fence: Fence, installation_id: UUID) -> None:
    try:
        await trio.sleep_forever()
    finally:
        try:
            fence.fall()
        except Exception:
            # The cancellation that is under way ends the link too, only later.
            logger.exception("link_teardown_failed", installation_id=str(installation_id))


async def run_lease_keeper(
    leases: Leases, *, jitter: Callable[[], float], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Renew every lease of this process once per tick, until cancelled; then leases run out by their own deadlines.

    A renewal that failed is tried again soon. It is bounded, so that one that hangs leaves time for another.
    """
    task_status.started()
    settings = leases.settings
    pause = settings.renew_delay(jitter())
    while True:
        await leases.hurry.wait(pause)
        complete = await leases.renew()
        pause = settings.renew_delay(jitter()) if complete else settings.retry_seconds


async def run_connection_recorder(
    leases: Leases, node_id: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Store what this process knows of its links, all that is due in one statement, until cancelled.

    One task for every installation: links change their health in place, and a task each would wake thousands of times
    a second to find nothing.
    """
    task_status.started()
    while True:
        await leases.changed.wait(_LOOK_EVERY_SECONDS)
        now = trio.current_time()
        due = [(lease, health) for lease in leases.held if (health := lease.report(now)) is not None]
        if not due:
            continue
        try:
            with trio.fail_after(RECORD_EVERY_SECONDS):
                await leases.store.record(node_id, [(lease.tenure, health) for lease, health in due])
        except (StoreError, trio.TooSlowError) as error:
            logger.warning("connection_state_not_stored", links=len(due), error=type(error).__name__)
            continue
        for lease, health in due:
            lease.recorded(health, now)
