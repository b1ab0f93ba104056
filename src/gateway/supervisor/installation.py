"""The task of one bot, from its start to its drain: stand by, hold the lease, hold the link, back off, repeat.

This is the error boundary of a bot: every error that ends its link is handled here, and no other bot is affected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import Channel, ChannelConfig, ConnectionState, LinkHealth, LinkLost, LinkRefused
from gateway.concurrency import Signal, Topics
from gateway.core.backoff import Backoff
from gateway.errors import LeaseLost, StoreError
from gateway.supervisor.lease import RELEASE_SECONDS, Lease, LeaseRequest, Leases, hold_lease, open_request
from gateway.supervisor.phases import LEAVING, Phase, PhaseTrigger, follow
from gateway.supervisor.ports import ActiveInstallation, HeldElsewhere, Serving

logger = structlog.get_logger(__name__)
E = TypeVar("E", bound=BaseException)

DRAIN_SECONDS = 5.0
"""The time in which a drained link must end. Then its lease ends, and the fence closes what is still open."""
_RACE_SECONDS = 0.1
"""The shortest wait in standby: a lease that was free a moment ago may have gone to another process in a race."""


@dataclass(frozen=True, slots=True)
class InstallationContext:
    """The objects that all installations of this process share. `jitter` gives numbers in [0, 1)."""

    leases: Leases
    serving: Serving
    releases: Topics
    jitter: Callable[[], float]

    def retry_pause(self) -> float:
        """Return the pause after the database did not answer: short, but spread so that not all bots ask at once."""
        return self.leases.settings.retry_seconds * (0.5 + self.jitter())


@dataclass(frozen=True, slots=True)
class OpenedInstallation:
    """A row whose secrets could be opened. `opened` is its config with them, `fingerprint` what a link depends on."""

    installation: ActiveInstallation
    opened: dict[str, Any] = field(repr=False)
    fingerprint: str = field(repr=False)

    @property
    def channel_type(self) -> str:
        return self.installation.channel_type

    def seen_again(self, installation: ActiveInstallation) -> OpenedInstallation:
        """Return this with the row as it was read again. Its config is equal, so the secrets are not opened again."""
        # Keeps the config object that is in memory already: the equal copy just read is dropped, which saves memory
        # with thousands of bots.
        return replace(self, installation=replace(installation, config=self.installation.config))


@dataclass(slots=True, eq=False)
class Assignment:
    """One installation given to one task, under one token, until it is drained.

    `served` may be replaced by a newer one of the same fingerprint. The next link uses it. `predecessor_ended` is set
    when the task of the same installation under older credentials has ended. `health` is shown. While a lease is held
    it is that lease's own. `lease` is the one under which a link is held now. `phase` changes by the table in
    `gateway.supervisor.phases`.
    """

    served: OpenedInstallation
    token: str = field(repr=False)
    predecessor_ended: trio.Event | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    phase: Phase = Phase.WAITING
    health: LinkHealth = field(default_factory=LinkHealth)
    backoff: Backoff = field(default_factory=Backoff)
    lease: Lease | None = field(default=None, repr=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope, repr=False)

    @property
    def id(self) -> UUID:
        return self.served.installation.id

    @property
    def leaving(self) -> bool:
        """True once the task was asked to end."""
        return self.phase in LEAVING

    def move(self, trigger: PhaseTrigger) -> None:
        """Follow the table of phases. Raises LocalProtocolError for a trigger that makes no sense now."""
        self.phase = follow(self.phase, trigger)

    def drain(self, *, withdrawn: bool = False) -> None:
        """Ask the task to end: at once when idle, else after the received events are settled. Its end sets `ended`.

        The lease ends after `DRAIN_SECONDS` if the link has not ended by then. `withdrawn` says that the row is revoked
        or gone. Does nothing if the task was asked before.
        """
        if self.leaving:
            return  # a second drain would move the end of the lease
        self.move(PhaseTrigger.WITHDRAW if withdrawn else PhaseTrigger.DRAIN)
        if self.lease is not None:
            self.lease.end_by(trio.current_time() + DRAIN_SECONDS)
        # Entered by the task in `until_drained`, or left by now. Then this does nothing, and the task sees the phase.
        self._scope.cancel()

    def refresh(self, served: OpenedInstallation) -> None:
        """Take over the row as a sweep read it. Its fingerprint is that of the row before.

        The lease's remaining time moves the wake-up of a standby, so that it need not ask the database itself. A free
        lease wakes it at once.
        """
        self.served = served
        if self.phase is Phase.STANDBY:
            now, seconds = trio.current_time(), served.installation.lease_seconds
            self._scope.deadline = now if seconds is None else max(self._scope.deadline, now + seconds)

    def until_drained(self, deadline: float = math.inf) -> trio.CancelScope:
        """Return a scope that a drain cancels. The task must enter it before its next await."""
        self._scope = trio.CancelScope(deadline=deadline)
        if self.leaving:
            self._scope.cancel()
        return self._scope


async def run_installation(assignment: Assignment, context: InstallationContext) -> None:
    """Serve one installation until its assignment is drained.

    If there is a predecessor (the same installation under older credentials), this waits for its end before it asks for
    the lease. A predecessor that is stuck is not waited for beyond its own bounds. By then its fence has fallen, and
    the lease itself keeps this task out for as long as the predecessor may hold it.
    Cancellation drains nothing: the link is cut, and the lease is released only if that is quick.
    """
    leases = context.leases
    try:
        if assignment.predecessor_ended is not None:
            # A drain does not cut this wait short: this task's own successor waits for both.
            with trio.move_on_after(DRAIN_SECONDS + RELEASE_SECONDS + leases.settings.ttl_seconds):
                await assignment.predecessor_ended.wait()
        assignment.move(PhaseTrigger.PREDECESSOR_ENDED)
        async with open_request(leases, assignment.id, assignment.token) as request:
            with context.releases.hear(str(assignment.id)) as released:
                await _serve_until_drained(assignment, context, request, released)
    finally:
        assignment.ended.set()


async def _serve_until_drained(
    assignment: Assignment, context: InstallationContext, request: LeaseRequest, released: Signal
) -> None:
    """Ask for the lease again and again, and act on each answer: serve, stand by, or wait."""
    freed_at: float | None = None
    while not assignment.leaving:
        try:
            answer = await request.ask()
        except StoreError:
            await _pause(assignment, context.retry_pause())
            continue
        if isinstance(answer, Lease):
            if freed_at is not None:
                seconds = max(trio.current_time() - freed_at, 0.0)
                context.leases.recorder.observe("channel_lease_takeover_latency_seconds", seconds)
                freed_at = None
            await _pause(assignment, await _serve(assignment, context, answer))
        elif isinstance(answer, HeldElsewhere):
            freed_at = await _stand_by(assignment, answer.seconds, released)
        else:
            # Revoked since the last sweep. The next one ends this assignment.
            await _pause(assignment, context.leases.settings.poll_seconds)


async def _pause(assignment: Assignment, seconds: float) -> None:
    """Wait `seconds` or until drained.

    A released lease does not end the pause, because this task's own release would cut its back-off short.
    """
    assignment.move(PhaseTrigger.FAILED)
    with assignment.until_drained(trio.current_time() + seconds):
        await trio.sleep_forever()
    assignment.move(PhaseTrigger.RESTED)


async def _stand_by(assignment: Assignment, seconds: float, released: Signal) -> float:
    """Sleep until the recorded expiry of the lease, or until a release is announced. Returns when the lease got free.

    While the holder renews, each sweep moves the end of the sleep forward; see `Assignment.refresh`.
    """
    assignment.move(PhaseTrigger.HELD)
    assignment.health = LinkHealth(ConnectionState.STANDBY)
    with assignment.until_drained(trio.current_time() + max(seconds, _RACE_SECONDS)) as scope:
        await released.wait()
    assignment.move(PhaseTrigger.FREED)
    return min(trio.current_time(), scope.deadline)


async def _serve(assignment: Assignment, context: InstallationContext, lease: Lease) -> float:
    """Hold the lease and, under it, the link. Returns the seconds to wait before asking for the lease again.

    The lease is released whenever the link is down, also during the pause after a refusal. Another process may be able
    to reach the platform when this one cannot, and a lease without a link serves no purpose. Each process keeps its own
    back-off, so the platform sees at most one attempt per process and pause.
    """
    assignment.move(PhaseTrigger.GRANTED)
    assignment.health = lease.health
    try:
        async with hold_lease(context.leases, lease):
            pause = await _try_link(assignment, context, lease)
    except LeaseLost as error:
        logger.warning("lease_lost", installation_id=str(assignment.id), epoch=lease.epoch, because=str(error))
        return context.retry_pause()
    return pause


async def _try_link(assignment: Assignment, context: InstallationContext, lease: Lease) -> float:
    """Hold the link until it ends, and store the reason in `lease.health`. Returns the pause before the next."""
    link = _Link(assignment, context, lease)
    assignment.lease = lease
    pause = 0.0
    try:
        await link.hold()
        link.ended_as(ConnectionState.STANDBY)
        logger.info("link_drained", installation_id=str(assignment.id), epoch=lease.epoch)
    except* LinkRefused as group:
        pause = link.refused(_first(group))
    except* LinkLost as group:
        pause = max(pause, link.lost(_first(group)))
    except* StoreError as group:
        pause = max(pause, link.lost(LinkLost(f"the database failed: {_first(group)}")))
    except* Exception as group:
        context.leases.recorder.count("unexpected_errors", unit="installation")
        logger.exception("installation_failed", installation_id=str(assignment.id), exc_info=group)
        pause = max(pause, link.lost(LinkLost(f"internal error: {type(_first(group)).__name__}")))
    finally:
        assignment.lease = None
    return pause


class _Link:
    """One attempt to hold one link. Classifies its end and sets the back-off."""

    def __init__(self, assignment: Assignment, context: InstallationContext, lease: Lease) -> None:
        self._assignment = assignment
        self._context = context
        self._lease = lease
        self._established_at = math.inf

    async def hold(self) -> None:
        """Run the channel and, beside it, the outbox. Returns when drained.

        On a drain the channel ends first, while the outbox may still send. Then the outbox is cancelled, and the caller
        ends the lease. The outbox starts once the link is established, because only then is it known that the platform
        accepts the credentials. Raises LinkLost when the channel ends without a drain.
        """
        if self._assignment.leaving:
            return  # drained while the request for the lease was under way
        installation = self._assignment.served.installation
        channel = self._build()
        async with trio.open_nursery() as sending:

            def established() -> None:
                self._established()
                sending.start_soon(self._context.serving.run_outbox, installation, self._lease.epoch, channel)

            with self._assignment.until_drained():
                await channel.run(task_status=_OnceStarted(established))
                if not self._assignment.leaving:
                    raise LinkLost("the channel ended without being asked to")
            sending.cancel_scope.cancel()

    def _build(self) -> Channel:
        self._context.leases.changed.set()
        served, serving = self._assignment.served, self._context.serving
        return serving.registry.build(
            ChannelConfig(
                type=served.channel_type,
                installation_id=self._assignment.id,
                raw=served.opened,
                handler=serving.handler_for(served.installation),
                fence=self._lease.fence,
                health=self._lease.health,
            )
        )

    def _established(self) -> None:
        self._established_at = trio.current_time()
        self._assignment.move(PhaseTrigger.ESTABLISHED)
        if self._lease.health.state is ConnectionState.CONNECTING:
            self._lease.health.state = ConnectionState.LIVE
        self._context.leases.changed.set()
        logger.info("link_established", installation_id=str(self._assignment.id), epoch=self._lease.epoch)

    @property
    def _healthy_seconds(self) -> float:
        return max(trio.current_time() - self._established_at, 0.0)

    def refused(self, error: LinkRefused) -> float:
        """Record that the platform refused the link. Returns the pause before the next attempt."""
        self.ended_as(ConnectionState.REFUSED, error.code, error.reason)
        pause, self._assignment.backoff = self._assignment.backoff.refused(self._healthy_seconds)
        self._log_end("link_refused", pause, code=error.code, reason=error.reason)
        return pause

    def lost(self, error: LinkLost) -> float:
        """Record that the link was lost. Returns the pause before the next attempt."""
        self.ended_as(ConnectionState.DEAF if error.deaf else ConnectionState.CONNECTING, detail=str(error))
        pause, self._assignment.backoff = self._assignment.backoff.lost(self._healthy_seconds, self._context.jitter())
        self._log_end("link_lost", pause, deaf=error.deaf, reason=str(error))
        return pause

    def ended_as(self, state: ConnectionState, code: int = 0, detail: str = "") -> None:
        health = self._lease.health
        health.state, health.code, health.detail, health.pong_ms = state, code, detail, None

    def _log_end(self, event: str, pause: float, **facts: object) -> None:
        logger.warning(
            event,
            installation_id=str(self._assignment.id),
            epoch=self._lease.epoch,
            retry_seconds=round(pause, 1),
            **facts,
        )


@dataclass(frozen=True, slots=True)
class _OnceStarted:
    """A trio.TaskStatus for a function that runs in the present task. It saves each bot a second task."""

    then: Callable[[], None]

    def started(self, _: None = None) -> None:
        self.then()


def _first(group: BaseExceptionGroup[E]) -> E:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
