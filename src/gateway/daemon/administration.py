"""People, bindings and runs, as the HTTP API and the commands work on them: each service is built in one way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Settings
from gateway.daemon.database import open_database
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.postgres.task_view_store import PostgresTaskViews
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Directory
from gateway.work.tasks.views import TaskViews


def directory_on(pool: Pool) -> Directory:
    """Return the people, workspaces, agents and runtimes of a database."""
    return Directory(PostgresDirectoryStore(pool))


@asynccontextmanager
async def open_directory(settings: Settings) -> AsyncIterator[Directory]:
    """Open the directory beside a daemon that may run. The pool is closed with the block."""
    async with open_database(settings, attach=True) as pool:
        yield directory_on(pool)


@asynccontextmanager
async def open_bindings(settings: Settings) -> AsyncIterator[BindingService]:
    """Open the bindings of people beside a daemon that may run. The pool is closed with the block."""
    async with open_database(settings, attach=True) as pool:
        yield BindingService(PostgresBindingStore(pool))


@asynccontextmanager
async def open_task_views(settings: Settings) -> AsyncIterator[tuple[TaskViews, Directory]]:
    """Open the runs of agents, and the directory that names their workspaces. The pool is closed with the block."""
    async with open_database(settings, attach=True) as pool:
        yield TaskViews(PostgresTaskViews(pool)), directory_on(pool)
