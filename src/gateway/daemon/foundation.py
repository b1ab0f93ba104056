"""The objects that all parts of the process share, and the signals that database notifications set."""

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
from gateway.daemon.database import DatabaseAddress
from gateway.keyring import KeyRing
from gateway.lark.api.client import HttpClient
from gateway.lark.api.clients import LarkClients
from gateway.observe.metrics import Metrics
from gateway.postgres.pool import Pool
from gateway.work.feed import Feed
from gateway.work.tasks.attachments import FileSource


@dataclass(slots=True)
class Wakes:
    """The signals that notifications of the database set, by topic."""

    installations: Signal = field(default_factory=Signal)
    releases: Topics = field(default_factory=Topics)
    tasks: Topics = field(default_factory=Topics)
    outbox: Topics = field(default_factory=Topics)
    attachments: Signal = field(default_factory=Signal)
    feed: Feed = field(default_factory=Feed)
    replays: Signal = field(default_factory=Signal)

    def callbacks(self) -> dict[str, Callable[[str], None]]:
        """Return the callbacks for `run_listener`. An empty payload means that notifications may have been missed."""
        return {
            "gateway_installation": lambda _: self.installations.set(),
            "gateway_lease": partial(_ring, self.releases),
            "gateway_task": partial(_ring, self.tasks),
            "gateway_outbound": partial(_ring, self.outbox),
            "gateway_attachment": lambda _: self.attachments.set(),
            "gateway_event": self.feed.publish,
        }


def utc_now() -> datetime:
    """Return wall-clock time, for comparison with outside times: signatures of senders, the expiry of secrets."""
    return datetime.now(UTC)


def _ring(topics: Topics, key: str) -> None:
    if key:
        topics.ring(key)
    else:
        topics.ring_all()


@dataclass(frozen=True, slots=True)
class Foundation:
    """The objects that every part may use. `run` opens it, and it outlives all parts.

    Leases have their own pool, so that a burst of other work does not cost this process its bots. `tls` is the one TLS
    context of every call and every socket, because each context costs close to a megabyte. Without `ring` no secret can
    be opened. `files` holds, by channel type, the source of the files in messages.
    """

    settings: Settings
    address: DatabaseAddress
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
