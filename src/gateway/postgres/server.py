"""One embedded Postgres server: creates, starts, restarts and stops it.

If root starts it, it runs as another account. It gets its directories as open descriptors (/proc/self/fd/N), so it
needs neither access to the directories above them nor any capability.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psycopg
import structlog
import trio
from psycopg.conninfo import make_conninfo

from gateway.concurrency import finishing
from gateway.errors import ConfigError, StoreUnavailable
from gateway.postgres.access import HBA_FILE, IDENT_FILE, hand_over, make_private, restrict_connections
from gateway.postgres.account import require_name
from gateway.postgres.binaries import POSTGRES_MAJOR, executable_by
from gateway.postgres.driver import TrioConnection
from gateway.postgres.layout import Layout, ServerPlace, opened

# Generous, because after a crash the server first replays its write-ahead log.
START_TIMEOUT_SECONDS = 120.0
FAST_STOP_SECONDS = 5.0
IMMEDIATE_STOP_SECONDS = 2.0
RESTART_DELAY_SECONDS = 1.0

_POLL_SECONDS = 0.01
_WATCH_SECONDS = 0.5
_LOG_BYTES_MAX = 1 << 20
_SOCKET_NAME = ".s.PGSQL.5432"
# The path in a sockaddr_un has 108 bytes, and the last of them is a NUL.
_SOCKET_PATH_BYTES_MAX = 107
_NAME = "gateway"
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


@asynccontextmanager
async def open_server(layout: Layout, *, durable: bool, connections_max: int) -> AsyncIterator[str]:
    """Yield the conninfo of a running server, and restart it if it ends by itself. The caller owns the directory.

    The server is stopped at the end of the block. Raises ConfigError when the directory cannot be used, and
    StoreUnavailable when the server does not come up.
    """
    with _setting_up(layout):
        server = await _prepare_server(layout, _settings(durable=durable, connections_max=connections_max))
        server.start()
    try:
        await server.until_ready()
        # Commands read this record to find the server, so it is written only once the server is ready.
        _record_socket(layout, server.socket_dir)
        async with _kept_running(server):
            yield conninfo_of(server.socket_dir)
    finally:
        await server.stop()
        _remove_socket_dir(layout, server.socket_dir)


@contextmanager
def _setting_up(layout: Layout) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"the embedded Postgres cannot be set up under {layout.root}: {error}") from error


async def _prepare_server(layout: Layout, settings: dict[str, str]) -> _Server:
    programs = executable_by(layout.server, layout.root)
    await _stop_remains(layout)
    with suppress(FileNotFoundError):
        _remove_socket_dir(layout, Path(layout.socket_record.read_text()))
    await _create_cluster(programs, layout, durable=settings["fsync"] == "on")
    hand_over(layout.data, layout.server)
    trusted = {0, os.geteuid(), layout.server.uid, layout.owner.uid}
    restrict_connections(layout.data, _NAME, layout.server, trusted)
    return _Server(layout, programs, settings, _make_socket_dir(layout))


class _Server:
    """The running postmaster process. It is replaced by a new process after each restart."""

    def __init__(self, layout: Layout, programs: Path, settings: dict[str, str], socket_dir: Path) -> None:
        self._layout = layout
        self._programs = programs
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self.socket_dir = socket_dir

    @property
    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        layout = self._layout
        with _visible_to_server(layout, layout.data, self.socket_dir) as ((data, socket), descriptors):
            arguments = [str(self._programs / "postgres"), "-D", data]
            rules = {"hba_file": f"{data}/{HBA_FILE}", "ident_file": f"{data}/{IDENT_FILE}"}
            for name, value in {**self._settings, **rules, "unix_socket_directories": _quoted(socket)}.items():
                arguments += ["-c", f"{name}={value}"]
            self._process = _spawn(arguments, layout, descriptors)

    async def until_ready(self) -> None:
        """Wait until the server answers, and create the gateway's database if it is missing.

        Raises StoreUnavailable when the server ends or the time is up.
        """
        with trio.move_on_after(START_TIMEOUT_SECONDS):
            while not self._has_ended:
                try:
                    await _create_database(conninfo_of(self.socket_dir, dbname="postgres"))
                except psycopg.OperationalError:
                    # The server is not listening yet, or is still recovering. If it never gets ready, the loop ends
                    # with the process or with the time limit.
                    await trio.sleep(_POLL_SECONDS)
                else:
                    log.info("postgres_started", pid=self._process and self._process.pid, data=str(self._layout.data))
                    return
        raise StoreUnavailable(f"the embedded Postgres did not start: {_log_tail(self._layout)}")

    async def run_watch(self) -> None:
        """Restart the server whenever it ends by itself (killed for its memory, for example), until cancelled."""
        while True:
            await until(lambda: self._has_ended, math.inf, poll_seconds=_WATCH_SECONDS)
            log.error("postgres_ended_by_itself", status=self._process and self._process.returncode)
            try:
                await _stop_remains(self._layout)
                _remove_socket(self.socket_dir)
                self.start()
                await self.until_ready()
            except (StoreUnavailable, OSError) as error:
                log.warning("postgres_restart_failed", error=str(error))
                await trio.sleep(RESTART_DELAY_SECONDS)

    async def stop(self) -> None:
        """Stop the server: it disconnects all clients and writes a checkpoint (SIGINT).

        If that takes too long, it is stopped without a checkpoint (SIGQUIT, then SIGKILL), and the next start recovers.
        """
        process = self._process
        if process is None or process.poll() is not None:
            return
        with finishing(FAST_STOP_SECONDS + IMMEDIATE_STOP_SECONDS + 1):
            for stop, seconds in (signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS):
                process.send_signal(stop)
                if await until(lambda: process.poll() is not None, seconds):
                    break
        if process.poll() is None:
            process.kill()
            process.wait()
        log.info("postgres_stopped", status=process.returncode)


@asynccontextmanager
async def _kept_running(server: _Server) -> AsyncIterator[None]:
    """Watch the server during the block. An exception of the block is raised as it is, not inside a group."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run_watch)
            try:
                yield
            except BaseException as error:
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        if failure is not None:
            raise failure


def conninfo_of(socket_dir: Path | str, dbname: str = _NAME) -> str:
    return make_conninfo(host=str(socket_dir), port=5432, user=_NAME, dbname=dbname)


def _settings(*, durable: bool, connections_max: int) -> dict[str, str]:
    settings = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": str(connections_max),
        "shared_buffers": "128MB",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # The server's log is for its own health. Failed statements are reported by this program, and the rows in the
        # server's error details may contain data that must not be logged.
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_checkpoints": "off",
        "logging_collector": "off",
    }
    if not durable:
        # Committed data still survives the death of every process, but not a crash of the machine.
        settings |= {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
    return settings


def recorded_conninfo(place: ServerPlace) -> str | None:
    """Return the conninfo of the server that last recorded its socket. That server may have ended. None without one."""
    try:
        socket_dir = place.socket_record.read_text()
    except FileNotFoundError:
        return None
    return conninfo_of(socket_dir) if socket_dir else None


async def until(condition: Callable[[], bool], seconds: float, *, poll_seconds: float = _POLL_SECONDS) -> bool:
    """Poll `condition` for at most `seconds`. Returns True if it came true."""
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110 (other processes set no events)
            await trio.sleep(poll_seconds)
        return True
    return condition()


async def _create_cluster(programs: Path, layout: Layout, *, durable: bool) -> None:
    """Run initdb in a temporary directory and rename it when complete.

    If initdb is killed, it leaves nothing that looks like a cluster. Raises ConfigError for a cluster of another major
    version, and StoreUnavailable when initdb fails.
    """
    version_file = layout.data / "PG_VERSION"
    if layout.data.is_dir():
        found = version_file.read_text().strip() if version_file.is_file() else "unknown"
        if found != POSTGRES_MAJOR:
            raise ConfigError(f"{layout.data} is of Postgres {found}, not {POSTGRES_MAJOR}: move it away")
        return
    require_name(layout.server)
    partial = layout.root / "data.new"
    shutil.rmtree(partial, ignore_errors=True)
    make_private(partial, layout.server)
    process = _spawn_initdb(programs, layout, partial, [] if durable else ["--no-sync"])
    try:
        await until(lambda: process.poll() is not None, START_TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise StoreUnavailable(f"initdb failed: {_log_tail(layout)}")
    partial.rename(layout.data)


def _spawn_initdb(programs: Path, layout: Layout, directory: Path, extra: list[str]) -> subprocess.Popen[str]:
    with _visible_to_server(layout, directory) as ((data,), descriptors):
        arguments = [f"--pgdata={data}", f"--username={_NAME}", "--auth=peer", "--no-instructions", "--encoding=UTF8"]
        collation = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return _spawn([str(programs / "initdb"), *arguments, *collation, *extra], layout, descriptors)


def _quoted(directory: str) -> str:
    """Quote a directory for a setting that is a list, in which commas and blanks have a meaning."""
    return '"' + directory.replace('"', '""') + '"'


@contextmanager
def _visible_to_server(layout: Layout, *directories: Path) -> Iterator[tuple[list[str], list[int]]]:
    """Yield the paths by which the server reaches `directories`, and the descriptors that it must inherit for them.

    A path through /proc/self/fd leads straight to the directory. The server needs no access to the directories above
    it, and their path may be of any length.
    """
    if not (layout.drops_privileges and sys.platform == "linux"):
        yield [str(each) for each in directories], []
        return
    descriptors = [os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) for each in directories]
    try:
        yield [f"/proc/self/fd/{each}" for each in descriptors], descriptors
    finally:
        for each in descriptors:
            os.close(each)


def _spawn(arguments: list[str], layout: Layout, descriptors: list[int]) -> subprocess.Popen[str]:
    """Start a program as the server's account.

    It is started from this thread and not through trio, because the kernel's parent-death signal is tied to the thread
    that forked.
    """
    account = layout.server
    drop: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []}
    with _log_file(layout) as output:
        return subprocess.Popen(  # noqa: S603 (our own arguments)
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            cwd="/",
            # In its own session the server does not get Ctrl-C of the terminal. This process gets it, and then stops
            # the server in order.
            start_new_session=True,
            # This process's environment is not passed on: it may hold secrets, and PG* variables that change what the
            # programs do.
            env={"PATH": os.defpath, "LC_ALL": "C"},
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 (a system call or two, nothing that takes a lock)
            **(drop if layout.drops_privileges else {}),
        )


def _die_with_parent() -> Callable[[], None] | None:
    """Return a function for the child to run between fork and exec, so that it ends with this process (Linux only).

    It must run after the change of account, because that change would clear the parent-death signal.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        # If the parent died before the prctl, no signal will come.
        if os.getppid() != parent:
            os._exit(1)

    return arrange


@contextmanager
def _log_file(layout: Layout) -> Iterator[IO[str]]:
    path = layout.root / "postgres.log"
    if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    with opened(layout, path.name, os.O_APPEND) as file:
        yield file


async def _create_database(conninfo: str) -> None:
    async with await TrioConnection.connect(conninfo) as connection:
        found = await connection.execute("select from pg_database where datname = %s", (_NAME,))
        if not found.rowcount:
            await connection.execute(f"create database {_NAME}")


def _log_tail(layout: Layout) -> str:
    path = layout.root / "postgres.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return f"{' | '.join(lines[-5:])} (see {path})"


async def _stop_remains(layout: Layout) -> None:
    """Stop processes of this cluster that outlived their daemon, then remove postmaster.pid (Linux only).

    Process ids are reused: the one in postmaster.pid may belong to any process by now, and Postgres would refuse to
    start because of it. Only a process that executes postgres inside this very directory is signalled. Raises
    StoreUnavailable when such a process does not stop.
    """
    for name, seconds in (
        (signal.SIGINT, FAST_STOP_SECONDS),
        (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS),
        (signal.SIGKILL, 2),
    ):
        remains = _server_processes(layout.data)
        if not remains:
            break
        log.warning("postgres_orphan_found", pids=remains, signal=name.name)
        postmaster = _recorded_postmaster(layout)
        for pid in [postmaster] if postmaster in remains and name != signal.SIGKILL else remains:
            with suppress(ProcessLookupError):
                os.kill(pid, name)
        await until(lambda: not _server_processes(layout.data), seconds)
    if _server_processes(layout.data):
        raise StoreUnavailable(f"an earlier Postgres on {layout.data} does not stop")
    if sys.platform == "linux":
        (layout.data / "postmaster.pid").unlink(missing_ok=True)


def _recorded_postmaster(layout: Layout) -> int:
    try:
        return int((layout.data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return 0


def _server_processes(data: Path) -> list[int]:
    """List the processes that execute postgres with `data` as their working directory. Empty outside Linux."""
    try:
        wanted = data.stat()
    except FileNotFoundError:
        return []
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_server(entry, wanted)]


def _is_server(process: Path, data: os.stat_result) -> bool:
    try:
        if not os.path.samestat((process / "cwd").stat(), data):
            return False
        return (process / "exe").readlink().name.removesuffix(" (deleted)") == "postgres"
    except OSError:
        # The process ended meanwhile, or belongs to another account.
        return False


def _make_socket_dir(layout: Layout) -> Path:
    """Create a directory of mode 0700 for the socket, under the state directory unless that path cannot be used.

    A path that is too long for a socket cannot be used. Neither can one with a comma, which libpq reads as the start of
    another host name.
    """
    directory = layout.root / "run"
    if len(os.fsencode(directory / _SOCKET_NAME)) > _SOCKET_PATH_BYTES_MAX or "," in str(directory):
        directory = Path(tempfile.mkdtemp(prefix="gateway-", dir=_short_parent()))
    make_private(directory, layout.server)
    return directory


def _short_parent() -> str:
    place = tempfile.gettempdir()
    return place if len(os.fsencode(place)) < _SOCKET_PATH_BYTES_MAX // 2 else "/tmp"  # noqa: S108 (mkdtemp follows)


def _record_socket(layout: Layout, directory: Path) -> None:
    with opened(layout, layout.socket_record.name, os.O_TRUNC) as file:
        file.write(str(directory))


def _remove_socket_dir(layout: Layout, directory: Path) -> None:
    _remove_socket(directory)
    with suppress(OSError):
        directory.rmdir()
    layout.socket_record.unlink(missing_ok=True)


def _remove_socket(directory: Path) -> None:
    for name in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
        (directory / name).unlink(missing_ok=True)
