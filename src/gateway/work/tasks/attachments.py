"""Files that people send: fetched once from their platform, kept on disk under our own id, and fetched again on demand.

The platform keeps the file, so the disk is only a cache. A file that is not on this replica's disk is fetched again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NoReturn, Protocol
from uuid import UUID

import structlog
import trio

from gateway.core.attachments import SNIFFED_BYTES, Described, FetchProblem, describe
from gateway.errors import DomainError, GatewayError, Gone, NotFound, Unavailable, UpstreamFailed, UpstreamTimedOut
from gateway.recorder import SILENT, Recorder
from gateway.work.tasks.file_cache import Draft, FileCache

logger = structlog.get_logger(__name__)

FETCH_SECONDS = 45.0
BYTES_MAX = 100 * 1024 * 1024
IDS_MAX = 1_000
"""Ids in one statement that looks up which files still have a row."""

_ERRORS: Mapping[FetchProblem, type[DomainError]] = {
    FetchProblem.NOT_AVAILABLE: Gone,
    FetchProblem.TIMED_OUT: UpstreamTimedOut,
    FetchProblem.UNAVAILABLE: Unavailable,
    FetchProblem.BOT_UNAVAILABLE: Unavailable,
    FetchProblem.NO_ROOM: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stored file. `n` is its number within the task if it was looked up through a task, else within its message.

    `status` is pending, ready or failed. `error` is the slug of a FetchProblem. `seconds_left` is the time that a run
    still waits for it. It is only known for files returned by `take`. `channel_type` is empty when its bot is gone.
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
        """The file's name and type, also before it was fetched."""
        return describe(self.kind, self.name, content_type=self.mime_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAttachment(Attachment):
    """A file with its conversation or issue. A person who may see that may see the file."""

    workspace_id: UUID
    chat_session_id: UUID
    issue_id: UUID | None


class FetchFailed(GatewayError):
    """The file could not be fetched. `transient`: it may succeed later, at the earliest after `retry_after` seconds."""

    def __init__(
        self, problem: FetchProblem, message: str, *, transient: bool = False, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.transient = transient
        self.retry_after = retry_after


class FileSink(Protocol):
    """The receiver of a file's content. Both methods raise FetchFailed when the file is no longer wanted."""

    def begin(self, *, content_type: str, disposition: str, length: int | None) -> None:
        """Take the values of the platform's headers, unchecked. Called before the first `write`."""

    async def write(self, chunk: bytes) -> None:
        """Write a chunk. A cancellation does not interrupt it: the source is cancelled at its next read."""


class FileSource(Protocol):
    """A platform that files can be fetched from."""

    async def download(self, wanted: Attachment, sink: FileSink) -> None:
        """Fetch the whole file into the sink. Raises FetchFailed, and any error of the sink.

        The caller bounds the time by cancelling.
        """


class PlatformFiles:
    """Implements FileSource by fetching each file from the platform of its bot."""

    def __init__(self, sources: Mapping[str, FileSource]) -> None:
        """`sources` is keyed by channel type. Platforms that are added to it later count too."""
        self._sources = sources

    async def download(self, wanted: Attachment, sink: FileSink) -> None:
        source = self._sources.get(wanted.channel_type)
        if source is None:
            raise FetchFailed(FetchProblem.BOT_UNAVAILABLE, f"no files are fetched from {wanted.channel_type!r}")
        await source.download(wanted, sink)


class AttachmentStore(Protocol):
    """The store of files' rows. Every call is one transaction of its own and raises StoreUnavailable."""

    async def take(self, rows_max: int) -> Sequence[Attachment]:
        """Take pending files that a run waits for and that no process is fetching at the moment."""

    async def hold(self, attachment_id: UUID) -> None:
        """Note that a file is still being fetched. After 15 s without this, another process may take it."""

    async def release(self, attachment_id: UUID) -> None:
        """Give a file back, so that another process can take it at once."""

    async def settle_fetched(self, attachment_id: UUID, described: Described, size: int) -> None: ...

    async def settle_failed(self, attachment_id: UUID, problem: FetchProblem, *, final: bool) -> None:
        """Let no run wait for the file any more. `final`: no later fetch is tried either.

        Changes nothing if the file was fetched in the meantime.
        """

    async def list_of_task(self, task_id: UUID) -> Sequence[Attachment]:
        """Return the files of the task's messages in order. `n` counts from 1 over all of them."""

    async def find(self, attachment_id: UUID) -> PlacedAttachment | None: ...

    async def known(self, attachment_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the ids that have a row."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file opened at its beginning. The caller that receives it must close it."""

    described: Described
    size: int
    file: BinaryIO


class Attachments:
    """Fetches files and opens them. There is one per process, because it bounds the number of concurrent fetches."""

    def __init__(
        self,
        store: AttachmentStore,
        source: FileSource,
        cache: FileCache,
        *,
        bytes_max: int = BYTES_MAX,
        at_once: int = 8,
        fetch_seconds: float = FETCH_SECONDS,
        recorder: Recorder = SILENT,
    ) -> None:
        self._store = store
        self._source = source
        self._cache = cache
        self._bytes_max = bytes_max
        self._fetch_seconds = fetch_seconds
        self._recorder = recorder
        self._slots = trio.CapacityLimiter(at_once)
        self._flights: dict[UUID, _Flight] = {}

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a file that is being fetched."""
        return sum(flight.passengers for flight in self._flights.values())

    async def find(self, attachment_id: UUID) -> PlacedAttachment:
        """Find a file by its id. Raises NotFound when there is none."""
        return await self._store.find(attachment_id) or absent()

    async def find_of_task(self, task_id: UUID, n: int) -> Attachment:
        """Find a file of a task by its number. Raises NotFound when there is none."""
        files = await self._store.list_of_task(task_id)
        return next((file for file in files if file.n == n), None) or absent()

    async def open(self, wanted: Attachment) -> OpenedFile:
        """Open the file. It is fetched again when it is not on the disk. The caller must close it.

        Raises the error of `rejection` for a file that cannot be fetched.
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
        """Fetch the file and settle its row. Callers that want the same file at the same time share one fetch.

        Raises FetchFailed, and leaves the row as it was then. A cancelled fetch leaves nothing on disk. The next caller
        that wants the file then fetches it.
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
                    self._recorder.count("attachment_fetches", outcome=error.problem)
                    raise
                self._recorder.count("attachment_fetches", outcome="ready")
            return flight.fetched

    async def give_up(self, wanted: Attachment, problem: FetchProblem, *, final: bool = True) -> None:
        """Record that the file cannot be fetched, or cannot be fetched now (not `final`).

        A run that waits for it starts without it.
        """
        await self._store.settle_failed(wanted.id, problem, final=final)
        logger.info("attachment_failed", attachment_id=str(wanted.id), problem=problem.value, final=final)

    async def sweep(self) -> int:
        """Remove files that are unused for too long or beyond the size limit, and files whose row is gone.

        Return the number of removed files.
        """
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
    raise NotFound("not_found", "no such attachment")


def _evicted() -> OpenedFile:
    raise FetchFailed(FetchProblem.NO_ROOM, "the file was fetched and had to go again", transient=True)


def rejection(problem: FetchProblem, retry_after: float = 0.0) -> DomainError:
    """Return the error of a request for a file with this problem. Its code is the problem's slug."""
    kind = _ERRORS.get(problem, UpstreamFailed)
    extra = {"retry_after": max(1, round(retry_after))} if kind is Unavailable else {}
    words = problem.value.replace("_", " ")
    return kind(problem.value, f"the attachment cannot be fetched: {words}", **extra)


class _Flight:
    """One fetch and the callers that wait for it.

    The caller that holds the lock does the fetch. If it is cancelled, the next waiting caller gets the lock and
    fetches.
    """

    __slots__ = ("failure", "fetched", "lock", "passengers")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.passengers = 0
        self.fetched: Attachment | None = None
        self.failure: FetchFailed | None = None


class _Sink:
    """Writes the content into a draft, and bounds its size by the bytes received, not only by the announced length."""

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
        # A platform that knows no name puts its own key of the file there. As a name that would be meaningless.
        named = wanted.channel_key not in self._disposition
        return describe(
            wanted.kind,
            wanted.name,
            disposition=self._disposition if named else "",
            content_type=self._content_type,
            head=self._head,
        )
