"""One slow message delays no other, and what is shielded is shielded for a second at most. Logical time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.channel.channel import Verdict
from gateway.errors import StoreUnavailable
from gateway.inbound.pipeline import FINALISE_SECONDS, InboundPipeline
from support.inbound_backend import direct, grouped, open_pipeline
from support.inbound_memory import MemoryInbound


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


async def _backend(*stalled: str) -> Stalling:
    backend = Stalling()
    await backend.bind(await backend.add_bot(), "ou_ann")
    backend.stalled = stalled
    return backend


async def test_message_that_hangs_in_the_steps_delays_no_other(autojump_clock: MockClock) -> None:
    backend = await _backend()
    with trio.fail_after(10_000):
        async with open_pipeline(backend, fused=True) as pipeline, trio.open_nursery() as nursery:
            await pipeline.receive(direct("om_0"))
            backend.stalled = ("find_identity",)
            nursery.start_soon(pipeline.receive, direct("om_slow", sender="ou_stranger"))
            await wait_all_tasks_blocked()
            before = trio.current_time()
            assert await pipeline.receive(direct("om_1")) is Verdict.SETTLED
            assert trio.current_time() == before


async def test_release_of_a_cancelled_request_ends_within_its_bound(autojump_clock: MockClock) -> None:
    backend = await _backend("append", "release")
    before = trio.current_time()
    with trio.fail_after(10_000), trio.move_on_after(5):
        await InboundPipeline(backend, None).receive(direct())
    assert trio.current_time() - before == pytest.approx(5 + FINALISE_SECONDS)


async def test_drop_that_cannot_be_recorded_in_time_is_redelivered(autojump_clock: MockClock) -> None:
    backend = await _backend("record_drop")
    with trio.fail_after(10_000), pytest.raises(StoreUnavailable):
        await InboundPipeline(backend, None).receive(grouped(addressed_to_bot=False))
    assert backend.claim_rows == {}
    assert backend.audit == []
