"""Beginning the deliveries that wait for their turn, at the pace of their triggers."""

from __future__ import annotations

from uuid import UUID

from gateway.concurrency import reached
from gateway.webhooks.delivery import Intake
from gateway.webhooks.limits import Gates
from gateway.webhooks.ports import TurnStore

ROUND_TURNS_MAX = 500
"""Deliveries that one round begins, of all triggers together."""
TRIGGERS_MAX = 10_000
"""Triggers that one round looks after."""


class Turns:
    """Begins deliveries that wait, also those of another process, alive or dead.

    The rows are the queue: each says `queued` and has a place among those of its trigger. Only the first of a queue can
    be claimed, by one process at a time, so that they begin in their order. The run is unique for its delivery: a
    process that was given up for dead begins no second one. The pace is that of the process, and counts what it begins
    at once as well.
    """

    def __init__(self, store: TurnStore, intake: Intake, gates: Gates) -> None:
        self._store = store
        self._intake = intake
        self._gates = gates

    async def begin(self) -> int:
        """Begin all whose turn has come, one of each trigger after the other; returns how many were settled."""
        waiting = await self._store.waiting_triggers(TRIGGERS_MAX)
        self._gates.set_waiting(waiting)
        begun = 0
        while waiting and begun < ROUND_TURNS_MAX:
            waiting = [trigger_id for trigger_id in waiting if await self._begin_first(trigger_id)]
            begun += len(waiting)
        return begun

    async def _begin_first(self, trigger_id: UUID) -> bool:
        """False when none of this trigger can begin now."""
        if not self._gates.take_turn(trigger_id):
            return False
        stored = await self._store.claim_turn(trigger_id)
        if stored is None:
            self._gates.give_back_turn(trigger_id)
            return False
        reached("webhooks.turn_claimed")
        if not await self._intake.finish(stored):
            await self._store.leave_queue(stored.id)
        return True
