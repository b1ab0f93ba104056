"""Files that people send: fetched once from their platform, kept on disk under an id of ours, fetched again on demand.

The platform keeps the file, so the disk is a cache: what is not here, on this replica or any more, is fetched again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NoReturn, Protocol
from uuid import UUID

import structlog
import trio

from gateway.core.attachments import SNIFFED_BYTES, Described, FetchProblem, describe
from gateway.errors import GatewayError, RejectedRequest
from gateway.work.tasks.file_cache import Draft, FileCache

logger = structlog.get_logger(__name__)

FETCH_SECONDS = 45.0
BYTES_MAX = 100 * 1024 * 1024
IDS_MAX = 1_000
"""Files that one statement asks about."""

Record = Callable[[str], None]
"""Told of every fetch that ended: "ready" or the slug of its problem. Must not raise."""

_STATUSES = {
    FetchProblem.NOT_AVAILABLE: 410,
    FetchProblem.TIMED_OUT: 504,
    FetchProblem.UNAVAILABLE: 503,
    FetchProblem.BOT_UNAVAILABLE: 503,
    FetchProblem.NO_ROOM: 503,
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file as stored. `n` counts over the task when it was looked up through one, else over its message.

    `status` is pending, ready or failed; `error` the slug of a FetchProblem. `seconds_left` is how long a run still
    waits for it, known of a taken one only. `channel_type` is empty when its bot is gone.
    """

    id: UUID
    message_id: UUID
    n: int
    installation_id: UUID
    channel_message_id: str
    channel_key: str = field(repr=False)
    kind: str
    name: str = field(repr=False)
    mime_type: str
    bytes: int | None
    status: str
    error: str | None
    seconds_left: float = 0.0
    channel_type: str = ""

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    @property
    def described(self) -> Described:
        """What to call it, also before it was fetched."""
        return describe(self.kind, self.name, content_type=self.mime_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAttachment(Attachment):
    """A file and what it belongs to: who may see that may see the file."""

    workspace_id: UUID
    chat_session_id: UUID
    issue_id: UUID | None


class FetchFailed(GatewayError):
    """The file could not be had. `transient`: it may be had later, not before `retry_after` seconds have passed."""

    def __init__(
        self, problem: FetchProblem, message: str, *, transient: bool = False, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.transient = transient
        self.retry_after = retry_after


class FileSink(Protocol):
    """Where a source puts a file. Both raise FetchFailed when the file is not wanted any further."""

    def begin(self, *, content_type: str, disposition: str, length: int | None) -> None:
        """What the platform's headers say, unchecked; before the first `write`."""

    async def write(self, chunk: bytes) -> None:
        """Not interrupted by a cancellation, which the source meets at its next read."""


class FileSource(Protocol):
    """A platform that files can be fetched from."""

    async def download(self, wanted: Attachment, sink: FileSink) -> None:
        """Fetch the whole file into the sink. Raises FetchFailed, and whatever the sink raises.

        The caller bounds the time by cancelling.
        """


class PlatformFiles:
    """Implements FileSource: every file comes from the platform of its bot."""

    def __init__(self, sources: Mapping[str, FileSource]) -> None:
        """By channel type. Platforms that are added later count too."""
        self._sources = sources

    async def download(self, wanted: Attachment, sink: FileSink) -> None:
        source = self._sources.get(wanted.channel_type)
        if source is None:
            raise FetchFailed(FetchProblem.BOT_UNAVAILABLE, f"no files are fetched from {wanted.channel_type!r}")
        await source.download(wanted, sink)


class AttachmentStore(Protocol):
    """Every call is one transaction of its own and raises StoreUnavailable."""

    async def take(self, rows_max: int) -> Sequence[Attachment]:
        """Pending ones that a run waits for, and that nobody fetches at the moment."""

    async def hold(self, attachment_id: UUID) -> None:
        """It is still being fetched. Without this for 15 s it is given to somebody else."""

    async def release(self, attachment_id: UUID) -> None:
        """Give it to somebody else at once."""

    async def settle_fetched(self, attachment_id: UUID, described: Described, size: int) -> None: ...

    async def settle_failed(self, attachment_id: UUID, problem: FetchProblem, *, final: bool) -> None:
        """No run waits for it any more, unless it was fetched meanwhile; when `final` nobody tries again either."""

    async def list_of_task(self, task_id: UUID) -> Sequence[Attachment]:
        """The files of the task's messages, in order, `n` counting from 1 over all of them."""

    async def find(self, attachment_id: UUID) -> PlacedAttachment | None: ...

    async def known(self, attachment_ids: Sequence[UUID]) -> set[UUID]:
        """Those of them that have a row."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file ready to be read from its beginning; whoever was given it closes it."""

    described: Described
    size: int
    file: BinaryIO


def _unheard(_outcome: str) -> None:
    return None


class Attachments:
    """Fetches files and opens them. One per process: it bounds how many are fetched at the same time."""

    def __init__(
        self,
        store: AttachmentStore,
        source: FileSource,
        cache: FileCache,
        *,
        bytes_max: int = BYTES_MAX,
        at_once: int = 8,
        fetch_seconds: float = FETCH_SECONDS,
        record: Record = _unheard,
    ) -> None:
        self._store = store
        self._source = source
        self._cache = cache
        self._bytes_max = bytes_max
        self._fetch_seconds = fetch_seconds
        self._record = record
        self._slots = trio.CapacityLimiter(at_once)
        self._flights: dict[UUID, _Flight] = {}

    @property
    def waiting(self) -> int:
        """How many callers wait for a file that is being fetched."""
        return sum(flight.passengers for flight in self._flights.values())

    async def find(self, attachment_id: UUID) -> PlacedAttachment:
        """Raises RejectedRequest (404) when there is none of that id."""
        return await self._store.find(attachment_id) or absent()

    async def find_of_task(self, task_id: UUID, n: int) -> Attachment:
        """A file of a task. Raises RejectedRequest (404) when it has none of that number."""
        files = await self._store.list_of_task(task_id)
        return next((file for file in files if file.n == n), None) or absent()

    async def open(self, wanted: Attachment) -> OpenedFile:
        """The file, fetched again when it is not here.

        Raises RejectedRequest: the slug of the problem with 410, 502, 503 or 504.
        """
        if wanted.failed:
            raise rejection(FetchProblem(wanted.error or FetchProblem.UNEXPECTED))
        try:
            return await self._open(wanted) or await self._open(await self.fetch(wanted)) or _evicted()
        except FetchFailed as error:
            if not error.transient:
                await self.give_up(wanted, error.problem)
            raise rejection(error.problem, error.retry_after) from error

    async def _open(self, wanted: Attachment) -> OpenedFile | None:
        if wanted.status != "ready" or wanted.bytes is None:
            return None
        file = await self._cache.open(wanted.id, wanted.bytes)
        return None if file is None else OpenedFile(wanted.described, wanted.bytes, file)

    async def fetch(self, wanted: Attachment) -> Attachment:
        """Fetch the file and settle its row. Those who want the same file at the same time share one fetch.

        Raises FetchFailed, with the row as it was. A cancelled fetch leaves nothing on disk; the next one who wants
        the file then fetches it.
        """
        async with self._flight(wanted.id) as flight:
            if flight.failure is not None:
                raise FetchFailed(
                    flight.failure.problem, str(flight.failure), transient=flight.failure.transient
                ) from flight.failure
            if flight.fetched is None:
                try:
                    flight.fetched = await self._fetch(wanted)
                except FetchFailed as error:
                    flight.failure = error
                    self._record(error.problem)
                    raise
                self._record("ready")
            return flight.fetched

    async def give_up(self, wanted: Attachment, problem: FetchProblem, *, final: bool = True) -> None:
        """Record that the file cannot be had, or (not `final`) not now: a run that waits for it goes without."""
        await self._store.settle_failed(wanted.id, problem, final=final)
        logger.info("attachment_failed", attachment_id=str(wanted.id), problem=problem.value, final=final)

    async def sweep(self) -> int:
        """Remove files that are too old or too much, and those whose row is gone; how many went."""
        gone = await self._cache.evict()
        here = await self._cache.ids()
        for start in range(0, len(here), IDS_MAX):
            batch = here[start : start + IDS_MAX]
            strays = [*(set(batch) - await self._store.known(batch))]
            await self._cache.remove(strays)
            gone += len(strays)
        return gone

    @asynccontextmanager
    async def _flight(self, attachment_id: UUID) -> AsyncIterator[_Flight]:
        flight = self._flights.setdefault(attachment_id, _Flight())
        flight.passengers += 1
        try:
            async with flight.lock:
                yield flight
        finally:
            flight.passengers -= 1
            if not flight.passengers:
                del self._flights[attachment_id]

    async def _fetch(self, wanted: Attachment) -> Attachment:
        with trio.move_on_after(self._fetch_seconds):
            async with self._slots:
                described, size = await self._download(wanted)
            await self._store.settle_fetched(wanted.id, described, size)
            logger.info("attachment_fetched", attachment_id=str(wanted.id), kind=wanted.kind, bytes=size)
            return replace(
                wanted, status="ready", error=None, name=described.name, mime_type=described.mime_type, bytes=size
            )
        raise FetchFailed(
            FetchProblem.TIMED_OUT, f"the file did not arrive within {self._fetch_seconds:g} s", transient=True
        )

    async def _download(self, wanted: Attachment) -> tuple[Described, int]:
        try:
            async with self._cache.writing(wanted.id) as draft:
                sink = _Sink(draft, self._bytes_max)
                await self._source.download(wanted, sink)
        except OSError as error:
            message = f"the file cannot be kept here: {error.strerror}"
            raise FetchFailed(FetchProblem.NO_ROOM, message, transient=True) from error
        return sink.describe(wanted), sink.size


def absent() -> NoReturn:
    raise RejectedRequest(404, "not_found", "no such attachment")


def _evicted() -> OpenedFile:
    raise FetchFailed(FetchProblem.NO_ROOM, "the file was fetched and had to go again", transient=True)


def rejection(problem: FetchProblem, retry_after: float = 0.0) -> RejectedRequest:
    """A problem as the answer to a request."""
    status = _STATUSES.get(problem, 502)
    extra = {"retry_after": max(1, round(retry_after))} if status == 503 else {}
    words = problem.value.replace("_", " ")
    return RejectedRequest(status, problem.value, f"the attachment cannot be fetched: {words}", **extra)


class _Flight:
    """One fetch and all who wait for it; the lock passes it on when whoever fetches is cancelled."""

    __slots__ = ("failure", "fetched", "lock", "passengers")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.passengers = 0
        self.fetched: Attachment | None = None
        self.failure: FetchFailed | None = None


class _Sink:
    """Counts what comes in, whatever was announced."""

    def __init__(self, draft: Draft, bytes_max: int) -> None:
        self._draft = draft
        self._bytes_max = bytes_max
        self._content_type = ""
        self._disposition = ""
        self._head = b""
        self.size = 0

    def begin(self, *, content_type: str, disposition: str, length: int | None) -> None:
        self._content_type = content_type
        self._disposition = disposition
        self._check(length or 0)

    async def write(self, chunk: bytes) -> None:
        self._check(self.size + len(chunk))
        self.size += len(chunk)
        if len(self._head) < SNIFFED_BYTES:
            self._head = (self._head + chunk)[:SNIFFED_BYTES]
        await self._draft.write(chunk)

    def _check(self, size: int) -> None:
        if size > self._bytes_max:
            raise FetchFailed(FetchProblem.TOO_LARGE, f"the file has more than {self._bytes_max} bytes")

    def describe(self, wanted: Attachment) -> Described:
        # A platform that knows no name gives its own handle for one, which tells nobody anything.
        named = wanted.channel_key not in self._disposition
        return describe(
            wanted.kind,
            wanted.name,
            disposition=self._disposition if named else "",
            content_type=self._content_type,
            head=self._head,
        )
