from __future__ import annotations

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from gateway.channel.channel import ConnectionState
from gateway.supervisor.installation import DRAIN_SECONDS, Assignment, OpenedInstallation
from gateway.supervisor.lease import Lease
from gateway.supervisor.phases import Phase, PhaseTrigger
from gateway.supervisor.ports import ActiveInstallation, Tenure

A = UUID(int=1)


def served(lease_seconds: float | None = None) -> OpenedInstallation:
    return OpenedInstallation(ActiveInstallation(A, UUID(int=2), UUID(int=3), "toy", {}, lease_seconds), {}, "f")


@pytest.fixture
def assignment() -> Assignment:
    return Assignment(served(), "node-g1")


async def test_drain_ends_the_lease_in_time_and_a_second_one_does_not_move_that(
    assignment: Assignment, mock_clock: MockClock
) -> None:
    assignment.lease = lease = Lease(Tenure(A, "node-g1", 1), trio.current_time() + 100)
    drained_at = trio.current_time()
    assignment.drain()
    mock_clock.jump(3)
    assignment.drain(withdrawn=True)
    lease.trust_until(drained_at + 100)
    assert lease.scope.deadline == drained_at + DRAIN_SECONDS
    assert assignment.phase is Phase.DRAINING


async def test_drain_ends_what_waits_and_what_would_wait_later(assignment: Assignment, mock_clock: MockClock) -> None:
    async def drain() -> None:
        assignment.drain()

    async with trio.open_nursery() as nursery:
        with assignment.until_drained() as waiting:
            nursery.start_soon(drain)
            await trio.sleep_forever()
        assert waiting.cancelled_caught
    with assignment.until_drained() as later:
        await trio.lowlevel.checkpoint()
    assert later.cancelled_caught


async def test_sweep_moves_the_end_of_a_standby_and_ends_it_when_the_lease_is_free(
    assignment: Assignment, mock_clock: MockClock
) -> None:
    assignment.move(PhaseTrigger.PREDECESSOR_ENDED)
    assignment.move(PhaseTrigger.HELD)
    now = trio.current_time()
    scope = assignment.until_drained(now + 4)
    assignment.refresh(served(lease_seconds=10))
    assert scope.deadline == now + 10
    assignment.refresh(served(lease_seconds=2))  # read before the last renewal
    assert scope.deadline == now + 10
    assignment.refresh(served())
    assert scope.deadline == now


async def test_sweep_leaves_the_pause_after_a_failure_alone(assignment: Assignment, mock_clock: MockClock) -> None:
    for trigger in (PhaseTrigger.PREDECESSOR_ENDED, PhaseTrigger.FAILED):
        assignment.move(trigger)
    scope = assignment.until_drained(trio.current_time() + 60)
    assignment.refresh(served())
    assert scope.deadline == trio.current_time() + 60
    assert assignment.health.state is ConnectionState.CONNECTING
