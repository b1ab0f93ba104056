"""Control calls to push events, push them again, and read what became of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
import trio

from gateway.simulator.control.calls import LISTED_MAX, Body, Calls, read, seconds, unbase64
from gateway.simulator.delivery import EventRecord
from gateway.simulator.exchange import Request
from gateway.simulator.simulator import Simulator


class NewEvent(Body):
    """An event to push: `event_type` and `event`, which get an envelope, or the whole payload as text or base64."""

    app: str
    event_type: str = ""
    event: dict[str, Any] = msgspec.field(default_factory=dict)
    payload: str | None = None
    payload_base64: str | None = None
    chunks: int = 1
    order: list[int] | None = None
    event_id: str = ""
    wait_seconds: float = 0.0


def calls(simulator: Simulator) -> Calls:
    events = Events(simulator)
    return [
        ("GET", "events", events.list_events),
        ("POST", "events", events.push_event),
        ("GET", "events/{event}", events.read_event),
        ("POST", "events/{event}/redeliver", events.redeliver),
    ]


class Events:
    """Has one method for each call."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._platform = simulator.platform

    async def list_events(self, request: Request) -> object:
        app_id = request.argument("app")
        records = [one for one in self._simulator.delivery.records.values() if app_id in ("", one.app_id)]
        return [shown_event(record) for record in records[-LISTED_MAX:]]

    async def push_event(self, request: Request) -> object:
        new = read(request, NewEvent)
        app = self._platform.app(new.app)
        payload = new.payload.encode() if new.payload is not None else None
        if new.payload_base64 is not None:
            payload = unbase64(new.payload_base64)
        if payload is not None:
            record = self._simulator.push_payload(app, payload, chunks=new.chunks, order=new.order)
        else:
            record = self._simulator.push_event(
                app, new.event_type, new.event, chunks=new.chunks, event_id=new.event_id
            )
        return await self._settled(record, new.wait_seconds)

    async def read_event(self, request: Request) -> object:
        record = self._simulator.event(request.params["event"])
        return await self._settled(record, seconds(request.argument("wait_seconds", "0")))

    async def redeliver(self, request: Request) -> object:
        """Push once more and wait for the outcome of that push."""
        record = self._simulator.redeliver(request.params["event"])
        with trio.move_on_after(seconds(request.argument("wait_seconds", "0"))):
            await record.answered(len(record.pushes))
        return shown_event(record)

    async def _settled(self, record: EventRecord, wait_seconds: float) -> dict[str, Any]:
        with trio.move_on_after(seconds(wait_seconds)):
            await record.settled()
        return shown_event(record)


def shown_event(record: EventRecord) -> dict[str, Any]:
    return {
        "event_id": record.event_id,
        "app_id": record.app_id,
        "event_type": record.event_type,
        "message_id": record.message_id,
        "state": record.state,
        "pushes": [asdict(push) for push in record.pushes],
    }
