"""The smallest agent there is: it reads a task as JSON on stdin and says back what it was told.

gateway agent run --server URL -- python -m gateway.simulator.echo_agent
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

_BLOCKS = re.compile(r"<(recent_context|quoted_message|forwarded_messages)\b[^>]*>.*?</\1>\s*", re.DOTALL)


def reply(task: bytes) -> str:
    """The answer to one task, with the process id, so that a reader can see that another process gave it.

    What others said stands in blocks before the sender's words; to repeat it would be to quote everybody to everybody.
    """
    fields = msgspec.json.decode(task)
    prompt = _BLOCKS.sub("", fields["prompt"])
    files = (file for message in fields.get("messages", ()) for file in message["attachments"] if file.get("path"))
    return f"echo from process {os.getpid()}: {prompt}" + "".join(map(_seen, files))


def _seen(file: dict[str, Any]) -> str:
    return f" ({file['kind']} of {Path(file['path']).stat().st_size} bytes)"


if __name__ == "__main__":
    sys.stdout.write(reply(sys.stdin.buffer.read()))
