"""The task of one bot, from its start to its drain: stand by, hold the lease, hold the link, back off, repeat.

This is the error boundary of a bot: every error that ends its link is handled here, and no other bot is affected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import Channel, ChannelConfig, ConnectionState, LinkHealth, LinkLost, LinkRefused
from gateway.channel.registry import Registry
from gateway.concurrency import Signal, Topics
from gateway.core.backoff import Backoff
from gateway.errors import LeaseLost, StoreError
from gateway.supervisor.lease import RELEASE_SECONDS, Lease, Leases, hold_lease
from gateway.supervisor.ports import HandlerFor, HeldElsewhere, Installation, RunOutbox

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
    registry: Registry
    handler_for: HandlerFor
    run_outbox: RunOutbox
    releases: Topics
    jitter: Callable[[], float]

    def retry_pause(self) -> float:
        """Return the pause after the database did not answer: short, but spread so that not all bots ask at once."""
        return self.leases.settings.retry_seconds * (0.5 + self.jitter())


@dataclass(slots=True, eq=False)
class Assignment:
    """One installation given to one task, under one token, until it is drained.

    `installation` and `opened` may be replaced by newer ones of the same fingerprint. The next link uses them. `gone`
    is set before the drain of an installation that is no longer to be served. `maybe_held` is True while a request for
    the lease is unanswered, so that the token may hold it. `link` is the link that is held now.
    """

    installation: Installation
    opened: dict[str, Any] = field(repr=False)
    generation: int
    token: str = field(repr=False)
    predecessor: Assignment | None = field(default=None, repr=False)
    health: LinkHealth = field(default_factory=LinkHealth)
    draining: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    gone: bool = False
    wake: Signal = field(default_factory=Signal)
    free_at: float | None = None
    backoff: Backoff = field(default_factory=Backoff)
    maybe_held: bool = False
    link: _Link | None = field(default=None, repr=False)

    @property
    def id(self) -> UUID:
        return self.installation.id

    def drain(self) -> None:
        """Ask the task to end: at once when idle, else after the received events are settled. Its end sets `ended`."""
        self.draining.set()
        self.wake.set()
        if self.link is not None:
            self.link.drain()

    def observe_lease(self, seconds: float | None) -> None:
        """Take over the lease's remaining time as a sweep read it, so that a standby need not ask the database itself.

        None means that the lease is free: the standby is woken.
        """
        if self.free_at is None:
            return
        if seconds is None:
            self.wake.set()
        else:
            self.free_at = max(self.free_at, trio.current_time() + seconds)


async def run_installation(assignment: Assignment, context: InstallationContext) -> None:
    """Serve one installation until its assignment is drained.

    If there is a predecessor (the same installation under older credentials), this waits for its end before it asks for
    the lease. A predecessor that is stuck is not waited for beyond its own bounds. By then its fence has fallen, and
    the lease itself keeps this task out for as long as the predecessor may hold it.
    Cancellation drains nothing: the link is cut, and the lease is released only if that is quick.
    """
    leases = context.leases
    try:
        if assignment.predecessor is not None:
            with trio.move_on_after(DRAIN_SECONDS + RELEASE_SECONDS + leases.settings.ttl_seconds):
                await assignment.predecessor.ended.wait()
            assignment.predecessor = None
        with context.releases.hear(str(assignment.id)) as wake:
            assignment.wake = wake
            while not assignment.draining.is_set():
                await _one_round(assignment, context)
    finally:
        if assignment.maybe_held:
            await leases.release(assignment.id, assignment.token, None, LinkHealth(ConnectionState.STANDBY))
        assignment.ended.set()


async def _one_round(assignment: Assignment, context: InstallationContext) -> None:
    """Ask for the lease once, and act on the answer: serve, stand by, or wait."""
    # Set before the request: if it fails or is cancelled, the database may have granted the lease all the same.
    assignment.maybe_held, unsure_before = True, assignment.maybe_held
    try:
        answer = await context.leases.acquire(assignment.id, assignment.token)
    except StoreError as error:
        if not unsure_before:
            logger.warning("lease_request_failed", installation_id=str(assignment.id), error=type(error).__name__)
        await _rest(assignment, context.retry_pause())
        return
    assignment.maybe_held = False
    if isinstance(answer, Lease):
        await _rest(assignment, await _serve(assignment, context, answer))
    elif isinstance(answer, HeldElsewhere):
        await _stand_by(assignment, answer.seconds)
    else:
        # Revoked since the last sweep. The next one ends this assignment.
        await _rest(assignment, context.leases.settings.poll_seconds)


async def _rest(assignment: Assignment, seconds: float) -> None:
    """Wait `seconds` or until drained. Ignores `wake`, because this task's own release would cut its back-off short."""
    with trio.move_on_after(seconds):
        await assignment.draining.wait()


async def _stand_by(assignment: Assignment, seconds: float) -> None:
    """Sleep until the recorded expiry of the lease, or until a release is announced.

    While the holder renews, each sweep moves `free_at` forward.
    """
    assignment.health = LinkHealth(ConnectionState.STANDBY)
    assignment.free_at = trio.current_time() + max(seconds, _RACE_SECONDS)
    while (left := assignment.free_at - trio.current_time()) > 0:
        if await assignment.wake.wait(left):
            assignment.free_at = trio.current_time()


async def _serve(assignment: Assignment, context: InstallationContext, lease: Lease) -> float:
    """Hold the lease and, under it, the link. Returns the seconds to wait before asking for the lease again.

    The lease is released whenever the link is down, also during the pause after a refusal. Another process may be able
    to reach the platform when this one cannot, and a lease without a link serves no purpose. Each process keeps its own
    back-off, so the platform sees at most one attempt per process and pause.
    """
    if assignment.free_at is not None:
        seconds = max(trio.current_time() - assignment.free_at, 0.0)
        context.leases.recorder.observe("channel_lease_takeover_latency_seconds", seconds)
        assignment.free_at = None
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
    link = assignment.link = _Link(assignment, context, lease)
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
        assignment.link = None
    return pause


class _Link:
    """One attempt to hold one link. Classifies its end and sets the back-off."""

    def __init__(self, assignment: Assignment, context: InstallationContext, lease: Lease) -> None:
        self._assignment = assignment
        self._context = context
        self._lease = lease
        self._established_at = math.inf
        self._intake = trio.CancelScope()

    async def hold(self) -> None:
        """Run the channel and, beside it, the outbox. Returns when drained.

        On a drain the channel ends first, while the outbox may still send. Then the outbox is cancelled, and the caller
        ends the lease. The outbox starts once the link is established, because only then is it known that the platform
        accepts the credentials. Raises LinkLost when the channel ends without a drain.
        """
        installation = self._assignment.installation
        channel = self._build()
        async with trio.open_nursery() as sending:

            def established() -> None:
                self._established()
                sending.start_soon(self._context.run_outbox, installation, self._lease.epoch, channel)

            with self._intake:
                if self._assignment.draining.is_set():
                    self.drain()
                await channel.run(task_status=_OnceStarted(established))
                if not self._assignment.draining.is_set():
                    raise LinkLost("the channel ended without being asked to")
            sending.cancel_scope.cancel()

    def drain(self) -> None:
        """Ask the channel to end. `hold` returns when it has ended, or the lease ends after `DRAIN_SECONDS`."""
        self._lease.end_by(trio.current_time() + DRAIN_SECONDS)
        self._intake.cancel()

    def _build(self) -> Channel:
        self._context.leases.changed.set()
        return self._context.registry.build(
            ChannelConfig(
                type=self._assignment.installation.channel_type,
                installation_id=self._assignment.id,
                raw=self._assignment.opened,
                handler=self._context.handler_for(self._assignment.installation),
                fence=self._lease.fence,
                health=self._lease.health,
            )
        )

    def _established(self) -> None:
        self._established_at = trio.current_time()
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
