"""The smallest agent: it reads a task as JSON from stdin and repeats the words of its sender.

gateway agent run --server URL -- python -m gateway.simulator.echo_agent
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

_BLOCK = re.compile(r"<(recent_context|quoted_message|forwarded_messages)\b[^<>]*>")


def reply(task: bytes) -> str:
    """Return the answer to one task. It names the process id, so that a reader can see which process gave it.

    The words of others stand in blocks before the sender's own words. They are left out of the answer.
    """
    fields = msgspec.json.decode(task)
    prompt = _own_words(fields["prompt"])
    files = (file for message in fields.get("messages", ()) for file in message["attachments"] if file.get("path"))
    return f"echo from process {os.getpid()}: {prompt}" + "".join(map(_seen, files))


def _own_words(prompt: str) -> str:
    """Return the prompt without the blocks and without the white space after each of them."""
    kept: list[str] = []
    unclosed: set[str] = set()
    at = 0
    for opening in _BLOCK.finditer(prompt):
        name = opening[1]
        if opening.start() < at or name in unclosed:
            continue
        closing = f"</{name}>"
        end = prompt.find(closing, opening.end())
        if end < 0:
            unclosed.add(name)  # no later block of this name is closed either, and searching again would take long
            continue
        kept.append(prompt[at : opening.start()])
        at = end + len(closing)
        while at < len(prompt) and prompt[at].isspace():
            at += 1
    return "".join([*kept, prompt[at:]])


def _seen(file: dict[str, Any]) -> str:
    return f" ({file['kind']} of {Path(file['path']).stat().st_size} bytes)"


if __name__ == "__main__":
    sys.stdout.write(reply(sys.stdin.buffer.read()))
