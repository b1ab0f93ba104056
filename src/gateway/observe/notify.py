"""Notifications to systemd (sd_notify): datagrams to the socket that `NOTIFY_SOCKET` names."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog
import trio

logger = structlog.get_logger(__name__)

MICROSECONDS = 1_000_000


class Notifier:
    """Sends notifications to the service manager. Without one (`NOTIFY_SOCKET` unset) every call does nothing.

    A call never blocks and never raises, so a manager that is gone does not stop the service.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environ)
        """The silence after which the manager kills this process; None when it does not watch."""

    def ready(self, status: str = "") -> None:
        """Tell the manager that the service takes traffic from now on."""
        self._send("READY=1", *_status(status))

    def stopping(self, status: str = "") -> None:
        """Tell the manager that a planned end has begun."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Send one sign of life. `run_watchdog` does so in time."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            logger.warning("service_manager_unreachable", error=str(error))


async def run_watchdog(notifier: Notifier, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Send a sign of life twice per watchdog period until cancelled. Returns at once when the manager does not watch.

    It runs on the event loop on purpose: a loop that is stuck sends nothing, and the watchdog exists to detect that.
    """
    task_status.started()
    if notifier.watchdog_seconds is None:
        return
    while True:
        notifier.watchdog()
        await trio.sleep(notifier.watchdog_seconds / 2)


def _address(text: str) -> str | None:
    # "@name" is a socket in the abstract namespace, which the kernel writes with a leading NUL.
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    period = environ.get("WATCHDOG_USEC", "")
    owner = environ.get("WATCHDOG_PID", "")
    meant_for_us = not owner or owner == str(os.getpid())
    return int(period) / MICROSECONDS if period.isdigit() and int(period) and meant_for_us else None


def _status(text: str) -> list[str]:
    # One assignment is one line. A line break in the text would begin another assignment.
    return [f"STATUS={' '.join(text.split())}"] if text else []
