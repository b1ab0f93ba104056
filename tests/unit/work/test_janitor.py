from __future__ import annotations

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from gateway.daemon.janitor import Sweep, run_janitor
from gateway.errors import StoreUnavailable


class Chore:
    """Counts when it ran; `trouble` is raised instead of the first runs."""

    def __init__(self, *trouble: Exception, seconds: float = 0) -> None:
        self.trouble = list(trouble)
        self.seconds = seconds
        self.times: list[float] = []

    async def __call__(self) -> int:
        self.times.append(trio.current_time())
        await trio.sleep(self.seconds)
        if self.trouble:
            raise self.trouble.pop(0)
        return 3


async def run_for(seconds: float, *sweeps: Sweep) -> list[str]:
    with capture_logs() as logs, trio.fail_after(seconds + 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_janitor(sweeps, random_unit=lambda: 0.5))
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()
    return [entry["event"] for entry in logs]


async def test_janitor_does_each_chore_in_its_rhythm(autojump_clock: MockClock) -> None:
    often, seldom = Chore(), Chore()
    events = await run_for(100, Sweep("often", 10, often), Sweep("seldom", 60, seldom))
    assert [round(time - often.times[0]) for time in often.times] == list(range(0, 100, 10))
    assert len(seldom.times) == 2
    assert set(events) == {"sweep_done"}


async def test_janitor_chore_that_raises_comes_again_and_disturbs_nobody(autojump_clock: MockClock) -> None:
    poor, other = Chore(ValueError("bug"), StoreUnavailable("away")), Chore()
    events = await run_for(30, Sweep("poor", 10, poor), Sweep("other", 10, other))
    assert len(poor.times) == len(other.times) == 3
    assert events.count("sweep_failed") == events.count("sweep_postponed") == 1


async def test_janitor_chore_that_hangs_is_cut_off(autojump_clock: MockClock) -> None:
    hanging = Chore(seconds=1000)
    events = await run_for(100, Sweep("hanging", 10, hanging))
    assert len(hanging.times) == 3
    assert set(events) == {"sweep_postponed"}
