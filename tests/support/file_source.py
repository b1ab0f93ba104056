"""A platform of files that does what a test tells it to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio

from gateway.core.attachments import FetchProblem
from gateway.work.tasks.attachments import FetchFailed, FileSink, StoredAttachment


@dataclass
class File:
    """`announced` is the length its platform promises, `gate` what the second half of it waits for."""

    body: bytes = b""
    content_type: str = ""
    disposition: str = ""
    announced: int | None = None
    gate: trio.Event | None = None
    failures: list[Exception] = field(default_factory=list)


@dataclass
class FakeFiles:
    """Implements gateway.work.tasks.attachments.FileSource; files by the platform's key."""

    files: dict[str, File] = field(default_factory=dict)
    downloads: Counter[str] = field(default_factory=Counter)
    started: trio.Event = field(default_factory=trio.Event)
    going: int = 0
    going_most: int = 0

    async def download(self, wanted: StoredAttachment, sink: FileSink) -> None:
        self.downloads[wanted.channel_key] += 1
        self.going += 1
        self.going_most = max(self.going_most, self.going)
        try:
            await self._download(self.files[wanted.channel_key], sink)
        finally:
            self.going -= 1

    async def _download(self, file: File, sink: FileSink) -> None:
        await trio.lowlevel.checkpoint()
        if file.failures:
            self.started.set()
            if file.gate is not None:
                await file.gate.wait()
            raise file.failures.pop(0)
        sink.begin(content_type=file.content_type, disposition=file.disposition, length=file.announced)
        middle = len(file.body) // 2
        await sink.write(file.body[:middle])
        self.started.set()
        if file.gate is not None:
            await file.gate.wait()
        await sink.write(file.body[middle:])


def unavailable(*, retry_after: float = 0.0) -> FetchFailed:
    return FetchFailed(FetchProblem.UNAVAILABLE, "not now", transient=True, retry_after=retry_after)


def gone() -> FetchFailed:
    return FetchFailed(FetchProblem.NOT_AVAILABLE, "recalled")
