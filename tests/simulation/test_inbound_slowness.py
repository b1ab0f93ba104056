"""One slow message delays no other, and what is shielded is shielded for a second at most. Logical time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.channel.channel import Verdict
from gateway.errors import StoreUnavailable
from gateway.inbound.pipeline import FINALISE_SECONDS, InboundPipeline
from support.inbound_memory import MemoryInbound
from support.inbound_world import direct, grouped, open_desk


class Stalling(MemoryInbound):
    """The named calls take an hour, even for someone in a hurry."""

    stalled: tuple[str, ...] = ()

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        if name == "stalled" or name not in super().__getattribute__("stalled"):
            return call

        async def stall(*arguments: Any) -> Any:
            await trio.sleep(3600)
            return await call(*arguments)

        return stall


async def _scene(*stalled: str) -> Stalling:
    world = Stalling()
    await world.bind(await world.add_bot(), "ou_ann")
    world.stalled = stalled
    return world


async def test_message_that_hangs_in_the_steps_delays_no_other(autojump_clock: MockClock) -> None:
    world = await _scene()
    with trio.fail_after(10_000):
        async with open_desk(world, fused=True) as desk, trio.open_nursery() as nursery:
            await desk.receive(direct("om_0"))
            world.stalled = ("find_identity",)
            nursery.start_soon(desk.receive, direct("om_slow", sender="ou_stranger"))
            await wait_all_tasks_blocked()
            before = trio.current_time()
            assert await desk.receive(direct("om_1")) is Verdict.SETTLED
            assert trio.current_time() == before


async def test_release_of_a_cancelled_request_ends_within_its_bound(autojump_clock: MockClock) -> None:
    world = await _scene("append", "release")
    before = trio.current_time()
    with trio.fail_after(10_000), trio.move_on_after(5):
        await InboundPipeline(world, None).receive(direct())
    assert trio.current_time() - before == pytest.approx(5 + FINALISE_SECONDS)


async def test_drop_that_cannot_be_recorded_in_time_is_redelivered(autojump_clock: MockClock) -> None:
    world = await _scene("record_drop")
    with trio.fail_after(10_000), pytest.raises(StoreUnavailable):
        await InboundPipeline(world, None).receive(grouped(addressed_to_bot=False))
    assert world.claim_rows == {}
    assert world.audit == []
