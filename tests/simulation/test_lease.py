"""One lease as a cancel scope: every way to lose it is the same cancellation, and the fence falls with it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing

from gateway.channel.channel import DEGRADED_SECONDS, ConnectionState
from gateway.concurrency import finishing
from gateway.core.lease import RELEASE_FINISH_SECONDS, LeaseSettings
from gateway.errors import LeaseLost, StoreUnavailable
from gateway.supervisor.lease import (
    RELEASE_SECONDS,
    Lease,
    Leases,
    hold_lease,
    run_connection_reporter,
    run_lease_keeper,
)
from gateway.supervisor.ports import HeldElsewhere, Installation
from support.lease_memory import FaultyWire, LeaseTable, MemoryLeaseStore, Wire
from support.recording import Recording

T = TypeVar("T")
SETTINGS = LeaseSettings()
TOKEN = "node-g1"


class StallingWire(Wire):
    """Holds calls of the names in `stalled` back until they are let go, and keeps their number."""

    def __init__(self) -> None:
        self.stalled: set[str] = set()
        self.delay_seconds = 0.0
        self.started: list[tuple[float, str]] = []

    async def call(self, operation: Callable[[], T]) -> T:
        name = operation.func.__name__  # type: ignore[attr-defined]
        self.started.append((trio.current_time(), name))
        if name in self.stalled:
            await trio.sleep_forever()
        await trio.sleep(self.delay_seconds)
        return operation()

    def times(self, name: str) -> list[float]:
        return [at for at, each in self.started if each == name]


class Bench:
    """Leases on a table of one row, with their keeper and reporter running."""

    def __init__(self) -> None:
        self.table = LeaseTable()
        self.wire = StallingWire()
        self.recorder = Recording()
        self.leases = Leases(MemoryLeaseStore(self.table, self.wire), SETTINGS, self.recorder)
        self.bot = uuid4()
        self.table.insert(Installation(self.bot, uuid4(), uuid4(), "toy", {}))

    @property
    def token(self) -> str | None:
        return self.table.rows[self.bot].token

    async def acquire(self, bot: UUID | None = None) -> Lease:
        lease = await self.leases.acquire(bot or self.bot, TOKEN)
        assert isinstance(lease, Lease)
        return lease


def jumping(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with a bench under a clock that jumps over every wait."""

    async def main() -> None:
        bench = Bench()
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(run_lease_keeper, bench.leases, jitter=lambda: 0.5))
                nursery.start_soon(run_connection_reporter, bench.leases, "node")
                await test(bench)
                nursery.cancel_scope.cancel()

    def run() -> None:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    run.__name__ = test.__name__
    return run


@asynccontextmanager
async def losing() -> AsyncIterator[None]:
    """The body must end by losing its lease."""
    with pytest.raises(LeaseLost):
        yield


@jumping
async def test_lease_is_kept_for_as_long_as_renewals_are_confirmed(bench: Bench) -> None:
    began = time.time()
    async with hold_lease(bench.leases, await bench.acquire()):
        await trio.sleep(1000)
    assert bench.token is None
    first, *renewals, last = bench.recorder.seen("channel_lease_operations")
    assert (first, set(renewals), last) == (("acquire", "ok"), {("renew", "ok")}, ("release", "ok"))
    assert bench.recorder.values("channel_lease_active_owners") == [1, 0]
    renewed_at = bench.recorder.values("channel_lease_last_successful_renewal_timestamp_seconds")
    assert len(renewed_at) == len(renewals)
    assert began <= min(renewed_at) <= time.time()


@jumping
async def test_lease_ends_a_margin_before_the_expiry_when_the_database_is_silent(bench: Bench) -> None:
    lease = await bench.acquire()
    bench.wire.stalled = {"renew"}
    started = trio.current_time()
    async with losing():
        async with hold_lease(bench.leases, lease):
            await trio.sleep_forever()
    assert trio.current_time() - started == pytest.approx(SETTINGS.trust_seconds)
    assert trio.current_time() < started + SETTINGS.ttl_seconds
    assert ("renew", "error") in bench.recorder.seen("channel_lease_operations")


@jumping
async def test_lease_counts_trust_from_the_moment_the_request_was_sent(bench: Bench) -> None:
    bench.wire.delay_seconds = 2.0
    asked = trio.current_time()
    lease = await bench.acquire()
    bench.wire.stalled = {"renew"}
    async with losing():
        async with hold_lease(bench.leases, lease):
            await trio.sleep_forever()
    assert trio.current_time() - asked == pytest.approx(SETTINGS.trust_seconds + 2.0)  # and the release took 2 s
    assert bench.token is None


@jumping
async def test_lease_that_was_slow_to_get_is_renewed_at_once(bench: Bench) -> None:
    bench.wire.delay_seconds = 2.0
    async with hold_lease(bench.leases, await bench.acquire()):
        acquired = trio.current_time()
        await trio.sleep(1)
        assert bench.wire.times("renew") == [acquired]


@jumping
async def test_lease_that_the_database_gives_to_another_ends_at_the_next_tick(bench: Bench) -> None:
    started = trio.current_time()
    async with losing():
        async with hold_lease(bench.leases, await bench.acquire()):
            bench.table.rows[bench.bot].token = "other-g1"
            await trio.sleep_forever()
    assert trio.current_time() - started <= SETTINGS.renew_seconds * 1.1
    assert bench.token == "other-g1"
    assert bench.recorder.seen("channel_lease_operations")[-2:] == [("renew", "lost"), ("release", "lost")]


@jumping
async def test_lease_loss_lets_the_fence_fall_while_a_shield_still_holds(bench: Bench) -> None:
    fell: list[float] = []
    started = trio.current_time()
    async with losing():
        async with hold_lease(bench.leases, await bench.acquire()) as lease:
            bench.wire.stalled = {"renew"}
            lease.fence.on_fall(lambda: fell.append(trio.current_time() - started))
            with finishing(60):
                await trio.sleep(20)
    assert fell == [pytest.approx(SETTINGS.trust_seconds)]


@jumping
async def test_fence_that_cannot_tear_a_link_down_does_not_keep_the_lease(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()) as lease:
        lease.fence.on_fall(lambda: 1 / 0)
    assert bench.token is None


@jumping
async def test_fence_has_fallen_after_a_planned_end(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()) as lease:
        assert not lease.fence.fallen
    assert lease.fence.fallen


@jumping
async def test_renewals_that_fail_are_tried_again_until_one_succeeds(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()):
        for _ in range(20):
            bench.wire.stalled = {"renew"}
            await trio.sleep(5)
            bench.wire.stalled = set()
            await trio.sleep(8)


@jumping
async def test_renewal_that_hangs_is_given_up_in_time_for_two_more(bench: Bench) -> None:
    bench.wire.stalled = {"renew"}
    async with losing():
        async with hold_lease(bench.leases, await bench.acquire()):
            await trio.sleep_forever()
    assert len(bench.wire.times("renew")) == 3


@jumping
async def test_lease_is_not_extended_beyond_the_end_it_was_given(bench: Bench) -> None:
    started = trio.current_time()
    async with losing():
        async with hold_lease(bench.leases, await bench.acquire()) as lease:
            lease.end_by(trio.current_time() + 9)
            await trio.sleep_forever()
    assert trio.current_time() - started == pytest.approx(9)


@jumping
async def test_answer_about_an_old_tenure_does_not_end_the_next_one(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()):
        bench.wire.delay_seconds = 3.0
        await trio.sleep(SETTINGS.renew_seconds + 1)  # a renewal is under way
    bench.wire.delay_seconds = 0.0
    async with hold_lease(bench.leases, await bench.acquire()):
        await trio.sleep(60)


# acquire and release


@jumping
async def test_acquire_without_an_answer_is_unavailable_and_the_same_token_gets_it_later(bench: Bench) -> None:
    bench.table.acquire(bench.bot, TOKEN, SETTINGS.ttl_seconds)  # the request arrived, its answer did not
    bench.wire.stalled = {"acquire"}
    started = trio.current_time()
    with pytest.raises(StoreUnavailable):
        await bench.leases.acquire(bench.bot, TOKEN)
    assert trio.current_time() - started == pytest.approx(SETTINGS.attempt_seconds)
    bench.wire.stalled = set()
    assert isinstance(await bench.leases.acquire(bench.bot, "other-g1"), HeldElsewhere)
    async with hold_lease(bench.leases, await bench.acquire()):
        pass


@jumping
async def test_release_is_bounded_when_the_database_hangs(bench: Bench) -> None:
    lease = await bench.acquire()
    bench.wire.stalled = {"release"}
    started = trio.current_time()
    async with hold_lease(bench.leases, lease):
        pass
    assert trio.current_time() - started == pytest.approx(RELEASE_SECONDS)


@jumping
async def test_release_under_cancellation_is_tried_within_its_shield(bench: Bench) -> None:
    lease = await bench.acquire()
    bench.wire.delay_seconds = 0.1
    with trio.CancelScope() as scope:
        async with hold_lease(bench.leases, lease):
            scope.cancel()
            await trio.sleep_forever()
    assert bench.token is None
    lease = await bench.acquire()
    bench.wire.stalled = {"release"}
    started = trio.current_time()
    with trio.CancelScope() as scope:
        async with hold_lease(bench.leases, lease):
            scope.cancel()
            await trio.sleep_forever()
    assert trio.current_time() - started == pytest.approx(RELEASE_FINISH_SECONDS)


@jumping
async def test_release_after_a_body_that_failed_shows_standby(bench: Bench) -> None:
    lease = await bench.acquire()
    with suppress(ExceptionGroup):
        async with hold_lease(bench.leases, lease):
            lease.health.state = ConnectionState.LIVE
            raise ZeroDivisionError
    assert bench.table.connections[bench.bot].state == "standby"


# connection state


@jumping
async def test_reporter_stores_a_change_of_state_at_once_and_times_every_five_seconds(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()) as lease:
        lease.health.state = ConnectionState.LIVE
        bench.leases.changed.set()
        await trio.sleep(0.1)
        assert bench.table.connections[bench.bot].state == "live"
        stored = len(bench.wire.times("record"))
        for beat in range(100):
            lease.health.pong_ms = float(beat)
            await trio.sleep(0.5)
        assert 9 <= len(bench.wire.times("record")) - stored <= 11
        lease.health.state = ConnectionState.DEAF
        await trio.sleep(1.1)
        assert bench.table.connections[bench.bot].state == "deaf"


@jumping
async def test_reporter_writes_nothing_when_nothing_changed(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()):
        await trio.sleep(100)
    assert len(bench.wire.times("record")) == 1


@jumping
async def test_reporter_tries_again_when_the_database_failed(bench: Bench) -> None:
    bench.wire.stalled = {"record"}
    async with hold_lease(bench.leases, await bench.acquire()) as lease:
        lease.health.state = ConnectionState.LIVE
        await trio.sleep(12)
        bench.wire.stalled = set()
        await trio.sleep(10)
        assert bench.table.connections[bench.bot].state == "live"


# requests that arrive late


@pytest.mark.parametrize("seed", range(10))
def test_release_that_arrives_late_never_frees_a_later_tenure(seed: int) -> None:
    table, rng, bot = LeaseTable(), Random(seed), uuid4()
    table.insert(Installation(bot, uuid4(), uuid4(), "toy", {}))

    async def main() -> None:
        async with trio.open_nursery() as network:
            wire = FaultyWire(rng, network)
            leases = Leases(MemoryLeaseStore(table, wire), SETTINGS)
            with trio.fail_after(10_000):
                for _ in range(30):
                    wire.flaky = 0.0
                    answer = await leases.acquire(bot, TOKEN)
                    assert isinstance(answer, Lease)
                    wire.flaky = 1.0
                    async with hold_lease(leases, answer):
                        await trio.sleep(rng.uniform(0, 10))
                        row = table.rows[bot]
                        assert (row.token, row.epoch) == (TOKEN, answer.epoch)
            network.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@jumping
async def test_link_that_becomes_degraded_is_stored_at_once_and_again_while_it_lasts(bench: Bench) -> None:
    async with hold_lease(bench.leases, await bench.acquire()) as lease:
        lease.health.state = ConnectionState.LIVE
        await trio.sleep(100)
        lease.recorded(replace(lease.health), trio.current_time())
        lease.health.last_frame_at = datetime(2026, 1, 1, tzinfo=UTC)
        assert lease.report(trio.current_time() + 1) is None
        lease.health.asked_again_at = trio.current_time()
        report = lease.report(trio.current_time() + 1)
        assert report is not None
        assert report.degraded_seconds(trio.current_time()) == DEGRADED_SECONDS
        lease.recorded(report, trio.current_time() + 1)
        lease.health.asked_again_at += 1
        assert lease.report(trio.current_time() + 2) is None
        assert lease.report(trio.current_time() + 6) is not None
