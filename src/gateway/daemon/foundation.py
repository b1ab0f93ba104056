"""What every part of the process stands on, and what a notification of the database wakes."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from gateway.channel.registry import Registry
from gateway.concurrency import Signal, Topics
from gateway.config import Settings
from gateway.keyring import KeyRing
from gateway.lark.api.client import HttpClient
from gateway.lark.api.clients import LarkClients
from gateway.observe.metrics import Metrics
from gateway.postgres.pool import Pool
from gateway.work.feed import Feed
from gateway.work.tasks.attachments import FileSource


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


def utc_now() -> datetime:
    """Wall time, for what others stamp or schedule by it: signatures of senders, the ends of secrets."""
    return datetime.now(UTC)


def _ring(topics: Topics, key: str) -> None:
    if key:
        topics.ring(key)
    else:
        topics.ring_all()


@dataclass(frozen=True, slots=True)
class Foundation:
    """What every part may use. `run` opens it, and it outlives all of them.

    Leases have a pool of their own: a burst of other work must not cost this process its bots. `tls` is what every call
    and every socket believes: one context, because each costs close to a megabyte. Without `ring` no secret can be
    opened. `files` takes, by channel type, the source of files in messages.
    """

    settings: Settings
    conninfo: str = field(repr=False)
    pool: Pool
    lease_pool: Pool
    http: HttpClient
    tls: ssl.SSLContext
    ring: KeyRing | None
    lark: LarkClients
    metrics: Metrics = field(default_factory=Metrics)
    registry: Registry = field(default_factory=Registry)
    files: dict[str, FileSource] = field(default_factory=dict)
    wakes: Wakes = field(default_factory=Wakes)
    node_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def count_fault(self, unit: str) -> Callable[[], None]:
        """A callback that counts an unexpected error of this unit of work."""
        return partial(self.metrics.count, "gateway_unexpected_errors_total", unit=unit)
