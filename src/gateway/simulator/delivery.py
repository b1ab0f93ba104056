"""At-least-once delivery of events, over long connections or HTTP: push, wait for the acknowledgement, push again."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from gateway.lark.wire.frame import Frame, encode
from gateway.simulator.callbacks import ANSWER_SHOWN_MAX, Callbacks, Unreachable
from gateway.simulator.clock import SimulatorClock
from gateway.simulator.connections import Bytes, SocketConnection, SocketConnections
from gateway.simulator.platform import derive
from gateway.simulator.wire import EVENT_OK, cut, judge

REDELIVERY_SECONDS = (15.0, 300.0, 3600.0, 21600.0)
"""The delays from one push to the next. After the last one the platform gives up."""
ACK_SECONDS = 3.0
FOLLOWED_MAX = 100_000
REMEMBERED_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PushPlan:
    """A plan for sending an event: in `chunks` parts, in the given `order`.

    `order` holds seq numbers, which may repeat or be missing. Raises ValueError for a number outside the parts.
    """

    chunks: int = 1
    order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise ValueError(f"an event has at least one part, not {self.chunks}")
        if any(not 0 <= seq < self.chunks for seq in self.order or ()):
            raise ValueError(f"order {self.order} names parts outside 0 to {self.chunks - 1}")


@dataclass(slots=True)
class Push:
    """One attempt to deliver an event.

    `outcome`: waiting · delivered · refused (code ≠ 200) · timeout · lost (connection) · no_connection · unreachable
    (HTTP only). Over HTTP, `ack_code` is the status of the answer. `latency_ms` runs from queueing the frame to its
    acknowledgement. `ack_payload` is the client's text, shortened. `complaint` says why an acknowledgement was not
    accepted. `late` is true if an accepted one came after the outcome was decided.
    """

    attempt: int
    at: int
    connection_id: str = ""
    transport_id: str = ""
    outcome: str = "waiting"
    ack_code: int = 0
    latency_ms: float = 0.0
    ack_payload: str = ""
    biz_rt: str = ""
    complaint: str = ""
    late: bool = False


@dataclass(eq=False, slots=True)
class EventRecord:
    """An event and all attempts to deliver it. `state`: pending · delivered · given_up."""

    event_id: str
    app_id: str
    event_type: str
    payload: bytes = field(repr=False)
    plan: PushPlan
    message_id: str = ""
    state: str = "pending"
    pushes: list[Push] = field(default_factory=list)
    _changed: trio.Event = field(default_factory=trio.Event, repr=False)

    def touch(self) -> None:
        """Wake the tasks that wait for a change of this record."""
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, condition: Callable[[EventRecord], bool]) -> EventRecord:
        """Wait until `condition` holds for this record. It is checked after every change."""
        while not condition(self):
            await self._changed.wait()
        return self

    async def settled(self) -> EventRecord:
        """Wait until the event is delivered or given up."""
        return await self.until(lambda record: record.state != "pending")

    async def answered(self, pushes: int = 1) -> Push:
        """Wait until the outcome of push number `pushes` is known."""
        await self.until(lambda record: len(record.pushes) >= pushes and record.pushes[pushes - 1].outcome != "waiting")
        return self.pushes[pushes - 1]


@dataclass(eq=False, slots=True)
class _Waiting:
    """A push that waits for its acknowledgement. Over HTTP it has neither connection nor frames."""

    record: EventRecord
    push: Push
    connection: SocketConnection | None
    frames: list[Frame]
    queued_at: float
    decided: trio.Event = field(default_factory=trio.Event)


class EventDelivery:
    """Pushes each event to one random live connection of its app, or to its address, and follows the schedule.

    `submit` queues the first push before it returns, so events leave in the order in which they are submitted.
    Acknowledgements and redeliveries are followed up only while `run` runs.
    """

    def __init__(
        self,
        connections: SocketConnections,
        callbacks: Callbacks,
        clock: SimulatorClock,
        entropy: random.Random,
        *,
        redelivery_scale: float = 1.0,
        ack_seconds: float = ACK_SECONDS,
        history_max: int = 10_000,
    ) -> None:
        self.redelivery_scale = redelivery_scale
        self.ack_seconds = ack_seconds
        self.records: OrderedDict[str, EventRecord] = OrderedDict()
        self._remembered_bytes = 0
        self._history_max = history_max
        self._connections = connections
        self._callbacks = callbacks
        self._clock = clock
        self._entropy = entropy
        self._numbers = itertools.count(1)
        self._waiting: dict[str, _Waiting] = {}
        self._late: OrderedDict[str, _Waiting] = OrderedDict()
        self._to_follow, self._followed = trio.open_memory_channel[Callable[[], Awaitable[None]]](FOLLOWED_MAX)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow every submitted event until it is delivered or given up. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for follow_up in self._followed:
                nursery.start_soon(follow_up)

    def submit(self, record: EventRecord) -> EventRecord:
        """Push an event for the first time and remember it. Raises trio.WouldBlock if FOLLOWED_MAX wait for `run`."""
        self._remember(record)
        self._to_follow.send_nowait(partial(self._follow_schedule, record, self._push(record)))
        return record

    def redeliver(self, event_id: str) -> EventRecord:
        """Push an event once more now, under the same id. Its schedule goes on unchanged.

        Raises LookupError for an event that is not remembered.
        """
        record = self.records.get(event_id)
        if record is None:
            raise LookupError(f"event {event_id} is not remembered")
        self._to_follow.send_nowait(partial(self._wait_for_ack, self._push(record)))
        return record

    def acknowledge(self, connection: SocketConnection, ack: Frame) -> None:
        """Take a data frame that a client sent: the acknowledgement of a push. Any other data frame is ignored."""
        transport_id = (ack.header(b"message_id") or b"").decode(errors="replace")
        waiting = self._waiting.get(transport_id) or self._late.get(transport_id)
        if waiting is None or waiting.connection is not connection:
            return
        push = waiting.push
        judgement = judge(ack, waiting.frames)
        if not judgement.accepted:
            push.complaint = judgement.reason
        elif transport_id in self._waiting:
            push.ack_code = judgement.code
            self._decide(waiting, "delivered" if judgement.code == EVENT_OK else "refused")
        else:
            push.late = True
        push.ack_payload = (ack.payload or b"")[:ANSWER_SHOWN_MAX].decode(errors="replace")
        push.biz_rt = (ack.header(b"biz_rt") or b"").decode(errors="replace")
        waiting.record.touch()

    def connection_lost(self, connection: SocketConnection) -> None:
        """Mark the waiting pushes of an ended connection as lost: no acknowledgement of them can come any more."""
        for waiting in [one for one in self._waiting.values() if one.connection is connection]:
            self._decide(waiting, "lost")

    # -- one event

    async def _follow_schedule(self, record: EventRecord, waiting: _Waiting | None) -> None:
        for delay in REDELIVERY_SECONDS:
            due = self._clock.now() + delay * self.redelivery_scale
            await self._wait_for_ack(waiting)
            with trio.move_on_at(due):
                await record.until(lambda record: record.state == "delivered")
                return
            waiting = self._push(record)
        await self._wait_for_ack(waiting)
        if record.state != "delivered":
            record.state = "given_up"
            record.touch()

    async def _wait_for_ack(self, waiting: _Waiting | None) -> None:
        if waiting is None:
            return
        with trio.move_on_after(self.ack_seconds):
            await waiting.decided.wait()
        if not waiting.decided.is_set():
            self._decide(waiting, "timeout")

    def _push(self, record: EventRecord) -> _Waiting | None:
        push = Push(attempt=len(record.pushes) + 1, at=self._clock.wall_ms())
        record.pushes.append(push)
        if self._callbacks.takes(record.app_id):
            waiting = _Waiting(record, push, None, [], self._clock.now())
            self._to_follow.send_nowait(partial(self._post, waiting))
            record.touch()
            return waiting
        live = self._connections.live(record.app_id)
        if not live:
            push.outcome = "no_connection"
            record.touch()
            return None
        waiting = self._send(record, push, self._entropy.choice(live))
        record.touch()
        return waiting

    async def _post(self, waiting: _Waiting) -> None:
        push = waiting.push
        with trio.move_on_after(self.ack_seconds):
            try:
                reply = await self._callbacks.push(waiting.record.app_id, waiting.record.payload)
            except Unreachable as error:
                push.complaint = str(error)
                self._decide(waiting, "unreachable")
                return
            push.ack_code = reply.status
            push.ack_payload = reply.body[:ANSWER_SHOWN_MAX].decode(errors="replace")
            self._decide(waiting, "delivered" if reply.status == EVENT_OK else "refused")

    def _send(self, record: EventRecord, push: Push, connection: SocketConnection) -> _Waiting:
        push.connection_id = connection.connection_id
        push.transport_id = derive("", "transport", str(next(self._numbers)), connection.instance_id)
        frames = cut(
            record.payload,
            chunks=record.plan.chunks,
            service=connection.service_id,
            message_id=push.transport_id,
            instance_id=connection.instance_id,
            now_ms=push.at,
            entropy=self._entropy,
        )
        waiting = _Waiting(record, push, connection, frames, self._clock.now())
        self._waiting[push.transport_id] = waiting
        order: Sequence[int] = record.plan.order if record.plan.order is not None else range(len(frames))
        # A payload with fewer bytes than the wanted parts is cut into fewer parts.
        messages = [Bytes(encode(frames[seq])) for seq in order if seq < len(frames)]
        if not all(connection.queue(message) for message in messages):
            self._decide(waiting, "lost")
        return waiting

    def _decide(self, waiting: _Waiting, outcome: str) -> None:
        push = waiting.push
        if waiting.decided.is_set():
            return
        push.outcome = outcome
        push.latency_ms = round((self._clock.now() - waiting.queued_at) * 1000, 3)
        if outcome == "delivered":
            waiting.record.state = "delivered"
        self._waiting.pop(push.transport_id, None)
        if outcome == "timeout" and waiting.connection is not None:
            self._late[push.transport_id] = waiting
            while len(self._late) > 1000:
                self._late.popitem(last=False)
        waiting.decided.set()
        waiting.record.touch()

    def _remember(self, record: EventRecord) -> None:
        self.records[record.event_id] = record
        self._remembered_bytes += len(record.payload)
        while len(self.records) > self._history_max or self._remembered_bytes > REMEMBERED_BYTES_MAX:
            _, forgotten = self.records.popitem(last=False)
            self._remembered_bytes -= len(forgotten.payload)
