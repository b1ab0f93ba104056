"""What systemd is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.observe.notify import Notifier, run_watchdog


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET's value, and the service manager's end of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        if request.param == "path":
            name = str(tmp_path / "notify")
            end.bind(name)
        else:
            name = f"@gateway-test-{os.getpid()}-{id(end)}"
            end.bind("\0" + name[1:])
        end.setblocking(False)
        yield name, end


def test_notifier_says_ready_status_and_stopping(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("serving\nhttp://127.0.0.1:1")
    notifier.status("3 bots live")
    notifier.stopping()
    notifier.watchdog()
    assert [end.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=serving http://127.0.0.1:1",
        b"STATUS=3 bots live",
        b"STOPPING=1",
        b"WATCHDOG=1",
    ]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_notifier_without_a_usable_socket_does_nothing(environ: dict[str, str]) -> None:
    Notifier(environ).ready("x")


def test_notifier_survives_a_manager_that_went_away(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_watchdog_period_is_read_when_meant_for_us(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds


class Recorder(Notifier):
    def __init__(self) -> None:
        super().__init__({"WATCHDOG_USEC": "10000000"})
        self.signs: list[float] = []

    def watchdog(self) -> None:
        self.signs.append(trio.current_time())


async def test_watchdog_signs_come_twice_per_period(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    start = trio.current_time()
    with trio.move_on_after(12):
        await run_watchdog(recorder)
    assert [sign - start for sign in recorder.signs] == [0, 5, 10]


async def test_watchdog_nobody_asked_for_ends_at_once() -> None:
    with trio.fail_after(5):
        await run_watchdog(Notifier({}))
