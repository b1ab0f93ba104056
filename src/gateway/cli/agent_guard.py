"""Ends the programs of an `agent run` that was killed. The guard is a process beside the worker, only for this purpose.

The kernel can end a child with its parent (PR_SET_PDEATHSIG). But it takes the forking thread for the parent, and trio
forks in threads that end after some idle time. It would also end the program alone, and not the processes that the
program has started. The guard ends whole process groups, and needs nothing that only Linux has.

A process can leave its group by starting a session. So every program also carries a mark in its environment, which its
descendants inherit. Where Linux shows the environments of processes, those with the mark are ended too. A process that
was started with an environment of its own cannot be found that way.

Worker and guard share a socket pair, the line. The guard acts when the worker's end of it closes.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

MARK_VARIABLE = "AGENT_RUN_MARK"
_PASSES_MAX = 20
"""Searches for marked processes. One that forks during a search may be missed by it, and is found by the next."""

_GROUP = 8
"""Bytes of one entry on the line: the id of a process group; negative when that group has ended."""
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Guard:
    """The worker's end of the line. The guard acts when its last copy is closed, which the worker's death does too."""

    def __init__(self, line: socket.socket, mark: str) -> None:
        """`mark` begins the marks of all programs of this worker."""
        self._line = line
        self._mark = mark
        self._numbers = count(1)

    def next_mark(self) -> str:
        """Return the mark for one more program. None is the beginning of another one."""
        return f"{self._mark}{next(self._numbers)}."

    def enlist(self) -> None:
        """Put the calling process's group under guard. It is called in a child, between fork and exec.

        The child holds a copy of the line until its exec. So the guard reads this entry before it can see the line
        close, even if the worker dies meanwhile.
        """
        self._send(os.getpid())

    def dismiss(self, group: int) -> None:
        """Tell the guard that the group has ended.

        The kernel may give its id to another group soon, which the guard must not kill.
        """
        self._send(-group)

    def _send(self, entry: int) -> None:
        # A guard that was killed protects nothing. The worker goes on without it.
        with suppress(OSError):
            self._line.send(entry.to_bytes(_GROUP, "big", signed=True), _NO_SIGNAL)


@contextmanager
def guard_programs() -> Iterator[Guard]:
    """Guard process groups until the block ends or this process ends, in whatever way.

    It forks, so the process must have no other thread yet.
    """
    ours, theirs = socket.socketpair()
    mark = f"{secrets.token_hex(16)}."
    if os.fork() == 0:
        ours.close()
        _stand_guard(theirs, mark)
    theirs.close()
    ours.setblocking(False)
    with ours:
        yield Guard(ours, mark)


def end_marked(mark: str) -> None:
    """Kill every process of this user whose mark begins with `mark`. Does nothing where processes cannot be searched.

    It blocks for some milliseconds.
    """
    for _ in range(_PASSES_MAX):
        if not sum(_end_if_marked(process_id, mark) for process_id in _process_ids()):
            return


def _process_ids() -> list[int]:
    try:
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    except OSError:
        return []


def _end_if_marked(process_id: int, mark: str) -> bool:
    """Kill the process if it carries the mark. A descriptor names it, so a reused id cannot reach a stranger."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    try:
        held = os.pidfd_open(process_id)
    except (AttributeError, OSError):
        return False
    try:
        variables = Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
        if not any(variable.startswith(wanted) for variable in variables):
            return False
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:  # It has ended, or it is another user's.
        return False
    finally:
        os.close(held)
    return True


def _stand_guard(line: socket.socket, mark: str) -> None:
    """Be the guard, in the forked process. Never returns.

    Signals meant for the worker (Ctrl-C, a signal to its whole service) must not end the guard before the worker.
    """
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        # Close the copies of everything else that the worker had open. A lock among them would outlive the worker.
        os.closerange(3, line.fileno())
        os.closerange(line.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        for group in _left(line):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        end_marked(mark)
    finally:
        os._exit(0)


def _left(line: socket.socket) -> set[int]:
    """Read entries until the line closes, and return the groups that were under guard then."""
    groups: set[int] = set()
    while entry := line.recv(_GROUP, socket.MSG_WAITALL):
        group = int.from_bytes(entry, "big", signed=True)
        if group > 0:
            groups.add(group)
        else:
            groups.discard(-group)
    return groups
