"""The start of deliveries that wait for their turn, at the pace of their triggers."""

from __future__ import annotations

from uuid import UUID

from gateway.concurrency import reached
from gateway.webhooks.delivery import Intake
from gateway.webhooks.limits import Gates
from gateway.webhooks.ports import TurnStore

ROUND_TURNS_MAX = 500
"""Deliveries of all triggers together that one round begins."""
TRIGGERS_MAX = 10_000
"""Triggers that one round looks at."""


class Turns:
    """Begins waiting deliveries, including those that another process took in, even if that process is still alive.

    The rows are the queue: each has the status `queued` and a place in its trigger's queue. Only the first of a queue
    can be claimed, by one process at a time, so the deliveries begin in their order. A delivery has at most one run, so
    a process that was wrongly believed dead begins no second one. The pace is counted per process. Deliveries that
    begin at once, without waiting, count against it too.
    """

    def __init__(self, store: TurnStore, intake: Intake, gates: Gates) -> None:
        self._store = store
        self._intake = intake
        self._gates = gates

    async def begin(self) -> int:
        """Begin all deliveries whose turn has come, in rounds of one per trigger. Return the number begun."""
        waiting = await self._store.waiting_triggers(TRIGGERS_MAX)
        self._gates.set_waiting(waiting)
        begun = 0
        while waiting and begun < ROUND_TURNS_MAX:
            waiting = [trigger_id for trigger_id in waiting if await self._begin_first(trigger_id)]
            begun += len(waiting)
        return begun

    async def _begin_first(self, trigger_id: UUID) -> bool:
        """Begin the first waiting delivery of a trigger. False when none can begin now."""
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
