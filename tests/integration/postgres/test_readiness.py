"""Whether Postgres takes writes: on a real server that does not, one whose disk is full, and one that hangs."""

import os
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.errors import StoreError, StoreUnavailable
from gateway.observe.health import Readiness
from gateway.postgres.driver import TrioConnection
from gateway.postgres.pool import open_pool
from gateway.postgres.readiness_store import PostgresReadiness
from support.database import TEMPLATE


async def execute(conninfo, *statements):
    async with await TrioConnection.connect(conninfo) as connection:
        for statement in statements:
            cursor = await connection.execute(statement)
        return await cursor.fetchone() if cursor.description else None


def can_mount():
    if os.geteuid() != 0 or sys.platform != "linux":
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(owner):
    with tempfile.TemporaryDirectory(prefix="gw-") as parent:
        Path(parent).chmod(0o711)
        disk = Path(parent) / "disk"
        disk.mkdir()
        options = f"size=48m,mode=0700,uid={owner}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


@asynccontextmanager
async def database_on(server, disk):
    await execute(server, f"create tablespace small location '{disk}'")
    try:
        await execute(server, f"create database on_small template {TEMPLATE} tablespace small")
        try:
            yield make_conninfo(server, dbname="on_small")
        finally:
            await execute(server, "drop database on_small with (force)")
    finally:
        await execute(server, "drop tablespace small")


def account_of(pid):
    return Path(f"/proc/{pid}").stat().st_uid


def fill(path):
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_write_is_tried_and_is_on_disk(pool, database):
    probes = PostgresReadiness(pool)
    (before,) = await execute(database, "select pg_current_wal_flush_lsn()")
    files = "select temp_files from pg_stat_database where datname = current_database()"
    (files_before,) = await execute(database, files)
    assert await probes.write_problem() is None
    written = f"select pg_current_wal_flush_lsn() > '{before}'"
    assert await execute(database, written) == (True,)
    async with pool.connection() as connection:
        await connection.execute("select pg_stat_force_next_flush()")
    assert await execute(database, files) > (files_before,)


async def test_database_that_only_reads_is_no_place_to_write(database):
    name = conninfo_to_dict(database)["dbname"]
    await execute(database, f"alter database {name} set default_transaction_read_only = on")
    async with open_pool(database, size_max=2) as pool:
        probes = PostgresReadiness(pool)
        assert await probes.database_problem() is None
        assert await probes.write_problem() == "the database is read-only"


@pytest.mark.parametrize(
    ("state", "expected"), [("53100", "the disk of the database is full"), ("53400", None)], ids=["full", "limited"]
)
async def test_error_of_a_full_disk_is_told_and_a_limit_of_the_operator_is_not(database, state, expected):
    """The server's own function, replaced by one that fails as it would."""
    fails = f"begin raise sqlstate '{state}'; end"
    await execute(
        database,
        "create schema first",
        "create function first.generate_series(integer, integer) returns setof integer language plpgsql"
        f" as $$ {fails} $$",
    )
    first = make_conninfo(database, options="-c search_path=first,pg_catalog,public")
    async with open_pool(first, size_max=2) as pool:
        assert await PostgresReadiness(pool).write_problem() == expected


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
async def test_disk_that_is_full_is_found_out_and_one_with_room_again_is_well(postgres):
    async with await TrioConnection.connect(postgres) as connection:
        account = account_of(connection.info.backend_pid)
    with small_disk(account) as disk:
        async with database_on(postgres, disk) as conninfo, open_pool(conninfo, size_max=2) as pool:
            probes = PostgresReadiness(pool)
            assert await probes.write_problem() is None
            fill(disk / "rubbish")
            assert await probes.write_problem() == "the disk of the database is full"
            with pytest.raises(StoreError, match="No space left"):
                async with pool.transaction() as connection:
                    await connection.execute(
                        "create table big as select repeat('x', 900) from generate_series(1, 5000)"
                    )
            (disk / "rubbish").unlink()
            assert await probes.write_problem() is None


async def test_database_that_hangs_is_unavailable_in_bounded_time(pool, database):
    readiness = Readiness(check_timeout_seconds=0.3)
    readiness.add("database", PostgresReadiness(pool).database_problem)
    readiness.add("write", PostgresReadiness(pool).write_problem)
    async with await TrioConnection.connect(database, autocommit=False) as other:
        await other.execute("lock table workspace in access exclusive mode")
        with trio.fail_after(10):
            report = await readiness.report()
        assert (report.status, report.checks) == ("unavailable", {"database": "ok", "write": "no answer within 0.3 s"})
        await other.rollback()
    assert await PostgresReadiness(pool).write_problem() is None


async def test_absent_database_is_unavailable():
    async with open_pool("host=/nonexistent user=u dbname=d", size_max=1) as pool:
        with pytest.raises(StoreUnavailable):
            await PostgresReadiness(pool).write_problem()
