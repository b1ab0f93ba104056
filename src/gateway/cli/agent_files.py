"""Downloads a task's files to disk for the program that works on the task."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.concurrency import finishing
from gateway.core.attachments import extension_of

REMOVE_SECONDS = 10.0
AT_ONCE = 4

Fetch = Callable[[int, Path], Awaitable[bool]]
"""Writes the file of that number to the path, which does not exist yet. False if it cannot be fetched. Never raises."""


@asynccontextmanager
async def open_task(task: bytes, fetch: Fetch) -> AsyncIterator[bytes]:
    """Yield the task with a `path` in each of its attachments; null for a file that could not be fetched.

    The files lie in a directory that only this account can read. The directory is removed when the block ends, also by
    cancellation, within REMOVE_SECONDS. So no process that reads the files may outlive the block.
    """
    fields = msgspec.json.decode(task)
    attachments = list(_attachments(fields))
    if not attachments:
        yield task
        return
    directory = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="gateway-task-")))
    try:
        await _fetch_all(attachments, directory, fetch)
        yield msgspec.json.encode(fields)
    finally:
        with finishing(REMOVE_SECONDS):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


def _attachments(fields: Any) -> list[dict[str, Any]]:
    return [attachment for message in fields.get("messages", ()) for attachment in message.get("attachments", ())]


async def _fetch_all(attachments: list[dict[str, Any]], directory: Path, fetch: Fetch) -> None:
    slots = trio.CapacityLimiter(AT_ONCE)

    async def fetch_one(attachment: dict[str, Any]) -> None:
        path = directory / file_name(attachment["n"], attachment["name"])
        async with slots:
            attachment["path"] = str(path) if await fetch(attachment["n"], path) else None

    async with trio.open_nursery() as nursery:
        for attachment in attachments:
            nursery.start_soon(fetch_one, attachment)


def file_name(n: int, name: str) -> str:
    """Return the file's number with the extension of its name, because programs go by it.

    Nothing else of the name is used: its sender chose it.
    """
    return f"{int(n)}{extension_of(name)}"
