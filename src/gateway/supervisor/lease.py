"""A lease is a cancel scope: every way of losing the lease is the same cancellation.

The scope's deadline is the end of the trust in the last confirmation (gateway.core.lease). The keeper moves it forward
after each confirmed renewal. It cancels the scope when the database says that another process has the lease. If the
database does not answer, the deadline passes by itself. A shielded call may react late to the cancellation. So a task
beside the body lets the fence fall at that same moment, which tears the link down without awaiting anything.
"""

from __future__ import annotations

import math
import time
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
from gateway.recorder import SILENT, Recorder
from gateway.supervisor.ports import HeldElsewhere, LeaseStore, NotServed, Renewal, Tenure

logger = structlog.get_logger(__name__)

RELEASE_SECONDS = 5.0
"""The bound of a release without cancellation. Its lease is still trusted, and thousands may be under way at once."""
RECORD_EVERY_SECONDS = 5.0
"""The interval at which a connection state is stored when only its times changed."""
UNSURE_SECONDS = 60.0
"""The time in which a statement that got no answer may still reach the database."""
_LOOK_EVERY_SECONDS = 1.0


class Lease:
    """One lease that this process holds, from its confirmation to the end of its cancel scope."""

    def __init__(self, tenure: Tenure, trusted_until: float) -> None:
        self.tenure = tenure
        self.fence = Fence()
        self.health = LinkHealth()
        self.scope = trio.CancelScope(deadline=trusted_until)
        self.lost_because = ""
        self._limit = math.inf
        self._recorded: LinkHealth | None = None
        self._recorded_at = -math.inf
        self._unsure_until = -math.inf

    @property
    def epoch(self) -> int:
        return self.tenure.epoch

    @property
    def over(self) -> bool:
        """True if the scope was cancelled or its deadline has passed. Code under it may still be finishing."""
        return self.scope.cancel_called

    def trust_until(self, deadline: float) -> None:
        """Extend the scope to `deadline` after a confirmation. An earlier deadline than the present one is ignored."""
        # `max`: answers may arrive out of order. `min`: no confirmation may undo `end_by`.
        self.scope.deadline = min(max(self.scope.deadline, deadline), self._limit)

    def end_by(self, deadline: float) -> None:
        """End the lease by `deadline` at the latest. No later renewal extends it beyond that."""
        self._limit = deadline
        self.scope.deadline = min(self.scope.deadline, deadline)

    def lose(self, because: str) -> None:
        """Cancel the scope at once. `hold_lease` then raises LeaseLost with `because`."""
        self.lost_because = because
        self.scope.cancel()

    def report(self, now: float) -> LinkHealth | None:
        """Return a copy of the health if it is due to be stored, else None.

        A changed state is due at once, and changed times alone are due every 5 s. So is everything for a while after a
        statement without an answer: it may arrive late, and put an old state over a newer one.
        """
        if self.health == self._recorded and now >= self._unsure_until:
            return None
        changed = self._recorded is None or _shown(self.health, now) != _shown(self._recorded, now)
        return replace(self.health) if changed or now >= self._recorded_at + RECORD_EVERY_SECONDS else None

    def recorded(self, health: LinkHealth, now: float) -> None:
        """Remember the health that was stored, and when."""
        self._recorded, self._recorded_at = health, now

    def unanswered(self, now: float) -> None:
        """Remember that it is not known whether, or when, a report is stored."""
        self._unsure_until = now + UNSURE_SECONDS


def _shown(health: LinkHealth, now: float) -> tuple[object, ...]:
    return health.state, health.code, health.detail, health.degraded_seconds(now) > 0


class Leases:
    """The leases of this process. Acquires, renews and releases them.

    `changed` wakes the reporter of connection states, `hurry` wakes the keeper.
    """

    def __init__(self, store: LeaseStore, settings: LeaseSettings, recorder: Recorder = SILENT) -> None:
        self.store = store
        self.settings = settings
        self.recorder = recorder
        self.changed = Signal()
        self.hurry = Signal()
        self._held: dict[UUID, Lease] = {}

    @property
    def held(self) -> list[Lease]:
        """The leases to renew. Excludes those whose scope has ended.

        If they were renewed, code that is stuck under one of them would keep other processes from taking over.
        """
        return [lease for lease in self._held.values() if not lease.over]

    async def acquire(self, installation_id: UUID, token: str) -> Lease | HeldElsewhere | NotServed:
        """Ask for a lease. The caller must pass a returned Lease to `hold_lease` without an await in between.

        Raises StoreError when there was no answer in time. The token may then hold the lease all the same, which costs
        only time: the same token gets the lease when it asks again, and no link is opened without an answer.
        """
        # Taken before the request: the trust counts from the moment of sending, however late the answer arrives.
        sent_at = trio.current_time()
        try:
            with trio.fail_after(self.settings.attempt_seconds):
                answer = await self.store.acquire(installation_id, token, self.settings.ttl_seconds)
        except trio.TooSlowError as error:
            self.recorder.count("channel_lease_operations", operation="acquire", outcome="error")
            raise StoreUnavailable("no answer to the request for a lease in time") from error
        except StoreError:
            self.recorder.count("channel_lease_operations", operation="acquire", outcome="error")
            raise
        outcome = "ok" if isinstance(answer, Tenure) else "held"
        self.recorder.count("channel_lease_operations", operation="acquire", outcome=outcome)
        if not isinstance(answer, Tenure):
            return answer
        if trio.current_time() > sent_at + self.settings.slack_seconds / 6:
            # The answer was slow and has used up trust. The next regular renewal would leave no time for two attempts.
            self.hurry.set()
        return Lease(answer, self.settings.trusted_until(sent_at))

    def enter(self, lease: Lease) -> None:
        """Have the lease renewed from now on."""
        self._held[lease.tenure.installation_id] = lease
        self.recorder.set("channel_lease_active_owners", len(self._held))

    def leave(self, lease: Lease) -> None:
        """Stop renewing the lease."""
        # A newer lease of the same installation may have taken the place already: it must stay.
        if self._held.get(lease.tenure.installation_id) is lease:
            del self._held[lease.tenure.installation_id]
        self.recorder.set("channel_lease_active_owners", len(self._held))

    async def release(self, installation_id: UUID, token: str, epoch: int | None, last: LinkHealth) -> None:
        """Release a lease. A failure is only logged, because an unreleased lease expires by itself.

        If the task is or gets cancelled, the release has `RELEASE_FINISH_SECONDS` behind a shield.
        """
        try:
            await self._release(installation_id, token, epoch, last, RELEASE_SECONDS)
        except trio.Cancelled:
            # Sent again, since it is unknown whether the first statement took effect. Twice does no harm: it names the
            # token, and changes nothing once the row has moved on.
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
            self.recorder.count("channel_lease_operations", operation="release", outcome="error")
            logger.warning("lease_release_failed", installation_id=str(installation_id), error=type(error).__name__)
        else:
            outcome = "ok" if released else "lost"
            self.recorder.count("channel_lease_operations", operation="release", outcome=outcome)

    async def renew(self) -> bool:
        """Renew every held lease in one statement. Returns False if some must be asked for again soon.

        Raises no error of the database. A failed renewal ends no lease before that lease's own deadline.
        """
        leases = self.held
        if not leases:
            return True
        sent_at = trio.current_time()
        try:
            with trio.fail_after(self.settings.attempt_seconds):
                renewal = await self.store.renew([lease.tenure for lease in leases], self.settings.ttl_seconds)
        except (StoreError, trio.TooSlowError) as error:
            self.recorder.count("channel_lease_operations", operation="renew", outcome="error")
            logger.warning("lease_renewal_failed", leases=len(leases), error=type(error).__name__)
            return False
        self._settle(leases, renewal, sent_at)
        return len(renewal.confirmed) + len(renewal.lost) == len(leases)

    def _settle(self, leases: list[Lease], renewal: Renewal, sent_at: float) -> None:
        # `leases` are those that were asked for. `self.held` may have newer ones by now, but this answer is about the
        # earlier tenures and must not extend or end a newer one.
        for lease in leases:
            if lease.tenure.installation_id in renewal.confirmed:
                lease.trust_until(self.settings.trusted_until(sent_at))
                self.recorder.count("channel_lease_operations", operation="renew", outcome="ok")
            elif lease.tenure.installation_id in renewal.lost:
                lease.lose("the database says that it is not ours any more")
                self.recorder.count("channel_lease_operations", operation="renew", outcome="lost")
        # Wall time, because Prometheus compares it with its own. No decision is made with it.
        self.recorder.set("channel_lease_last_successful_renewal_timestamp_seconds", time.time())


class LeaseRequest:
    """The requests of one token for one lease. `open_request` makes it."""

    def __init__(self, leases: Leases, installation_id: UUID, token: str) -> None:
        self._leases = leases
        self._installation_id = installation_id
        self._token = token
        self.unanswered = False

    async def ask(self) -> Lease | HeldElsewhere | NotServed:
        """Ask for the lease as `Leases.acquire` does. Logs the first of several failures in a row, and raises each."""
        # Set before the request: if it fails or is cancelled, the database may have granted the lease all the same.
        self.unanswered, unanswered_before = True, self.unanswered
        try:
            answer = await self._leases.acquire(self._installation_id, self._token)
        except StoreError as error:
            if not unanswered_before:
                logger.warning(
                    "lease_request_failed", installation_id=str(self._installation_id), error=type(error).__name__
                )
            raise
        self.unanswered = False
        return answer


@asynccontextmanager
async def open_request(leases: Leases, installation_id: UUID, token: str) -> AsyncIterator[LeaseRequest]:
    """Yield the means to ask for a lease.

    Resource handling: if the last request was not answered, the token may hold the lease. It is released at the end.
    """
    request = LeaseRequest(leases, installation_id, token)
    try:
        yield request
    finally:
        if request.unanswered:
            await leases.release(installation_id, token, None, LinkHealth(ConnectionState.STANDBY))


@asynccontextmanager
async def hold_lease(leases: Leases, lease: Lease) -> AsyncIterator[Lease]:
    """Run the body inside the lease's cancel scope. A link may be open only within it.

    Resource handling: the lease is renewed until the body ends, and then released. The release stores `lease.health` as
    the final connection state, or `standby` when the body was cut short. It comes after everything under the lease has
    ended. It is bounded, and a late release changes nothing.
    Error handling: raises LeaseLost when the lease ended before the body did.
    """
    leases.enter(lease)
    cut_short = True
    try:
        with lease.scope:
            # The nursery is inside the scope, so that losing the lease cancels the fence task at the same moment as the
            # body. A body that is behind a shield would otherwise keep the link open.
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
    # Only a cancellation by this very scope means a lost lease. One from outside passes through as trio.Cancelled.
    if lease.scope.cancelled_caught:
        raise LeaseLost(lease.lost_because or "the database confirmed nothing in time")


async def _drop_fence_at_the_end(fence: Fence, installation_id: UUID) -> None:
    try:
        await trio.sleep_forever()
    finally:
        try:
            fence.fall()
        except Exception:
            # The error is only logged: the cancellation that is under way ends the link too, a little later.
            logger.exception("link_teardown_failed", installation_id=str(installation_id))


async def run_lease_keeper(
    leases: Leases, *, jitter: Callable[[], float], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Renew every lease of this process once per tick, until cancelled. Then leases end at their own deadlines.

    A failed renewal is tried again soon. Each attempt is bounded, so that one that hangs leaves time for another.
    """
    task_status.started()
    settings = leases.settings
    pause = settings.renew_delay(jitter())
    while True:
        await leases.hurry.wait(pause)
        complete = await leases.renew()
        pause = settings.renew_delay(jitter()) if complete else settings.retry_seconds


async def run_connection_reporter(
    leases: Leases, node_id: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Store the connection states that are due, all in one statement, again and again until cancelled.

    One task does this for all installations. Links change their health in place, so a task for each would wake
    thousands of times a second and find nothing to do.
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
            for lease, _ in due:
                lease.unanswered(trio.current_time())
            continue
        for lease, health in due:
            lease.recorded(health, now)
