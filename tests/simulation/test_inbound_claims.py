"""Slow, failing and dead workers in logical time: a minute of it passes for the claims, whatever the steps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock

from support import claim_suite as suite
from support.inbound_memory import MemoryInbound

EPOCH = datetime(2026, 1, 5, 9, tzinfo=UTC)


class ClockedInbound(MemoryInbound):
    """The store's clock is the run's: time passes by sleeping."""

    @property
    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=trio.current_time())

    @now.setter
    def now(self, _value: datetime) -> None:
        """The dataclass gives its default here; there is nothing to keep."""

    async def age_claims(self, seconds: float) -> None:
        await trio.sleep(seconds)


@pytest.mark.parametrize("text", suite.TEXTS)
@pytest.mark.parametrize("step", suite.STEPS)
async def test_slow_worker_whose_claim_was_retaken_writes_nothing(
    step: str, text: str, autojump_clock: MockClock
) -> None:
    with trio.fail_after(1000):
        await suite.slow_worker_whose_claim_was_retaken_writes_nothing(ClockedInbound(), step, text)


@pytest.mark.parametrize("text", suite.TEXTS)
async def test_slow_worker_that_nobody_retook_writes_late(text: str, autojump_clock: MockClock) -> None:
    with trio.fail_after(1000):
        await suite.slow_worker_that_wakes_first_writes_and_the_retaker_nothing(ClockedInbound(), text)


@pytest.mark.parametrize("text", suite.TEXTS)
@pytest.mark.parametrize("step", suite.STEPS)
async def test_released_claim_is_retaken_at_once(step: str, text: str, autojump_clock: MockClock) -> None:
    with trio.fail_after(1000):
        before = trio.current_time()
        await suite.released_claim_is_retaken_at_once(ClockedInbound(), step, text)
        assert trio.current_time() == before


@pytest.mark.parametrize("text", suite.TEXTS)
@pytest.mark.parametrize("step", suite.STEPS)
async def test_crash_between_claim_and_append_is_retaken_after_a_minute(
    step: str, text: str, autojump_clock: MockClock
) -> None:
    with trio.fail_after(1000):
        await suite.crash_between_claim_and_append_is_retaken_after_a_minute(ClockedInbound(), step, text)


async def test_crashed_message_is_answered_by_the_redelivery_after_its_minute(autojump_clock: MockClock) -> None:
    """The platform comes back 15 s after a delivery that was not settled, and 5 min later: then the claim is stale."""
    with trio.fail_after(1000):
        backend = ClockedInbound()
        await backend.bind(await backend.add_bot(), "ou_ann")
        dying = suite.Halting(backend.store, "append", dies=True)
        async with (
            suite.open_pipeline(dying, fused=False) as pipeline,
            suite.open_pipeline(backend, fused=True) as survivor,
        ):
            with pytest.raises(suite.StoreUnavailable):
                await pipeline.receive(suite.direct("om_1"))
            verdicts = []
            for pause in (15, 285):
                await trio.sleep(pause)
                verdicts.append(await survivor.receive(suite.direct("om_1")))
        assert verdicts == [suite.Verdict.REDELIVER, suite.Verdict.SETTLED]
        assert len(backend.message_rows) == 1
