"""Run `gateway …` and kill the process, as kill -9 would, the n-th time it reaches a named point.

usage: python crashing.py POINT COUNT ARGUMENTS…

`raise:POINT` raises there instead, which stands for a bug that one message meets. SHORT_MINUTE_SECONDS in the
environment is what counts as a minute of webhooks, for tests that cannot wait for one.
"""

from __future__ import annotations

import os
import signal
import sys

from gateway import rate_limit
from gateway.cli import main
from gateway.concurrency import watch_points

point, remaining = sys.argv[1].removeprefix("raise:"), int(sys.argv[2])
raises = sys.argv[1].startswith("raise:")


def watcher(name: str) -> None:
    global remaining
    if name == point:
        remaining -= 1
        if remaining == 0 and raises:
            raise ZeroDivisionError("a bug that one message meets")
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)


watch_points(watcher)
rate_limit.MINUTE_SECONDS = int(os.environ.get("SHORT_MINUTE_SECONDS", rate_limit.MINUTE_SECONDS))
sys.argv = ["gateway", *sys.argv[3:]]
main()
