"""A directory that caches files. Each file is named by our own id, and the files unused for longest are removed first.

Only ids are ever part of a path. A file appears whole or not at all. Only the operating system's account of this
process can read it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import trio

from gateway.concurrency import finishing
from gateway.core.attachments import KeptFile, to_evict

DRAFT_SUFFIX = ".part"
DRAFT_SECONDS_MAX = 600.0
"""An unfinished file older than this was left by a crash."""
WRITE_SECONDS = 30.0


class Draft:
    """A file that is being written. Each write runs in a thread, and a cancellation does not abandon it half done."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def write(self, chunk: bytes) -> None:
        """Write a chunk. Raises OSError. A cancellation takes effect at the caller's next network read, not here."""
        with finishing(WRITE_SECONDS):
            await trio.to_thread.run_sync(self._file.write, chunk)


class FileCache:
    """The cache directory. It is created when it is first needed. Any number of processes may share it."""

    def __init__(self, directory: Path, *, bytes_max: int, unused_seconds_max: float) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._unused_seconds_max = unused_seconds_max
        # The total size by this process's own count, None before the first scan. Other processes write here too, so
        # only a scan gives the exact size.
        self._bytes: int | None = None

    async def open(self, file_id: UUID, size: int) -> BinaryIO | None:
        """Open a file for reading. None when it is not in the directory, or not of that size. The caller closes it."""
        return await trio.to_thread.run_sync(self._open, file_id, size)

    def _open(self, file_id: UUID, size: int) -> BinaryIO | None:
        path = self._path(file_id)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        file = os.fdopen(descriptor, "rb")
        if os.fstat(descriptor).st_size != size:
            file.close()
            return None
        with suppress(OSError):
            os.utime(path)
        return file

    @asynccontextmanager
    async def writing(self, file_id: UUID) -> AsyncIterator[Draft]:
        """Write a file of that id. It appears when the block ends without an exception, else no trace is left.

        Raises OSError.
        """
        path = self._path(file_id)
        draft = path.with_name(f"{path.name}-{secrets.token_hex(8)}{DRAFT_SUFFIX}")
        file = await trio.to_thread.run_sync(_create, draft)
        try:
            try:
                yield Draft(file)
            finally:
                with finishing(WRITE_SECONDS):
                    await trio.to_thread.run_sync(file.close)
            await trio.to_thread.run_sync(os.replace, draft, path)
        except BaseException:
            with finishing(WRITE_SECONDS):
                await trio.to_thread.run_sync(_remove, draft)
            raise
        await self._make_room(path)

    async def _make_room(self, added: Path) -> None:
        """Evict files if the size limit may be exceeded.

        Only then is the directory scanned, as it may be very large.
        """
        if self._bytes is not None:
            self._bytes += await trio.to_thread.run_sync(_size, added)
        if self._bytes is None or self._bytes > self._bytes_max:
            await self.evict()

    async def evict(self) -> int:
        """Remove files unused for too long or beyond the size limit, and the remains of crashes.

        Return their number.
        """
        return await trio.to_thread.run_sync(self._evict)

    def _evict(self) -> int:
        now = time.time()
        files, drafts = self._scan()
        used_after = now - self._unused_seconds_max
        evicted = set(to_evict(files, bytes_max=self._bytes_max, used_after=used_after))
        gone = [self._path(file_id) for file_id in evicted]
        gone += [path for path, written_at in drafts if written_at < now - DRAFT_SECONDS_MAX]
        for path in gone:
            _remove(path)
        self._bytes = sum(file.size for file in files if file.key not in evicted)
        return len(gone)

    async def ids(self) -> list[UUID]:
        """Return the ids of the files in the directory."""
        files, _ = await trio.to_thread.run_sync(self._scan)
        return [file.key for file in files]

    async def remove(self, file_ids: Sequence[UUID]) -> None:
        for file_id in file_ids:
            await trio.to_thread.run_sync(_remove, self._path(file_id))

    def _scan(self) -> tuple[list[KeptFile[UUID]], list[tuple[Path, float]]]:
        """Return the finished files, and the unfinished ones with the time of their last write.

        Ignore foreign files.
        """
        files: list[KeptFile[UUID]] = []
        drafts: list[tuple[Path, float]] = []
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            with suppress(OSError):
                status = path.lstat()
                if path.suffix == DRAFT_SUFFIX:
                    drafts.append((path, status.st_mtime))
                elif (file_id := _id_of(path)) is not None:
                    files.append(KeptFile(file_id, status.st_size, status.st_mtime))
        return files, drafts

    def _path(self, file_id: UUID) -> Path:
        return self._directory / str(file_id)


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb", buffering=1 << 18)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _id_of(path: Path) -> UUID | None:
    try:
        file_id = UUID(path.name)
    except ValueError:
        return None
    return file_id if str(file_id) == path.name else None
