"""Chores: periodic work that no request asks for. Lists the chores and runs them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from gateway.daemon.foundation import Foundation
from gateway.errors import StoreUnavailable
from gateway.postgres.notices import PostgresAbsences
from gateway.postgres.purges import purges

if TYPE_CHECKING:
    from gateway.daemon.services import RunningServices

logger = structlog.get_logger(__name__)


async def run_chores(foundation: Foundation, services: RunningServices) -> None:
    """Run the chores of this process until cancelled; see `run_janitor`."""
    pool, settings = foundation.pool, foundation.settings
    absences = PostgresAbsences(pool, silent_seconds=settings.limits.runtime_silence_seconds)
    expired = purges(history_days=settings.limits.history_days_max, delivery_days=settings.webhooks.retention_days)
    await run_janitor(
        [
            Sweep("lost_tasks", 10, services.tasks.return_lost),
            Sweep("absences", 10, absences.tell),
            Sweep("attachment_files", 600, services.attachments.sweep),
            Sweep("stale_deliveries", 5, services.webhooks.intake.finish_stale),
            Sweep("limited_deliveries", 1, services.webhooks.limited.flush),
            Sweep("waiting_deliveries", 1, services.webhooks.turns.begin),
            Sweep("delivery_counts", 10, services.webhooks.deliveries.fold_tally),
            Sweep("autopilot_runs", 5, services.autopilots.count_ended),
            *(Sweep(purge.name, 600, partial(purge.run, pool)) for purge in expired),
        ]
    )


@dataclass(frozen=True, slots=True)
class Sweep:
    """One chore. `run` does a bounded piece of work and returns how many rows or files it touched."""

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
    """Run each chore at its interval until cancelled. Several processes may do this at the same time.

    A chore is a unit of work: if it raises, or takes longer than `timeout_seconds`, that is logged and it runs again at
    its next turn. The first run is spread over each chore's interval by `random_unit` in [0, 1), so that replicas do
    not run in step.
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
