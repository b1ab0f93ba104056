"""Runs an agent program once: the task goes to its stdin, its reply comes from its stdout."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from gateway.cli.agent_guard import MARK_VARIABLE, Guard, end_marked
from gateway.concurrency import finishing

STDOUT_BYTES_MAX = 4_000_000
"""The part of a program's output that is kept. A reply is shorter, but the codes of a terminal are taken out of it."""
ENDLESS_BYTES = 64_000_000
"""A program that writes more than this is taken for one that never stops, and is ended."""
STDERR_TAIL_BYTES = 4_096
TERMINATE_SECONDS = 2.0
"""The time from SIGTERM to SIGKILL for a program that has to stop."""
STRAGGLER_SECONDS = 1.0
"""The longest time that output is read after the program's end. Its children may hold the pipes open for ever."""
_CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a program and its output.

    `returncode` is negative if a signal ended it. `stdout` is the beginning of what it wrote, `stdout_bytes` the length
    of all of it. `endless` is true if it was ended for writing on and on.
    """

    returncode: int
    stdout: bytes
    stderr_tail: bytes
    stdout_bytes: int = 0
    endless: bool = False


class _Endless(Exception):
    """The program writes on and on. It never leaves this module."""


class _Beginning:
    """Reads a pipe to its end, so that the program never blocks, and keeps the beginning. Raises _Endless."""

    def __init__(self, bytes_max: int, endless_bytes: int) -> None:
        self.kept = bytearray()
        self.bytes_read = 0
        self._bytes_max = bytes_max
        self._endless_bytes = endless_bytes

    async def read(self, pipe: trio.abc.ReceiveStream) -> None:
        while data := await pipe.receive_some(_CHUNK_BYTES):
            self.bytes_read += len(data)
            self.kept += data[: self._bytes_max - len(self.kept)]
            if self.bytes_read > self._endless_bytes:
                raise _Endless


async def run_program(
    command: Sequence[str],
    stdin: bytes,
    *,
    environment: Mapping[str, str],
    guard: Guard,
    stdout_bytes_max: int = STDOUT_BYTES_MAX,
    endless_bytes: int = ENDLESS_BYTES,
    stderr_tail: bytearray | None = None,
) -> Finished:
    """Run a program to its end.

    `stderr_tail` is filled while the program runs, for a caller that may have to cancel this.

    The program gets a process group of its own. Cancellation ends the whole group: SIGTERM, and SIGKILL after two
    seconds. No process of the group is left when this returns or raises, and none that carries the run's mark (see
    `agent_guard`). If this process is killed, `guard` ends them. Raises OSError if the program cannot be started.
    """
    mark = guard.next_mark()
    process = await trio.lowlevel.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, MARK_VARIABLE: mark},
        start_new_session=True,
        preexec_fn=guard.enlist,  # safe between fork and exec: a system call, and nothing that takes a lock
    )
    try:
        stdout = _Beginning(stdout_bytes_max, endless_bytes)
        return await _converse(process, stdin, stdout, bytearray() if stderr_tail is None else stderr_tail)
    finally:
        with finishing(TERMINATE_SECONDS + STRAGGLER_SECONDS):
            await _end(process)
            await trio.to_thread.run_sync(end_marked, mark)
            guard.dismiss(process.pid)


async def _converse(process: trio.Process, stdin: bytes, stdout: _Beginning, stderr: bytearray) -> Finished:
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 (all three were asked for)
    endless = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, process.stdin, stdin)
            nursery.start_soon(stdout.read, process.stdout)
            nursery.start_soon(_read_tail, process.stderr, stderr)
            await process.wait()
            nursery.cancel_scope.deadline = trio.current_time() + STRAGGLER_SECONDS
    except* _Endless:
        endless = True
    return Finished(process.returncode or 0, bytes(stdout.kept), bytes(stderr), stdout.bytes_read, endless)


async def _write(pipe: trio.abc.SendStream, data: bytes) -> None:
    """Write to the program's stdin and close it. A program that does not read its task is no error."""
    with suppress(trio.BrokenResourceError):
        await pipe.send_all(data)
    await pipe.aclose()


async def _read_tail(pipe: trio.abc.ReceiveStream, into: bytearray) -> None:
    while data := await pipe.receive_some(_CHUNK_BYTES):
        into += data
        del into[:-STDERR_TAIL_BYTES]


async def _end(process: trio.Process) -> None:
    """End what is left of the process group, and reap its leader.

    Until the leader is reaped its id cannot be given to another process, so the signals below cannot reach a stranger.
    """
    if process.returncode is None:
        _signal_group(process, signal.SIGTERM)
        with trio.move_on_after(TERMINATE_SECONDS):
            await process.wait()
    _signal_group(process, signal.SIGKILL)
    await process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            await pipe.aclose()


def _signal_group(process: trio.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
