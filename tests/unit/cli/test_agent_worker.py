"""A worker against a server that hands out whatever it likes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
import structlog
import trio

from gateway.cli.agent_privacy import Secrets
from gateway.cli.agent_process import Finished
from gateway.cli.agent_server import Claimed, ClaimedTask, OwnRuntime, Rejected, Server, TaskHead
from gateway.cli.agent_worker import Programs, Terms, Worker

TASK, UNKNOWN = UUID(int=7), UUID(int=8)


def claim(attempt: int, task: UUID = TASK) -> ClaimedTask:
    head = TaskHead(task, attempt, datetime(2026, 1, 1, tzinfo=UTC))
    return ClaimedTask(head, msgspec.json.encode({"id": str(task), "attempt": attempt, "messages": []}), 1_000.0)


@dataclass
class WorkerServer:
    """A server and the programs of its worker: what happens is in `told`, in order."""

    told: list[str] = field(default_factory=list)
    stop: list[Claimed] = field(default_factory=list)
    over: set[int] = field(default_factory=set)
    go_on: dict[int, trio.Event] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=lambda: Secrets("gwr_not-a-real-token"))

    def __post_init__(self) -> None:
        self.hand_out, self.claims = trio.open_memory_channel[ClaimedTask](16)

    async def register(self, description: dict[str, Any]) -> OwnRuntime:
        assert (description["instance"], description["tasks"]) == ("me", [])
        return OwnRuntime(UUID(int=1), "machine")

    async def heartbeat(self, _runtime_id: UUID, tasks: Sequence[Claimed]) -> list[Claimed]:
        await trio.sleep(0.1)
        return self.stop

    async def claim(self, _runtime_id: UUID, instance: str, _wait_seconds: float) -> ClaimedTask:
        assert instance == "me"
        return await self.claims.receive()

    async def report(self, claimed: Claimed, action: str, **fields: object) -> str:
        await trio.sleep(0.1)
        self.told.append(f"{action} {claimed.attempt}")
        if claimed.attempt in self.over:
            raise Rejected(409, {"error": "it is over", "code": "attempt_over"})
        return "ok"

    async def download(self, _claimed: Claimed, _n: int, _path: object) -> bool:
        return False

    async def run(self, stdin: bytes, stderr_tail: bytearray) -> Finished:
        attempt = msgspec.json.decode(stdin)["attempt"]
        self.told.append(f"begin {attempt}")
        try:
            await self.go_on.setdefault(attempt, trio.Event()).wait()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            self.told.append(f"end {attempt}")
        return Finished(0, b"done", b"")


async def no_signals() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[WorkerServer]:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock), "ask for autojump_clock in the test"
    server = WorkerServer()
    worker = Worker(cast(Server, server), cast(Programs, server), Terms(["x"], "me", 4, 20.0))
    nursery.start_soon(worker.run, no_signals())
    with trio.fail_after(3_600):
        yield server


async def test_new_attempt_waits_for_the_end_of_the_old_one(
    autojump_clock: trio.testing.MockClock, server: WorkerServer
) -> None:
    server.go_on[4] = trio.Event()
    server.go_on[4].set()
    # The third is over before the second has ended, and never begins.
    for attempt, pause in ((1, 5), (2, 5), (3, 1), (4, 60)):
        await server.hand_out.send(claim(attempt))
        await trio.sleep(pause)
    assert [line for line in server.told if line.startswith(("begin", "end"))] == [
        *("begin 1", "end 1", "begin 2", "end 2", "begin 4", "end 4"),
    ]
    # What was lost is told to nobody.
    assert [line for line in server.told if line.startswith(("complete", "fail"))] == ["complete 4"]


async def test_claim_that_comes_twice_is_run_once(autojump_clock: trio.testing.MockClock, server: WorkerServer) -> None:
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await server.hand_out.send(claim(1))
            await trio.sleep(5)
    assert server.told == ["start 1", "begin 1"]
    assert [entry["event"] for entry in logs].count("task_handed_out_twice") == 2
    # Their slots are free again.
    for number in range(10, 13):
        await server.hand_out.send(claim(1, UUID(int=number)))
    await trio.sleep(5)
    assert server.told.count("begin 1") == 4


async def test_heartbeat_that_stops_what_is_not_there_stops_nothing(
    autojump_clock: trio.testing.MockClock, server: WorkerServer
) -> None:
    server.stop = [Claimed(UNKNOWN, 1), Claimed(TASK, 1), Claimed(TASK, 3)]
    await server.hand_out.send(claim(2))
    await trio.sleep(60)
    assert server.told == ["start 2", "begin 2"]
    server.stop = [Claimed(TASK, 2), Claimed(TASK, 2)]
    await trio.sleep(60)
    assert server.told == ["start 2", "begin 2", "end 2"]


async def test_attempt_that_is_over_when_it_starts_is_given_up_without_a_program(
    autojump_clock: trio.testing.MockClock, server: WorkerServer
) -> None:
    server.over.add(1)
    await server.hand_out.send(claim(1))
    await trio.sleep(60)
    assert server.told == ["start 1"]


async def test_older_attempt_that_is_handed_out_later_is_what_the_server_wants_now(
    autojump_clock: trio.testing.MockClock, server: WorkerServer
) -> None:
    """A database that was put back has older numbers."""
    for attempt in (5, 2):
        await server.hand_out.send(claim(attempt))
        await trio.sleep(10)
    assert [line for line in server.told if line.startswith(("begin", "end"))] == ["begin 5", "end 5", "begin 2"]
