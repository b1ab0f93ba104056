"""Ends the programs of an `agent run` that was killed: a process beside it, which lives for that moment.

The kernel can be asked to end a child with its parent (PR_SET_PDEATHSIG), but it takes the thread that forked for the
parent, and trio forks in threads that end when they have been idle for a while. It would also reach the program alone,
and not what that has started. The guard ends whole process groups, and needs nothing of Linux.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_GROUP = 8
"""Bytes of one entry on the line: a process group, negative when it is over."""
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Guard:
    """The worker's end of the line. The guard acts when the last copy of it is closed, as a death does."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def enlist(self) -> None:
        """Put the caller's process group under guard: for a child, between fork and exec.

        Its copy of the line closes with the exec, so the guard knows of it before it can see the worker's death.
        """
        self._send(os.getpid())

    def dismiss(self, group: int) -> None:
        """Nothing of the group is left: its number may be somebody else's soon."""
        self._send(-group)

    def _send(self, entry: int) -> None:
        # A guard that was killed guards nobody; that is no reason not to work.
        with suppress(OSError):
            self._line.send(entry.to_bytes(_GROUP, "big", signed=True), _NO_SIGNAL)


@contextmanager
def guard_programs() -> Iterator[Guard]:
    """Guard process groups until the block ends, or this process does, however.

    It forks, so it is for a process that has no other thread yet.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _stand_guard(theirs)
    theirs.close()
    ours.setblocking(False)
    with ours:
        yield Guard(ours)


def _stand_guard(line: socket.socket) -> None:
    """Never returns. What is meant for the worker (Ctrl-C, a signal to its whole service) does not end it before."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        # Whatever else the worker had open is none of ours: a lock would outlive it.
        os.closerange(3, line.fileno())
        os.closerange(line.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        for group in _left(line):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def _left(line: socket.socket) -> set[int]:
    """The groups that were under guard when the line closed."""
    groups: set[int] = set()
    while entry := line.recv(_GROUP, socket.MSG_WAITALL):
        group = int.from_bytes(entry, "big", signed=True)
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    return groups
