"""The smallest agent there is: it reads a task as JSON on stdin and says back what it was told.

gateway agent run --server URL -- python -m gateway.simulator.echo_agent
"""

from __future__ import annotations

import os
import sys

import msgspec


def reply(task: bytes) -> str:
    """The answer to one task, with the process id, so that a reader can see that another process gave it."""
    prompt = msgspec.json.decode(task)["prompt"]
    return f"echo from process {os.getpid()}: {prompt}"


if __name__ == "__main__":
    sys.stdout.write(reply(sys.stdin.buffer.read()))
