"""Control calls to plan failures, and to read the log of calls."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from gateway.simulator.control.calls import LISTED_MAX, Body, Calls, read
from gateway.simulator.exchange import Request
from gateway.simulator.simulator import Simulator


class PlannedCall(Body):
    path: str
    times: int = 1
    method: str = ""
    status: int = 0
    code: int = 0
    msg: str = "simulated failure"
    body: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    hang_seconds: float = 0.0
    lose_answer: bool = False
    reset: bool = False


class PlannedHandshake(Body):
    times: int = 1
    http_status: int = 403
    status: str = "403"
    msg: str = "simulated refusal"
    autherrcode: str = ""
    hang_seconds: float = 0.0
    app: str = ""


class PlannedPush(Body):
    how: str = ""
    times: int = 1
    age_seconds: float = 0.0
    app: str = ""


def calls(simulator: Simulator) -> Calls:
    failures = Failures(simulator)
    return [
        ("GET", "faults", failures.list_faults),
        ("POST", "faults", failures.plan_call),
        ("POST", "handshake-faults", failures.plan_handshake),
        ("POST", "push-faults", failures.plan_push),
        ("DELETE", "faults", failures.clear_faults),
        ("GET", "calls", failures.list_calls),
        ("DELETE", "calls", failures.clear_calls),
    ]


class Failures:
    """Has one method for each call."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._platform = simulator.platform

    async def list_faults(self, _request: Request) -> object:
        faults = self._simulator.faults
        return {
            "calls": [asdict(one) for one in faults.calls],
            "handshakes": [asdict(one) for one in faults.handshakes],
            "pushes": [asdict(one) for one in faults.pushes],
        }

    async def plan_call(self, request: Request) -> object:
        planned = msgspec.structs.asdict(read(request, PlannedCall))
        planned["headers"] = tuple(planned["headers"].items())
        return asdict(self._simulator.fail_next(planned.pop("path"), planned.pop("times"), **planned))

    async def plan_handshake(self, request: Request) -> object:
        planned = msgspec.structs.asdict(read(request, PlannedHandshake))
        handle = planned.pop("app")
        planned["app_id"] = self._platform.app(handle).app_id if handle else ""
        return asdict(self._simulator.reject_handshakes(planned.pop("times"), **planned))

    async def plan_push(self, request: Request) -> object:
        planned = msgspec.structs.asdict(read(request, PlannedPush))
        handle = planned.pop("app")
        planned["app_id"] = self._platform.app(handle).app_id if handle else ""
        return asdict(self._simulator.spoil_pushes(planned.pop("how"), planned.pop("times"), **planned))

    async def clear_faults(self, request: Request) -> object:
        self._simulator.faults.clear()
        return await self.list_faults(request)

    async def list_calls(self, request: Request) -> object:
        app_id = request.argument("app")
        calls = [asdict(call) for call in self._simulator.calls if app_id in ("", call.app_id)]
        return {"counts": self._simulator.call_counts, "calls": calls[-LISTED_MAX:]}

    async def clear_calls(self, _request: Request) -> object:
        self._simulator.calls.clear()
        self._simulator.call_counts.clear()
        return {}
