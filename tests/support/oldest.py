"""A server of the oldest PostgreSQL that is supported, and a PgBouncer in front of it, both as Debian packages them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.database import make_template

OLDEST = 15
BINARIES = f"/usr/lib/postgresql/{OLDEST}/bin"
PORT = 5432
USER = "gateway"
START_SECONDS = 60.0
# Debian installs servers where the PATH of an ordinary account does not lead.
SBIN = "/usr/sbin:/usr/local/sbin"


def external_program(name: str, *, package: str, directory: str | None = None) -> str:
    """Where the program is. Without it the test fails with a line that says what to do, unless SKIP_EXTERNAL=1."""
    found = shutil.which(name, path=directory or f"{os.environ.get('PATH', '')}:{SBIN}")
    if found is not None:
        return found
    if os.environ.get("SKIP_EXTERNAL") == "1":
        pytest.skip(f"SKIP_EXTERNAL=1, and there is no {name}")
    pytest.fail(f"{directory or 'PATH'} has no {name}: `apt-get install {package}`, or set SKIP_EXTERNAL=1")


@contextmanager
def oldest_server() -> Iterator[str]:
    """A server for the block, without fsync; yields its conninfo. It has the same template as the embedded one."""
    programs = Path(external_program("postgres", package=f"postgresql-{OLDEST}", directory=BINARIES)).parent
    with _private_directory() as directory:
        data = directory / "data"
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        with _spawned([programs / "initdb", f"--pgdata={data}", f"--username={USER}", *options], directory) as initdb:
            assert initdb.wait(START_SECONDS) == 0, _log(directory)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "port": str(PORT),
            "fsync": "off",
            "max_connections": "100",
            "timezone": "UTC",
        }
        switches = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with _spawned([programs / "postgres", "-D", data, *switches], directory, stop=signal.SIGINT) as server:
            conninfo = make_conninfo(host=str(directory), port=PORT, user=USER, dbname="postgres")
            _until_answering(conninfo, server, directory)
            trio.run(make_template, conninfo)
            yield conninfo


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer. Its `log` holds what its clients got wrong."""

    directory: Path
    address: dict[str, str]

    def to(self, dbname: str) -> str:
        """The conninfo that leads through it to a database of its server."""
        return make_conninfo("", **{**self.address, "dbname": dbname})

    @property
    def log(self) -> str:
        return _log(self.directory)


@contextmanager
def pooler_before(server: str, *, mode: str = "transaction", pool_size: int = 5) -> Iterator[Pooler]:
    """PgBouncer in front of a server that is reached over a Unix socket, listening on loopback, for the block."""
    program = external_program("pgbouncer", package="pgbouncer")
    target = conninfo_to_dict(server)
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = str(probe.getsockname()[1])
    with _private_directory() as directory:
        ini = directory / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\n* = host={target['host']} port={target['port']} user={target['user']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 200\nserver_check_delay = 0\n"
        )
        ini.chmod(0o644)
        address = {"host": "127.0.0.1", "port": port, "user": USER}
        with _spawned([program, ini], directory, stop=signal.SIGINT) as process:
            pooler = Pooler(directory, address)
            _until_answering(pooler.to("postgres"), process, directory)
            yield pooler


@contextmanager
def _private_directory() -> Iterator[Path]:
    """A directory that only the account of the servers may enter: they ask nobody for a password."""
    with tempfile.TemporaryDirectory(prefix="gateway-old-", ignore_cleanup_errors=True) as directory:
        path = Path(directory)
        if os.geteuid() == 0:
            shutil.chown(path, "nobody", "nogroup")
        path.chmod(0o700)
        yield path


@contextmanager
def _spawned(
    command: list[Any], directory: Path, *, stop: signal.Signals = signal.SIGKILL
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that refuses to run as root, ended with the block; its output goes to the log in `directory`."""
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            start_new_session=True,
            **account,
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_answering(conninfo: str, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(conninfo, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it does not answer: {error}\n{_log(directory)}") from error
            time.sleep(0.02)
        else:
            return


def _log(directory: Path) -> str:
    return (directory / "log").read_text(errors="replace")[-4000:]
