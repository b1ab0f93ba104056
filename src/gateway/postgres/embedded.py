"""The embedded database: Postgres binaries from a wheel, run by the gateway under the state directory.

Under `<state_dir>/postgres` are `data` (the cluster), `run` (the socket), `lock` (names the owner of the server),
`users` (locked by the commands that use the server), `socket` (names the path of the socket) and `postgres.log`. No TCP
port is opened. Only the account of the server, the account of the daemon and root may connect: only they can enter the
socket's directory, and the server asks the kernel for their identity (gateway.postgres.access).

The owner of the server is the process that holds the lock on `lock`. The kernel releases the lock when that process
ends, however it ends. The kernel also stops the server then. A server that outlived its daemon all the same is stopped
by the next start.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import psycopg
import trio

from gateway.errors import ConfigError, StoreUnavailable
from gateway.postgres.account import server_account
from gateway.postgres.driver import TrioConnection
from gateway.postgres.layout import Layout, ServerPlace, opened, prepare
from gateway.postgres.server import open_server, recorded_conninfo, until

CONNECTIONS_MAX = 50
ATTACH_TIMEOUT_SECONDS = 30.0
# The time that `serve` waits for a command that happens to own the server.
COMMAND_WAIT_SECONDS = 10.0
# The time that a command which owns the server waits for other commands that use it, before it stops the server.
OTHER_USERS_WAIT_SECONDS = 300.0


@asynccontextmanager
async def open_embedded(
    state_dir: Path | str,
    *,
    attach: bool = False,
    durable: bool = True,
    connections_max: int = CONNECTIONS_MAX,
    database_user: str | None = None,
) -> AsyncIterator[str]:
    """Yield the conninfo of the database under `state_dir`, which is created when absent.

    `attach=False` is for the daemon: it owns the server, which ends with the block or with the process. `attach=True`
    is for a command: it uses a running server, or else starts one for the duration of the block. With `durable=False`
    (tests), committed data survives killed processes but not a power cut. A server started by root runs as
    `database_user` (gateway.postgres.account).

    Raises ConfigError when another daemon owns the directory, or when the directory or the account cannot be used.
    Raises StoreUnavailable when the server does not come up. Cancellation stops a server that this call started, within
    7 s.
    """
    place = prepare(Path(state_dir))
    with opened(place, "lock") as lock, opened(place, "users") as users:
        if not attach:
            await _lock_for_daemon(place, lock)
        elif running := await _lock_or_attach(place, lock, users):
            yield running
            return
        _write_owner(lock, "command" if attach else "serve")
        layout = Layout(place.root, place.owner, await server_account(place.owner, database_user))
        async with open_server(layout, durable=durable, connections_max=connections_max) as conninfo:
            yield conninfo
            if attach:
                await until(lambda: _try_lock(users, fcntl.LOCK_EX), OTHER_USERS_WAIT_SECONDS)


def _try_lock(file: IO[str], mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_owner(file: IO[str], role: str) -> None:
    file.seek(0)
    file.truncate()
    json.dump({"pid": os.getpid(), "role": role}, file)
    file.flush()


def _read_owner(file: IO[str]) -> dict[str, Any]:
    """Return what the holder of the lock wrote; empty in the moment between its taking the lock and its writing."""
    file.seek(0)
    try:
        return dict(json.load(file))
    except ValueError:
        return {}


async def _lock_for_daemon(place: ServerPlace, lock: IO[str]) -> None:
    """Take the lock as the daemon. Waits for a command that owns the server, but not for another daemon.

    Raises ConfigError when the lock stays taken.
    """

    def settled() -> bool:
        return _try_lock(lock, fcntl.LOCK_EX) or _read_owner(lock).get("role") == "serve"

    await until(settled, COMMAND_WAIT_SECONDS)
    if not _try_lock(lock, fcntl.LOCK_EX):
        pid = _read_owner(lock).get("pid", "unknown")
        raise ConfigError(
            f"state_dir {place.root.parent} is in use by process {pid}: stop it, or give this one another state_dir"
        )


async def _lock_or_attach(place: ServerPlace, lock: IO[str], users: IO[str]) -> str | None:
    """Return the conninfo of the running server, or None when there was none and this process now holds the lock.

    The shared lock on `users` is taken before the server is used, because a command that is about to stop its server
    holds it exclusively. Raises StoreUnavailable when the lock is taken but the server does not answer.
    """
    with trio.move_on_after(ATTACH_TIMEOUT_SECONDS):
        while not _try_lock(lock, fcntl.LOCK_EX):
            if _try_lock(users, fcntl.LOCK_SH):
                if (conninfo := recorded_conninfo(place)) and await _answers(conninfo):
                    return conninfo
                fcntl.flock(users, fcntl.LOCK_UN)
            await trio.sleep(0.05)
        return None
    pid = _read_owner(lock).get("pid", "unknown")
    raise StoreUnavailable(f"process {pid} owns the database under {place.root}, but the server does not answer")


async def _answers(conninfo: str) -> bool:
    try:
        async with await TrioConnection.connect(conninfo):
            return True
    except psycopg.OperationalError:
        return False
