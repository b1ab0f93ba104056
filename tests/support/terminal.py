"""Command lines run in this process, for tests that look at what is printed and at the exit code."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from gateway.cli import run


class Terminal:
    """Runs `gateway …` in a thread, because commands start a trio of their own. `out` and `err` are the last one's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = ""
        self.err = ""

    async def run(self, *arguments: str, stdin: str = "") -> int:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = await trio.to_thread.run_sync(run, list(arguments))
        self.out, self.err = self._capsys.readouterr()
        return code

    async def json(self, *arguments: str, stdin: str = "", code: int = 0) -> Any:
        assert await self.run(*arguments, "--json", stdin=stdin) == code, self.err
        return json.loads(self.out)


@contextmanager
def open_terminal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    database: str,
    secret_key: str,
    state_dir: Path,
) -> Iterator[Terminal]:
    """A terminal whose commands work on `database`."""
    monkeypatch.setenv("GATEWAY_DATABASE_URL", database)
    monkeypatch.setenv("GATEWAY_SECRET_KEY", secret_key)
    monkeypatch.setenv("GATEWAY_STATE_DIR", str(state_dir))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(state_dir))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Terminal(monkeypatch, capsys)
    # A command sends the logs to its own stderr, which is gone after the test.
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
