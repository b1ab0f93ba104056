"""Access rules of the embedded Postgres: which accounts may read a cluster's files and connect to its server.

The files belong to the server's account alone. The server asks the kernel for the account at the other end of its
socket (`peer` authentication). It admits its own account, root and the daemon's account. Both rules are put in force
before every start. So a cluster that an older version left with other rules is converted on the way, and a start that
was killed in the middle is completed by the next one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from gateway.errors import ConfigError
from gateway.postgres.account import name_of
from gateway.postgres.binaries import ServerAccount

HBA_FILE = "pg_hba.conf"
IDENT_FILE = "pg_ident.conf"
_MAP = "gateway"
_WRITTEN = "# Written by the gateway before every start of the server: changes made here are lost.\n"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

log = structlog.get_logger()


def hand_over(data: Path, account: ServerAccount) -> None:
    """Give every file of the cluster to `account`. Only root can do that: for other users this does nothing.

    The directory itself changes its owner last. As long as it belongs to another account, the next start does the work
    again. Raises ConfigError for a file that is not part of a cluster.
    """
    with _open_directory(data) as top:
        if os.geteuid() != 0 or os.fstat(top).st_uid == account.uid:
            return
        log.info("cluster_handed_over", data=str(data), from_uid=os.fstat(top).st_uid, to_uid=account.uid)
        _give_contents(top, account, data)
        _give(top, account, 0o700)


def restrict_connections(data: Path, database_user: str, server: ServerAccount, uids: Iterable[int]) -> None:
    """Write the server's access rules: only the accounts `uids` may connect, over the socket, as `database_user`.

    An account without a name on this machine is left out, because the server could not recognise it either.
    """
    names = sorted({name for uid in uids if (name := name_of(uid)) is not None})
    users = "".join(f"{_MAP} {_quoted(name)} {_quoted(database_user)}\n" for name in names)
    rules = "".join(f"local {what} all peer map={_MAP}\n" for what in ("all", "replication"))
    with _open_directory(data) as top:
        # The map is written first. If this is interrupted, the old rules do not refer to the new map, so they admit the
        # same accounts as before and never more.
        _replace(top, IDENT_FILE, _WRITTEN + users, server)
        _replace(top, HBA_FILE, _WRITTEN + rules, server)


def make_private(directory: Path, account: ServerAccount) -> None:
    """Create `directory`, or use the existing one, and restrict it to `account`."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    with _open_directory(directory) as descriptor:
        os.fchmod(descriptor, 0o700)
        if os.geteuid() == 0:
            os.fchown(descriptor, account.uid, account.gid)


@contextmanager
def _open_directory(path: Path | str, *, within: int | None = None) -> Iterator[int]:
    # An ordinary user may keep the cluster elsewhere and put a symbolic link here. Root works in directories of other
    # accounts, who could place a link to trick it, so for root no link is followed.
    careful = os.O_NOFOLLOW if os.geteuid() == 0 or within is not None else 0
    descriptor = os.open(path, _DIRECTORY | careful, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _give_contents(directory: int, account: ServerAccount, shown: Path) -> None:
    """Give everything below an open directory to `account`.

    Root does this among files that another account can move meanwhile. So every step acts on a descriptor and follows
    no symbolic link. A file with a second hard link is refused, because that other name may be anywhere.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            path = shown / entry.name
            if entry.is_symlink():
                os.chown(entry.name, account.uid, account.gid, dir_fd=directory, follow_symlinks=False)
            elif entry.is_dir(follow_symlinks=False):
                with _open_directory(entry.name, within=directory) as below:
                    _give_contents(below, account, path)
                    _give(below, account, 0o700)
            else:
                _give_file(directory, entry.name, account, path)


def _give_file(directory: int, name: str, account: ServerAccount, shown: Path) -> None:
    # Without O_NONBLOCK, opening a named pipe would block until its other end is opened.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise ConfigError(
                f"{shown} is not a plain file with one name: it is none of Postgres's, so the cluster cannot be handed"
                " over to another account; move it away"
            )
        _give(descriptor, account, 0o600)
    finally:
        os.close(descriptor)


def _give(descriptor: int, account: ServerAccount, mode: int) -> None:
    os.fchmod(descriptor, mode)
    os.fchown(descriptor, account.uid, account.gid)


def _replace(directory: int, name: str, text: str, account: ServerAccount) -> None:
    """Write `text` to the file `name` atomically. A symbolic link of that name is replaced and not followed."""
    draft = f"{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600, dir_fd=directory), "w", encoding="utf-8") as file:
        file.write(text)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), account.uid, account.gid)
    os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)


def _quoted(name: str) -> str:
    """Quote a name for these files. In quotes, blanks are part of it, and `all` and `+` have no special meaning."""
    return '"' + name.replace('"', '""') + '"'
