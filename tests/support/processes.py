"""The daemon and agents as processes, for tests that kill them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

CRASHING = Path(__file__).with_name("crashing.py")
READY_SECONDS = 40


def free_address() -> str:
    """A loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class GatewayProcess:
    """One `gateway` process: its JSON lines so far, and how to end it."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.lines: list[dict[str, Any]] = []
        self._ready = trio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def url(self) -> str:
        return str(self.ready["http"])

    @property
    def ready(self) -> dict[str, Any]:
        return next(line for line in self.lines if line.get("event") == "ready")

    async def read_output(self) -> None:
        assert self._process.stdout is not None
        buffer = b""
        async for data in self._process.stdout:
            buffer += data
            *whole, buffer = buffer.split(b"\n")
            for line in whole:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if isinstance(entry, dict):
            self.lines.append(entry)
            if entry.get("event") == "ready":
                self._ready.set()

    async def wait_ready(self) -> None:
        async def fail_on_exit() -> None:
            code = await self._process.wait()
            raise AssertionError(f"the process ended with {code} before it was ready:\n{self.log[-4000:]}")

        with trio.fail_after(READY_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_on_exit)
                await self._ready.wait()
                nursery.cancel_scope.cancel()

    async def wait(self, seconds: float = 30) -> int:
        with trio.fail_after(seconds):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it as a crash does: SIGKILL, no goodbye."""
        self._process.send_signal(signal.SIGKILL)
        await self.wait()

    async def terminate(self, seconds: float = 30) -> int:
        self._process.send_signal(signal.SIGTERM)
        return await self.wait(seconds)


@asynccontextmanager
async def open_gateway(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    crash_at: tuple[str, int] | None = None,
    wait_ready: bool = True,
    launcher: Sequence[str] = (),
) -> AsyncIterator[GatewayProcess]:
    """Run `gateway ARGUMENTS`, killed on the way out if it still runs; `crash_at` is a named point and which visit.

    `launcher` is a command that becomes the one that follows it.
    """
    start = [str(CRASHING), crash_at[0], str(crash_at[1])] if crash_at else ["-m", "gateway"]
    with log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            [*launcher, sys.executable, *start, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "XDG_STATE_HOME": str(log.parent.absolute() / "xdg-state"),
                **environment,
            },
        )
    gateway = GatewayProcess(process, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.read_output)
        try:
            if wait_ready:
                await gateway.wait_ready()
            yield gateway
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
            nursery.cancel_scope.cancel()
