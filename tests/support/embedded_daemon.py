"""A process that opens the embedded database, prints its conninfo, and closes it when its standard input ends.

`embedded_daemon.py STATE_DIR serve|attach [--uid N] [--immortal] [--killed-after N]`: `--uid` drops to that account
first, after the imports, because the interpreter may lie where the account cannot go. `--immortal` lets the server
outlive us. `--killed-after` is how many files are handed over to another account before we are killed.
"""

from __future__ import annotations

import os
import signal
import socket  # noqa: F401  (imported lazily by others, see above)
import sys
from contextlib import suppress

import trio

from gateway.errors import GatewayError
from gateway.postgres import embedded, server


async def main(state_dir: str, role: str) -> None:
    # What a killed process wrote is in the kernel's hands: fsync would only matter if the machine died as well.
    async with embedded.open_embedded(state_dir, attach=role == "attach", durable=False) as conninfo:
        print(conninfo, flush=True)
        await trio.lowlevel.wait_readable(0)


def be_killed_after(count: int) -> None:
    change_owner = os.fchown
    left = iter(range(count))

    def change_owner_or_die(fd: int, uid: int, gid: int) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        change_owner(fd, uid, gid)

    os.fchown = change_owner_or_die


def drop(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


if __name__ == "__main__":
    state_dir, role, *options = sys.argv[1:]
    if "--immortal" in options:
        server._die_with_parent = lambda: None
    if "--killed-after" in options:
        be_killed_after(int(options[options.index("--killed-after") + 1]))
    if "--uid" in options:
        drop(int(options[options.index("--uid") + 1]))
    with suppress(KeyboardInterrupt):
        try:
            trio.run(main, state_dir, role)
        except GatewayError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            sys.exit(1)
