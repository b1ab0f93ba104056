"""The files of an embedded server, and the account that it runs as."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway.errors import ConfigError
from gateway.postgres.binaries import ServerAccount


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """The directory with the files of one embedded server. `owner` is the owner of the state directory."""

    root: Path
    owner: ServerAccount

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def socket_record(self) -> Path:
        return self.root / "socket"


@dataclass(frozen=True, slots=True)
class Layout(ServerPlace):
    """A place, with the account that its server runs as. It differs from the owner when the owner is root."""

    server: ServerAccount

    @property
    def drops_privileges(self) -> bool:
        return self.server.uid != os.geteuid()


def prepare(state_dir: Path) -> ServerPlace:
    """Create the directories. Raises ConfigError when they cannot be created or used."""
    state_dir = state_dir.absolute()
    root = state_dir / "postgres"
    try:
        # Mode 0711: other accounts may pass through but not list the directory. The server of a root daemon runs as
        # such an account.
        state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        owner = _owner_of(state_dir)
        root.mkdir(mode=0o711, exist_ok=True)
        give(root, owner)
    except OSError as error:
        raise ConfigError(f"state_dir {state_dir} cannot be used: {error.strerror}") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise ConfigError(f"state_dir {state_dir} cannot be used: {root} belongs to uid {root.stat().st_uid}")
    return ServerPlace(root, owner)


def _owner_of(path: Path) -> ServerAccount:
    entry = path.stat()
    return ServerAccount(entry.st_uid, entry.st_gid)


def give(path: Path, account: ServerAccount) -> None:
    """Make `account` the owner of `path`. Does nothing unless root runs this, and follows no link."""
    if os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


@contextmanager
def opened(place: ServerPlace, name: str, flags: int = 0) -> Iterator[IO[str]]:
    """Open a file of the place for reading and writing, created with mode 0600 if missing. Closed with the block.

    Raises ConfigError when it cannot be opened.
    """
    path = place.root / name
    try:
        # O_NOFOLLOW: root may be working in a directory of a less trusted account, which could place a link here.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as file:
        give(path, place.owner)
        yield file
