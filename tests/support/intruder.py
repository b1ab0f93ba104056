"""Another account of the machine, which tries to connect to a server and to read files.

`intruder.py UID CONNINFO` reads paths from standard input, one a line. It drops to that account after its imports,
because the interpreter may lie where the account cannot go, and prints as JSON what it could read, and whether it could
connect or why not.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

import psycopg


def drop(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def readable(paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        with suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            found.append(path)
    return found


def connected(conninfo: str) -> str:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError as error:
        return str(error)
    return "connected"


if __name__ == "__main__":
    uid, conninfo = sys.argv[1:]
    paths = sys.stdin.read().splitlines()
    drop(int(uid))
    json.dump({"read": readable(paths), "connection": connected(conninfo)}, sys.stdout)
