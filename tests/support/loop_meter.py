"""How long the tasks of a run hold its loop, and a client that shares no loop with them."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

ANSWER_SECONDS = 10


class LoopMeter(trio.abc.Instrument):
    """The longest step between two checkpoints, in seconds of this thread's own processor time."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.task = ""
        self._started = 0.0

    def reset(self) -> None:
        self.worst, self.task = 0.0, ""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self._started = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        spent = time.thread_time() - self._started
        if spent > self.worst:
            self.worst, self.task = spent, task.name


@dataclass(frozen=True)
class Posting:
    """A request, byte by byte. `headers` has whole lines; `chunk_bytes` None sends the body's length before it."""

    method: str
    target: str
    headers: tuple[bytes, ...] = ()
    body: bytes = b""
    chunk_bytes: int | None = None

    @property
    def summary(self) -> str:
        """The request, cut to what tells it from others."""
        head = b" ".join(line[:40] for line in self.headers).decode(errors="replace")
        return f"{self.method} {self.target[:80]} ({head}) {self.body[:20]!r} {len(self.body)} {self.chunk_bytes}"

    def data(self, *more_headers: bytes) -> bytes:
        """What goes over the wire; headers that the request has itself count before `more_headers`."""
        lines = [f"{self.method} {self.target} HTTP/1.1".encode(), *self.headers]
        own = {line.partition(b":")[0] for line in self.headers}
        for line in (b"Connection: close", b"Host: gateway.example", *more_headers):
            if line.partition(b":")[0] not in own:
                lines.append(line)
        if self.chunk_bytes is None:
            lines.append(b"Content-Length: %d" % len(self.body))
            return b"\r\n".join(lines) + b"\r\n\r\n" + self.body
        lines.append(b"Transfer-Encoding: chunked")
        pieces = [self.body[at : at + self.chunk_bytes] for at in range(0, len(self.body), self.chunk_bytes)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return b"\r\n".join(lines) + b"\r\n\r\n" + chunks + b"0\r\n\r\n"


def ask(url: str, data: bytes) -> bytes:
    """Send bytes and read until the server is done (for use in a thread); empty when it answers nothing."""
    parts = urlsplit(url)
    received = b""
    with suppress(ConnectionError, TimeoutError), socket.create_connection((parts.hostname, parts.port), 5) as client:
        client.settimeout(ANSWER_SECONDS)
        with suppress(ConnectionError):
            client.sendall(data)
        while piece := client.recv(65_536):
            received += piece
            if b"text/event-stream" in received:
                break
    return received
