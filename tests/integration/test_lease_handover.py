"""Two supervisors on one real Postgres, with notifications, in real time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import trio

from gateway.channel.registry import Registry
from gateway.concurrency import Signal, Topics
from gateway.core.lease import LeaseSettings
from gateway.postgres.driver import TrioConnection
from gateway.postgres.lease_store import PostgresLeaseStore
from gateway.postgres.listen import run_listener
from gateway.postgres.pool import Pool, open_pool
from gateway.supervisor.lease import Leases
from gateway.supervisor.ports import Serving
from gateway.supervisor.sweep import run_supervisor
from support.lease_postgres import PostgresLeaseRows
from support.recording import Recording
from support.supervisor_cluster import DIAL_SECONDS, TOY, OutboxLog, open_toy_secrets
from support.toy.channels import ToyChannel, settled
from support.toy.platform import ToyPlatform

SETTINGS = LeaseSettings.derived(3)


@dataclass(slots=True, eq=False)
class PostgresNode:
    name: str
    pool: Pool
    recorder: Recording = field(default_factory=Recording)
    stop: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def stands_by(self) -> None:
        """Wait until the daemon was told that another one holds the lease."""
        await self.recorder.until("channel_lease_operations", "acquire", "held")


@dataclass(slots=True)
class PostgresCluster:
    """Daemons that end with the test."""

    database: str
    nursery: trio.Nursery
    platform: ToyPlatform
    outbox: OutboxLog = field(default_factory=OutboxLog)

    async def start(self, name: str) -> PostgresNode:
        daemon: PostgresNode = await self.nursery.start(self._run, name)
        return daemon

    async def _run(self, name: str, *, task_status: trio.TaskStatus[PostgresNode] = trio.TASK_STATUS_IGNORED) -> None:
        wake, releases, registry = Signal(), Topics(), Registry()
        registry.register(TOY, partial(ToyChannel, self.platform, node=name))

        def ring(payload: str) -> None:
            releases.ring(payload) if payload else releases.ring_all()

        async def connect() -> TrioConnection[Any]:
            return await TrioConnection.connect(self.database, autocommit=True)

        async with open_pool(self.database, size_max=2) as pool:
            daemon = PostgresNode(name, pool)
            with daemon.scope:
                async with trio.open_nursery() as nursery:
                    callbacks = {"gateway_lease": ring, "gateway_installation": lambda _payload: wake.set()}
                    await nursery.start(run_listener, connect, callbacks)
                    serve = partial(
                        run_supervisor,
                        Leases(PostgresLeaseStore(pool), SETTINGS, daemon.recorder),
                        Serving(registry, open_toy_secrets, lambda _installation: settled, self.outbox.run),
                        node_id=name,
                        wake=wake,
                        releases=releases,
                        stop=daemon.stop,
                    )
                    task_status.started(daemon)
                    await serve()
                    nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_cluster(database: str) -> AsyncIterator[PostgresCluster]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            cluster = PostgresCluster(database, nursery, ToyPlatform(dial_seconds=DIAL_SECONDS))
            yield cluster
            assert cluster.platform.breaches == []
            assert cluster.outbox.breaches == []
            nursery.cancel_scope.cancel()


@pytest.fixture
def leases(pool: Pool) -> PostgresLeaseRows:
    return PostgresLeaseRows(pool)


async def toy_bot(leases: PostgresLeaseRows, number: int = 1) -> UUID:
    return await leases.add(TOY, {"app_id": f"app{number}", "sealed": "x:s1"})


async def test_stopped_owner_hands_over_within_half_a_second(leases: PostgresLeaseRows, database: str) -> None:
    bot = await toy_bot(leases)
    async with open_cluster(database) as cluster:
        owner = await cluster.start("a")
        await cluster.platform.until_live(bot, on="a")
        await (await cluster.start("b")).stands_by()
        stopped_at = trio.current_time()
        owner.stop.set()
        link = await cluster.platform.until_live(bot, on="b")
        assert link.opened_at - stopped_at <= 0.5


async def test_owner_that_vanishes_is_replaced_within_ttl_and_a_second(
    leases: PostgresLeaseRows, database: str
) -> None:
    bot = await toy_bot(leases)
    async with open_cluster(database) as cluster:
        owner = await cluster.start("a")
        await cluster.platform.until_live(bot, on="a")
        await (await cluster.start("b")).stands_by()
        owner.pool.close()
        await leases.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and query ~* 'lease'"
        )
        vanished_at = trio.current_time()
        link = await cluster.platform.until_live(bot, on="b")
        assert link.opened_at - vanished_at <= SETTINGS.ttl_seconds + 1


async def test_rotation_moves_every_bot_to_its_new_secret(leases: PostgresLeaseRows, database: str) -> None:
    bots = [await toy_bot(leases, number) for number in range(10)]
    async with open_cluster(database) as cluster:
        await cluster.start("a")
        for bot in bots:
            await cluster.platform.until_live(bot)
        rotated_at = trio.current_time()
        await leases.execute("update channel_installation set config = jsonb_set(config, '{sealed}', '\"y:s2\"')")
        for bot in bots:
            link = await cluster.platform.until_live(bot, since=rotated_at)
            assert link.secret == "s2"
        assert trio.current_time() - rotated_at <= 2
        assert len(cluster.platform.links) == 20
