"""The smallest agent there is: it reads a task as JSON on stdin and says back what it was told.

gateway agent run --server URL -- python -m gateway.simulator.echo_agent
"""

from __future__ import annotations

import os
import re
import sys

import msgspec

_BLOCKS = re.compile(r"<(recent_context|quoted_message|forwarded_messages)\b[^>]*>.*?</\1>\s*", re.DOTALL)


def reply(task: bytes) -> str:
    """The answer to one task, with the process id, so that a reader can see that another process gave it.

    What others said stands in blocks before the sender's words; to repeat it would be to quote everybody to everybody.
    """
    prompt = _BLOCKS.sub("", msgspec.json.decode(task)["prompt"])
    return f"echo from process {os.getpid()}: {prompt}"


if __name__ == "__main__":
    sys.stdout.write(reply(sys.stdin.buffer.read()))
