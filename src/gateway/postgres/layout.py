"""The files of an embedded server, and the account it runs as."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway.errors import ConfigError
from gateway.postgres.binaries import Account

ACCOUNT_NAMES = ("gateway", "nobody")


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one embedded server. `owner` is whose they are; the server's own may differ when that is root."""

    root: Path
    owner: Account
    server: Account

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def socket_record(self) -> Path:
        return self.root / "socket"

    @property
    def drops_privileges(self) -> bool:
        return self.server.uid != os.geteuid()


def prepare(state_dir: Path) -> Layout:
    state_dir = state_dir.absolute()
    root = state_dir / "postgres"
    try:
        # Others may pass through but not look around: the server of a root daemon is one of those others.
        state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        owner = _owner_of(state_dir)
        root.mkdir(mode=0o711, exist_ok=True)
        give(root, owner)
    except OSError as error:
        raise ConfigError(f"state_dir {state_dir} cannot be used: {error.strerror}") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise ConfigError(f"state_dir {state_dir} cannot be used: {root} belongs to uid {root.stat().st_uid}")
    return Layout(root, owner, _server_account(root / "data", owner))


def _owner_of(path: Path) -> Account:
    entry = path.stat()
    return Account(entry.st_uid, entry.st_gid)


def _server_account(data: Path, owner: Account) -> Account:
    """Us, unless we are root, which Postgres refuses: then whose the cluster or the state directory is, else nobody."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    if data.is_dir():
        owner = _owner_of(data)
    if owner.uid != 0:
        return owner
    for name in ACCOUNT_NAMES:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigError(
        f"Postgres does not run as root, and there is no account {' or '.join(ACCOUNT_NAMES)} to run it as"
    )


def give(path: Path, account: Account) -> None:
    if os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


@contextmanager
def opened(layout: Layout, name: str, flags: int = 0) -> Iterator[IO[str]]:
    path = layout.root / name
    try:
        # Never through a link: root may be working in a directory that belongs to a less trusted account.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as file:
        give(path, layout.owner)
        yield file
