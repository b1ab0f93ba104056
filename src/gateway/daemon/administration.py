"""People, bindings and runs, as the HTTP API and the commands work on them: each service is built in one way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.config import Settings
from gateway.daemon.database import open_database
from gateway.postgres.administration_store import PostgresAdministrationStore, PostgresReferences
from gateway.postgres.binding_store import PostgresBindingStore
from gateway.postgres.directory_store import PostgresDirectoryStore
from gateway.postgres.pool import Pool
from gateway.postgres.task_view_store import PostgresTaskViews
from gateway.work.people.administration import Administration
from gateway.work.people.bindings import BindingService
from gateway.work.people.directory import Directory
from gateway.work.people.references import References
from gateway.work.tasks.views import TaskViews


def directory_on(pool: Pool) -> Directory:
    """Return the people, workspaces, agents and runtimes of a database."""
    return Directory(PostgresDirectoryStore(pool))


def references_on(pool: Pool) -> References:
    """Return what turns the names that an operator writes into ids."""
    return References(PostgresReferences(pool))


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The services behind the commands of an operator: one adds and changes, the others find, list and remove."""

    directory: Directory
    administration: Administration


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[AdminServices]:
    """Open the directory beside a daemon that may run. The pool is closed with the block."""
    async with open_database(settings, attach=True) as pool:
        yield AdminServices(directory_on(pool), Administration(PostgresAdministrationStore(pool), references_on(pool)))


@asynccontextmanager
async def open_bindings(settings: Settings) -> AsyncIterator[tuple[BindingService, References]]:
    """Open the bindings of people beside a daemon that may run. The pool is closed with the block."""
    async with open_database(settings, attach=True) as pool:
        yield BindingService(PostgresBindingStore(pool)), references_on(pool)


@asynccontextmanager
async def open_task_views(settings: Settings) -> AsyncIterator[tuple[TaskViews, References]]:
    """Open the runs of agents beside a daemon that may run. The pool is closed with the block."""
    async with open_database(settings, attach=True) as pool:
        yield TaskViews(PostgresTaskViews(pool)), references_on(pool)
