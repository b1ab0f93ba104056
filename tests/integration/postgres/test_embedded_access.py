"""The embedded server and its files are its own account's, the daemon's and root's: no other account gets in."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from gateway.config import Settings
from gateway.daemon.database import open_keyring
from gateway.errors import ConfigError
from gateway.postgres import access, account
from gateway.postgres.account import OWN_ACCOUNT, server_account
from gateway.postgres.binaries import ServerAccount
from gateway.postgres.driver import TrioConnection
from gateway.postgres.embedded import open_embedded
from gateway.work.tasks.file_cache import FileCache

SUPPORT = Path(__file__).parents[2] / "support"
NOBODY, DAEMON, THROWAWAY = 65534, 1, 54_321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to try as other accounts")
fast = partial(open_embedded, durable=False)
OLD_RULES = "local all all trust\nhost all all 127.0.0.1/32 trust\n"


@pytest.fixture
def state_dir():
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "state"


@pytest.fixture(scope="module")
def stopped_cluster():
    """The directory of a cluster with a table in it, whose server has ended."""

    async def make(directory):
        async with fast(directory) as conninfo:
            await query(conninfo, "create table kept as select 1")

    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        Path(directory).chmod(0o755)
        trio.run(make, Path(directory))
        yield Path(directory) / "postgres" / "data"


@pytest.fixture
def old_cluster(stopped_cluster, state_dir):
    """As an older version left it: the shared account's, with a rule that trusts whoever gets to the socket."""
    data = state_dir / "postgres" / "data"
    shutil.copytree(stopped_cluster, data, symlinks=True)
    (data / "pg_hba.conf").write_text(OLD_RULES)
    for path in (data, *data.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return data


def open_socket(conninfo):
    """Let every account as far as the server itself."""
    directory = Path(conninfo_to_dict(conninfo)["host"])
    directory.chmod(0o755)
    (directory / ".s.PGSQL.5432").chmod(0o777)


async def query(conninfo, statement):
    async with await TrioConnection.connect(conninfo) as connection:
        cursor = await connection.execute(statement)
        return (await cursor.fetchone())[0] if cursor.description else None


async def intrude(uid, conninfo, paths=()):
    command = [sys.executable, str(SUPPORT / "intruder.py"), str(uid), conninfo]
    text = "\n".join(map(str, paths)).encode()
    done = await trio.run_process(command, stdin=text, capture_stdout=True)
    return json.loads(done.stdout)


def mode(path):
    return path.stat().st_mode & 0o777


def owners(directory):
    return {path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


@as_root
async def test_other_account_neither_connects_nor_reads_a_file(state_dir):
    async with fast(state_dir) as conninfo:
        open_keyring(Settings(state_dir=state_dir))
        async with FileCache(state_dir / "attachments", bytes_max=100, unused_seconds_max=100).writing(uuid4()) as file:
            await file.write(b"a picture")
        paths = [state_dir, *(path for path in state_dir.rglob("*") if "gateway-postgres-" not in str(path))]
        assert {"secret.key", "attachments", "postgres.log", "pg_hba.conf", "base", ".s.PGSQL.5432", "lock"} <= {
            path.name for path in paths
        }
        for uid in (NOBODY, DAEMON, THROWAWAY):
            found = await intrude(uid, conninfo, paths)
            assert found["read"] == []
            assert "Permission denied" in found["connection"]


@as_root
async def test_daemon_of_an_ordinary_account_trusts_that_account_and_root_only(state_dir):
    state_dir.mkdir()
    os.chown(state_dir, DAEMON, DAEMON)
    command = [sys.executable, str(SUPPORT / "embedded_daemon.py"), str(state_dir), "serve", "--uid", str(DAEMON)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:  # noqa: ASYNC220
        conninfo = await trio.to_thread.run_sync(first_conninfo, daemon)
        assert (await intrude(DAEMON, conninfo))["connection"] == "connected"
        assert await query(conninfo, "select 1") == 1
        attaching = await trio.run_process(
            [*command[:3], "attach", *command[4:]], stdin=b"", capture_stdout=True, check=False
        )
        assert conninfo in attaching.stdout.decode()
        assert "Permission denied" in (await intrude(NOBODY, conninfo))["connection"]
        open_socket(conninfo)
        assert "Peer authentication failed" in (await intrude(NOBODY, conninfo))["connection"]
        daemon.stdin.close()
    assert owners(state_dir / "postgres" / "data") == {DAEMON}


def first_conninfo(child):
    for raw in child.stdout:
        line = raw.decode().strip()
        if line.startswith(("host=", "user=", "dbname=", "port=")):
            return line
    raise AssertionError("the process ended without a word")


async def test_key_that_others_could_read_is_closed_to_them_and_belongs_to_the_daemon(state_dir):
    state_dir.mkdir()
    if os.geteuid() == 0:
        os.chown(state_dir, DAEMON, DAEMON)
    key = state_dir / "secret.key"
    open_keyring(Settings(state_dir=state_dir))
    assert key.stat().st_uid == state_dir.stat().st_uid
    text = key.read_text()
    key.chmod(0o644)
    open_keyring(Settings(state_dir=state_dir))
    assert (mode(key), key.read_text()) == (0o600, text)


async def test_rules_and_modes_leave_no_door_open(state_dir):
    """What can be seen without being root."""
    async with fast(state_dir) as conninfo:
        data = state_dir / "postgres" / "data"
        rules = [line.split() for line in (data / "pg_hba.conf").read_text().splitlines() if not line.startswith("#")]
        users = [line.split() for line in (data / "pg_ident.conf").read_text().splitlines() if not line.startswith("#")]
        assert [rule[0] for rule in rules] == ["local", "local"]
        assert {rule[3] for rule in rules} == {"peer"}
        server = pwd.getpwuid(data.stat().st_uid).pw_name
        daemon, root = pwd.getpwuid(os.geteuid()).pw_name, pwd.getpwuid(0).pw_name
        assert {user[1] for user in users} == {f'"{name}"' for name in (server, daemon, root)}
        assert await query(conninfo, "select count(*) from pg_hba_file_rules where auth_method <> 'peer'") == 0
        assert await query(conninfo, "show listen_addresses") == ""
        assert mode(data) == mode(Path(conninfo_to_dict(conninfo)["host"])) == 0o700
        files = [path for path in state_dir.rglob("*") if path.is_file() and "gateway-postgres-" not in str(path)]
        assert {path.name for path in files if mode(path) & 0o077} == set()


@as_root
async def test_cluster_of_the_shared_account_is_handed_over_with_its_data(old_cluster, state_dir):
    async with fast(state_dir) as conninfo:
        assert await query(conninfo, "select count(*) from kept") == 1
        assert await query(conninfo, "select count(*) from pg_hba_file_rules where auth_method <> 'peer'") == 0
        open_socket(conninfo)
        for uid in (NOBODY, DAEMON, THROWAWAY):
            assert "Peer authentication failed" in (await intrude(uid, conninfo))["connection"]
        assert await query(conninfo, "select current_user::text") == "gateway"
    assert owners(old_cluster) == {pwd.getpwnam(OWN_ACCOUNT).pw_uid}


@as_root
async def test_hand_over_that_was_killed_is_finished_by_the_next_start(old_cluster, state_dir):
    script = [sys.executable, str(SUPPORT / "embedded_daemon.py"), str(state_dir), "serve"]
    killed = await trio.run_process([*script, "--killed-after", "300"], check=False, capture_stdout=True)
    assert killed.returncode == -signal.SIGKILL
    assert old_cluster.stat().st_uid == NOBODY
    assert len(owners(old_cluster)) == 2
    async with fast(state_dir) as conninfo:
        assert await query(conninfo, "select count(*) from kept") == 1
    assert owners(old_cluster) == {pwd.getpwnam(OWN_ACCOUNT).pw_uid}


@pytest.fixture
def tree(tmp_path):
    """A directory of the shared account with a file in it, beside a file of root's."""
    tree = tmp_path / "tree"
    (tree / "base").mkdir(parents=True)
    (tree / "base" / "1").write_text("")
    for path in (tree, *tree.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    (tmp_path / "of_root").write_text("not the cluster's")
    return tree


@as_root
@pytest.mark.parametrize("make", [os.link, lambda _target, path: os.mkfifo(path)])
def test_file_that_leads_out_of_the_cluster_is_not_given_away(tree, make):
    make(tree.parent / "of_root", tree / "base" / "trap")
    with pytest.raises(ConfigError, match="base/trap is not a plain file"):
        access.hand_over(tree, ServerAccount(DAEMON, DAEMON))
    assert (tree.parent / "of_root").stat().st_uid == 0
    assert tree.stat().st_uid == NOBODY


@as_root
def test_link_in_the_cluster_is_not_followed_on_the_way(tree):
    target = tree.parent / "of_root"
    (tree / "base" / "1").chmod(0o666)
    for name in ("base/trap", "pg_hba.conf", "pg_hba.conf.new"):
        (tree / name).symlink_to(target)
    access.hand_over(tree, ServerAccount(DAEMON, DAEMON))
    access.restrict_connections(tree, "gateway", ServerAccount(DAEMON, DAEMON), [0])
    assert owners(tree) == {DAEMON}
    assert (mode(tree), mode(tree / "base"), mode(tree / "base" / "1")) == (0o700, 0o700, 0o600)
    assert (target.stat().st_uid, target.read_text()) == (0, "not the cluster's")
    assert not (tree / "pg_hba.conf").is_symlink()


@as_root
async def test_named_account_runs_the_server_and_takes_the_cluster_over(old_cluster, state_dir):
    async with fast(state_dir, database_user="daemon") as conninfo:
        assert await query(conninfo, "select count(*) from kept") == 1
    assert owners(old_cluster) == {DAEMON}


@as_root
@pytest.mark.parametrize(
    ("owner", "named", "words"),
    [
        (0, "nobody", "an account that other services share"),
        (0, "root", "does not run as root"),
        (0, "gateway-no-such", "database_user gateway-no-such: there is no such account"),
        (DAEMON, "bin", "database_user bin: the state directory belongs to daemon"),
        (NOBODY, None, "an account that other services share: the state directory belongs to it"),
    ],
)
async def test_account_that_is_not_the_servers_own_is_a_config_error(owner, named, words):
    with pytest.raises(ConfigError, match=words):
        await server_account(ServerAccount(owner, owner), named)


@as_root
async def test_machine_without_a_tool_to_make_the_account_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(account, "OWN_ACCOUNT", "gateway-db-absent")
    monkeypatch.setattr(account, "_TOOL_PATH", "/nonexistent")
    with pytest.raises(ConfigError, match=r"no useradd and no adduser.*database_user.*database_url"):
        await server_account(ServerAccount(0, 0), None)


@as_root
async def test_missing_account_is_made_once_by_all_that_need_it(monkeypatch):
    name = f"gateway-test-{os.getpid()}"
    monkeypatch.setattr(account, "OWN_ACCOUNT", name)
    found = []

    async def find():
        found.append(await server_account(ServerAccount(0, 0), None))

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(find)
        entry = pwd.getpwnam(name)
        assert {each.uid for each in found} == {entry.pw_uid}
        assert entry.pw_shell.endswith(("nologin", "false"))
        assert entry.pw_uid < 1000
    finally:
        await trio.run_process(["userdel", name], check=False)


async def test_account_without_a_name_is_a_config_error(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: THROWAWAY)
    with pytest.raises(ConfigError, match=f"uid {THROWAWAY} has no entry"):
        await server_account(ServerAccount(THROWAWAY, THROWAWAY), None)


def test_directory_that_is_a_link_is_never_made_private(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="run"):
        access.make_private(tmp_path / "run", ServerAccount(os.geteuid(), os.getegid()))
    assert mode(tmp_path / "elsewhere") == 0o755
