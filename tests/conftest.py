"""Fixtures that many tests share."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gateway.postgres.pool import Pool, open_pool
from support.database import ReusedDatabase, fresh_database, running_server
from support.oldest import OLDEST, Pooler, oldest_server, pooler_before

HERE = Path(__file__).parent
STARTS_A_GATEWAY = re.compile(r'\bopen_gateway\(|"-m", "gateway')
DRIVES_A_BROWSER = re.compile(r"\bbrowse\(")
SERVERS = {"postgres", "oldest_postgres", "either_postgres"}
# These change what a test does, so the command that repeats it names them.
KNOBS = ("OUTBOX_SEEDS",)

# A busy machine is no failure; a failing example comes with the line that repeats it.
settings.register_profile("run", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("run")


@cache
def source(path: Path) -> str:
    return path.read_text()


def markers_of(item: pytest.Item) -> Iterator[str]:
    """The markers of a test, derived from where it is, the fixtures it uses and the helpers that its module calls."""
    path = item.path
    in_e2e = path.is_relative_to(HERE / "e2e")
    if SERVERS & set(getattr(item, "fixturenames", ())):
        yield "db"
    if in_e2e or STARTS_A_GATEWAY.search(source(path)):
        yield "process"
    if DRIVES_A_BROWSER.search(source(path)):
        yield "browser"
    storm = path.stem.endswith("_chaos")
    if in_e2e or storm:
        yield "slow"
    parameters = getattr(getattr(item, "callspec", None), "indices", {})
    # To measure coverage doubles the time. Further seeds of a storm run the lines of the first one, the daemon of an
    # end-to-end test is a process that is not measured, and the tests of the house only read the source.
    if in_e2e or path.is_relative_to(HERE / "tidy") or (storm and any(parameters.values())):
        yield "no_cover"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in markers_of(item):
            item.add_marker(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        knobs = [f"{name}={os.environ[name]}" for name in KNOBS if name in os.environ]
        command = [*knobs, ".venv/bin/python", "-m", "pytest", shlex.quote(item.nodeid)]
        report.sections.append(("repeat", " ".join(command)))
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The conninfo of the run's own server. Most tests want `database` or `pool` instead."""
    with running_server() as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[str]:
    """The conninfo of a server of the oldest version that is supported."""
    with oldest_server() as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def pooler(oldest_postgres: str) -> Iterator[Pooler]:
    """A PgBouncer in transaction mode, before that server."""
    with pooler_before(oldest_postgres) as pooler:
        yield pooler


@pytest.fixture(params=["newest", f"oldest-{OLDEST}"])
def either_postgres(request: pytest.FixtureRequest) -> str:
    """The conninfo of a server: of the newest and of the oldest version that is supported, in turn."""
    name = "postgres" if request.param == "newest" else "oldest_postgres"
    return str(request.getfixturevalue(name))


@pytest.fixture
async def oldest_database(oldest_postgres: str) -> AsyncIterator[str]:
    """The conninfo of a migrated database of its own on the oldest version."""
    async with fresh_database(oldest_postgres) as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def reused_database(postgres: str) -> Iterator[ReusedDatabase]:
    """Where `database` comes from."""
    with closing(ReusedDatabase(postgres)) as reused:
        yield reused


@pytest.fixture
def database(reused_database: ReusedDatabase) -> str:
    """The conninfo of a migrated database that holds what a fresh one holds, under a name of its own."""
    return reused_database.take()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """An open pool on a fresh, migrated database."""
    async with open_pool(database, size_max=10) as pool:
        yield pool
