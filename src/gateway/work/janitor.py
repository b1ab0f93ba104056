"""Work that nobody asks for and somebody must do now and then."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from gateway.errors import StoreUnavailable

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One chore: `run` does a bounded piece of it and says how many things it touched."""

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[int]]


async def run_janitor(
    sweeps: Sequence[Sweep],
    *,
    timeout_seconds: float = 30.0,
    random_unit: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do each chore in its rhythm until cancelled. Every process may run this at the same time as others.

    A chore is a unit of work: one that raises, or takes longer than `timeout_seconds`, is logged and comes again. The
    first round is spread over each chore's period by `random_unit` in [0, 1), so that replicas do not march in step.
    """
    async with trio.open_nursery() as nursery:
        for sweep in sweeps:
            nursery.start_soon(_repeat, sweep, timeout_seconds, sweep.every_seconds * random_unit())
        task_status.started()


async def _repeat(sweep: Sweep, timeout_seconds: float, first_pause: float) -> None:
    await trio.sleep(first_pause)
    while True:
        await _run_once(sweep, timeout_seconds)
        await trio.sleep(sweep.every_seconds)


async def _run_once(sweep: Sweep, timeout_seconds: float) -> None:
    try:
        with trio.fail_after(timeout_seconds):
            touched = await sweep.run()
    except (StoreUnavailable, trio.TooSlowError) as error:
        logger.warning("sweep_postponed", sweep=sweep.name, error=str(error))
    except Exception:
        logger.exception("sweep_failed", sweep=sweep.name)
    else:
        if touched:
            logger.info("sweep_done", sweep=sweep.name, touched=touched)
