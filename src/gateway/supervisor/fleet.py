"""The installations that run in this process, and what their rows say.

Every change here happens at once, without an await. `Fleet.adopt` returns what is to be started, and the sweep does it.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog
import trio

from gateway.channel.channel import ConnectionState
from gateway.core.lease import lease_token
from gateway.core.reconcile import fingerprint, plan
from gateway.keyring import UnreadableSecret
from gateway.supervisor.installation import Assignment, OpenedInstallation
from gateway.supervisor.lease import Leases
from gateway.supervisor.ports import ActiveInstallation, Serving

logger = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0
"""The time limit of one sweep."""


@dataclass(slots=True)
class UnreadableInstallation:
    """A row whose config could not be opened, and why. `told` is True once the problem is stored beside the row."""

    installation: ActiveInstallation
    problem: str
    told: bool = False


class Fleet:
    """The installations of this process: those that run, and those whose rows do not open.

    `_running` holds the newest assignment of each installation until its task has ended. An assignment that was
    replaced is no longer in it, although its task may still be draining: its successor waits for that.
    Other code may query the fleet, but only the sweep changes it.
    """

    def __init__(self, leases: Leases, serving: Serving, node_id: str) -> None:
        self.leases = leases
        self.swept_at = -math.inf
        self._serving = serving
        self._node_id = node_id
        self._digest_key = secrets.token_bytes(32)
        self._generations = itertools.count(1)
        self._running: dict[UUID, Assignment] = {}
        self._unreadable: dict[UUID, UnreadableInstallation] = {}

    def connections(self) -> Counter[tuple[str, ConnectionState]]:
        """Count the installations that this process serves, by channel type and state of the link."""
        count = Counter((each.served.channel_type, each.health.state) for each in self._active())
        for row in self._unreadable.values():
            count[row.installation.channel_type, ConnectionState.UNREADABLE_SECRET] += 1
        return count

    def degraded(self) -> Counter[str]:
        """Count the degraded installations by channel type.

        They receive events, but within the last minute asked the platform to send some event again.
        """
        now = trio.current_time()
        return Counter(each.served.channel_type for each in self._active() if each.health.degraded_seconds(now) > 0)

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

    def adopt(self, listed: Sequence[ActiveInstallation]) -> list[Assignment]:
        """Adapt what runs to the listed rows: drain the assignments that must end, and return those to start."""
        rows = [self._read(installation) for installation in listed]
        opened = {row.installation.id: row for row in rows if isinstance(row, OpenedInstallation)}
        self._unreadable = {row.installation.id: row for row in rows if isinstance(row, UnreadableInstallation)}
        steps = plan(
            {id_: row.fingerprint for id_, row in opened.items()},
            {each.id: each.served.fingerprint for each in self._active()},
        )
        for id_ in steps.drain:
            # A row that is listed but does not open is drained too, but it is not to be shown as revoked.
            self._running[id_].drain(withdrawn=id_ not in opened and id_ not in self._unreadable)
        for id_ in steps.keep:
            self._running[id_].refresh(opened[id_])
        return [self._assign(opened[id_]) for id_ in steps.start]

    def untold(self) -> list[UnreadableInstallation]:
        """Return the rows that do not open and whose problem is not stored yet.

        Leaves out rows whose lease is held: another process may be able to open them.
        """
        return [row for row in self._unreadable.values() if not row.told and row.installation.lease_seconds is None]

    def drain(self) -> None:
        """Ask every running assignment to drain. Returns at once."""
        for assignment in self._running.values():
            assignment.drain()

    def ended(self, assignment: Assignment) -> None:
        """Forget an assignment whose task has ended. A newer one of the same installation is not affected."""
        if self._running.get(assignment.id) is assignment:
            del self._running[assignment.id]

    def _active(self) -> Iterator[Assignment]:
        return (each for each in self._running.values() if not each.leaving)

    def _read(self, installation: ActiveInstallation) -> OpenedInstallation | UnreadableInstallation:
        """Open the row, unless that was done for the same config before."""
        running = self._running.get(installation.id)
        if running is not None and running.served.installation.config == installation.config:
            return running.served.seen_again(installation)
        known = self._unreadable.get(installation.id)
        if known is not None and known.installation.config == installation.config:
            # A holder overwrites the stored state, so the problem must be stored again once the lease is free.
            return replace(known, installation=installation, told=known.told and installation.lease_seconds is None)
        return self._open(installation)

    def _open(self, installation: ActiveInstallation) -> OpenedInstallation | UnreadableInstallation:
        try:
            opened = self._serving.open_secrets(installation)
            identity = self._serving.registry.traits(installation.channel_type).identity_keys
            said = fingerprint(self._digest_key, installation.channel_type, installation.config, opened, identity)
        except UnreadableSecret as error:
            logger.warning("secret_unreadable", installation_id=str(installation.id), error=str(error))
            return UnreadableInstallation(installation, str(error))
        except Exception as error:
            # One malformed row must not keep the others from being served.
            self.leases.recorder.count("unexpected_errors", unit="sweep")
            logger.exception("installation_unreadable", installation_id=str(installation.id))
            return UnreadableInstallation(installation, f"its configuration cannot be read ({type(error).__name__})")
        return OpenedInstallation(installation, opened, said)

    def _assign(self, served: OpenedInstallation) -> Assignment:
        predecessor = self._running.get(served.installation.id)
        assignment = Assignment(
            served,
            lease_token(self._node_id, next(self._generations)),
            None if predecessor is None else predecessor.ended,
        )
        self._running[assignment.id] = assignment
        return assignment
